"""Random crops, flips and cutouts of whole batches, computed on the device that holds them.

The random numbers of an epoch are drawn before its first batch, one row per image in the epoch's
order, and depend only on the seed and the epoch. A resumed run, and every process of a distributed
run, therefore augments an image in the same way.
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
    flipped: Tensor  # bool: whether the image is mirrored left to right
    row: Tensor  # int64: the pixel at the centre of the cutout, after crop and flip
    column: Tensor  # int64

    def part(self, positions: slice) -> "Draws":
        """Return the random numbers of the images at these positions."""
        return Draws(*(numbers[positions] for numbers in self))

    def to(self, device: torch.device) -> "Draws":
        """Return the same numbers on another device."""
        return Draws(*(numbers.to(device) for numbers in self))


@dataclass(frozen=True)
class Augment:
    """How training images are augmented, batch by batch."""

    crop: int = 0  # pixels of black padding, from which a window of the image's size is cut
    flip: bool = False  # mirror half of the images left to right
    # Side in pixels of a square that is set to zero, the mean colour, after normalisation. Its
    # centre may be any pixel, so the square may reach over the border.
    cutout: int = 0

    def draw(self, count: int, height: int, width: int, seed: int, epoch: int) -> Draws:
        """Draw the random numbers of an epoch for ``count`` images of ``height`` x ``width``."""
        # Each kind has its own generator: switching one off does not change the others.
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
"""No augmentation."""


def random_numbers(seed: int, epoch: int, purpose: str) -> torch.Generator:
    """Return a CPU generator that depends on these three arguments only."""
    # torch's CPU generator keeps 32 bits of a seed; a hash spreads neighbouring epochs over them.
    digest = hashlib.sha256(f"{purpose}/{seed}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


def crop_and_flip(images: Tensor, draws: Draws, crop: int) -> Tensor:
    """Cut a random window out of each image (B, C, H, W), padded by ``crop`` zeros; mirror some.

    The result has the images' shape and dtype, in memory format channels_last.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, crop, crop, crop, crop))
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    mirrored = torch.where(draws.flipped[:, None], columns.flip(0), columns)
    # One flat gather of pixels is several times as fast as indexing each axis.
    first = torch.arange(batch, device=images.device) * padded.shape[1] + draws.top
    lines = (first[:, None] + rows) * padded.shape[2] + draws.left[:, None]
    pixels = lines[:, :, None] + mirrored[:, None, :]
    windows = padded.reshape(-1, channels).index_select(0, pixels.view(-1))
    return windows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def cut_out(images: Tensor, draws: Draws, size: int) -> Tensor:
    """Return images (B, C, H, W) in each of which a square, ``size`` pixels wide, is set to zero.

    The result has the images' shape and dtype, in memory format channels_last.
    """
    batch, channels, height, width = images.shape
    square = torch.arange(size, device=images.device) - size // 2
    # Positions beyond the border are moved onto it, where the square lies anyway.
    rows = (draws.row[:, None] + square).clamp_(0, height - 1)
    columns = (draws.column[:, None] + square).clamp_(0, width - 1)
    first = torch.arange(batch, device=images.device)[:, None] * height
    pixels = ((first + rows) * width)[:, :, None] + columns[:, None, :]
    spread = images.permute(0, 2, 3, 1).reshape(-1, channels)
    filled = spread.index_fill(0, pixels.view(-1), 0).view(batch, height, width, channels)
    return filled.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


class Normalise:
    """Computes (x / 255 - mean) / std per channel, in float32.

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
        # Values of a whole line of pixels: a last axis of three is too short for vector
        # instructions. Made once, not per batch: a copy to a GPU waits for its pending work.
        self._centre = torch.tensor([255 * value for value in mean] * width, device=device)
        self._scale = torch.tensor([1 / (255 * value) for value in std] * width, device=device)
        self._dtype = dtype

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise uint8 (B, C, H, W), fastest in channels_last; the result is channels_last."""
        batch, channels, height, width = images.shape
        lines = images.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
        values = lines.float().sub_(self._centre).mul_(self._scale).to(self._dtype)
        return values.view(batch, height, width, channels).permute(0, 3, 1, 2)
