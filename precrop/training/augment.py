"""Random crops, flips and cutouts of whole batches, on the device that holds them.

The random numbers of an epoch are drawn before its first batch, one row for every image in the
epoch's order, from nothing but the seed and the epoch. A resumed run and every process of a
distributed one therefore see the same images.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Draws(NamedTuple):
    """The random numbers of N images, each tensor of shape (N,)."""

    top: Tensor  # int64: first row of the window in the padded image, 0 to 2 * crop
    left: Tensor  # int64: its first column
    flipped: Tensor  # bool: whether left and right change places
    row: Tensor  # int64: the pixel at the centre of the cutout, after crop and flip
    column: Tensor  # int64

    def part(self, positions: slice) -> "Draws":
        """Those of some of the images."""
        return Draws(*(numbers[positions] for numbers in self))

    def to(self, device: torch.device) -> "Draws":
        """The same numbers on another device."""
        return Draws(*(numbers.to(device) for numbers in self))


@dataclass(frozen=True)
class Augment:
    """What is done to training images, batch by batch."""

    crop: int = 0  # pixels of black put around an image before a window of its size is cut out
    flip: bool = False  # left and right change places in half of the images
    # Side in pixels of a square that becomes zero, the mean colour, after normalisation; its centre
    # is any pixel, so that it may reach over the border.
    cutout: int = 0

    def draw(self, count: int, height: int, width: int, seed: int, epoch: int) -> Draws:
        """The random numbers of an epoch of ``count`` images of ``height`` x ``width`` pixels."""
        # Every kind has numbers of its own: switching one off leaves the others as they were.
        crops = random_numbers(seed, epoch, "crop")
        cutouts = random_numbers(seed, epoch, "cutout")
        shifts = 2 * self.crop + 1
        flips = torch.randint(2, (count,), generator=random_numbers(seed, epoch, "flip"))
        return Draws(
            top=torch.randint(shifts, (count,), generator=crops),
            left=torch.randint(shifts, (count,), generator=crops),
            flipped=flips.bool() if self.flip else torch.zeros(count, dtype=torch.bool),
            row=torch.randint(height, (count,), generator=cutouts),
            column=torch.randint(width, (count,), generator=cutouts),
        )


PLAIN = Augment()
"""Nothing is done to the images."""


def random_numbers(seed: int, epoch: int, purpose: str) -> torch.Generator:
    """A CPU generator that depends on its three arguments and on nothing else."""
    # torch's CPU generator keeps 32 bits of a seed; a hash spreads neighbouring epochs over them.
    digest = hashlib.sha256(f"{purpose}/{seed}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


def crop_and_flip(images: Tensor, draws: Draws, crop: int) -> Tensor:
    """Random windows of images (B, C, H, W) with ``crop`` zeros around them, some mirrored.

    The result has the images' shape and dtype, in memory format channels_last.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, crop, crop, crop, crop))
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    mirrored = torch.where(draws.flipped[:, None], columns.flip(0), columns)
    # One flat gather of pixels: several times as fast as an index for each axis.
    first = torch.arange(batch, device=images.device) * padded.shape[1] + draws.top
    lines = (first[:, None] + rows) * padded.shape[2] + draws.left[:, None]
    pixels = lines[:, :, None] + mirrored[:, None, :]
    windows = padded.reshape(-1, channels).index_select(0, pixels.view(-1))
    return windows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def cut_out(images: Tensor, draws: Draws, size: int) -> Tensor:
    """Images (B, C, H, W) with a square of zeros in each, ``size`` pixels wide.

    The result has the images' shape and dtype, in memory format channels_last.
    """
    batch, channels, height, width = images.shape
    square = torch.arange(size, device=images.device) - size // 2
    # What reaches over the border falls on it, where the square is anyway.
    rows = (draws.row[:, None] + square).clamp_(0, height - 1)
    columns = (draws.column[:, None] + square).clamp_(0, width - 1)
    first = torch.arange(batch, device=images.device)[:, None] * height
    pixels = ((first + rows) * width)[:, :, None] + columns[:, None, :]
    spread = images.permute(0, 2, 3, 1).reshape(-1, channels)
    filled = spread.index_fill(0, pixels.view(-1), 0).view(batch, height, width, channels)
    return filled.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


class Normalise:
    """(x / 255 - mean) / std for every channel, computed in float32.

    ``mean`` and ``std`` are on the scale 0 to 1; ``width`` is the images', ``dtype`` the result's.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        width: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        # A whole line of pixels: a last axis of three is too short for vector instructions. Made
        # once and not for each batch, because a copy to a GPU waits for all that it has to do.
        self._centre = torch.tensor([255 * value for value in mean] * width, device=device)
        self._scale = torch.tensor([1 / (255 * value) for value in std] * width, device=device)
        self._dtype = dtype

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W), fastest in channels_last, to the same shape in channels_last."""
        batch, channels, height, width = images.shape
        lines = images.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
        values = lines.float().sub_(self._centre).mul_(self._scale).to(self._dtype)
        return values.view(batch, height, width, channels).permute(0, 3, 1, 2)
