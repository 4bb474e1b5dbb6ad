"""Data sets of labelled images.

If all images have one size and fit in memory, each split becomes one uint8 tensor, which is moved
to the training device and augmented there, batch by batch. Otherwise worker processes decode, crop
and resize the images one at a time.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from precrop.errors import PrecropError, needs
from precrop.training.recipes import LARGEST_SIDE
from precrop.training.sources.finding import find
from precrop.training.sources.source import Source, Split

HELD_BYTES = 1_500_000_000  # most bytes of decoded images to hold; others are decoded as used
DECODED_SIZE = 224  # pixels a side of images that are decoded as used, unless another size is given
# Statistics of ImageNet's training images, as usual for networks that see photographs.
PHOTOGRAPH_MEAN = (0.485, 0.456, 0.406)
PHOTOGRAPH_STD = (0.229, 0.224, 0.225)
_DECODED_TOGETHER = 256  # images that one thread decodes at a time
_THREADS = 4  # at most: decoding a small image mostly holds Python's global lock


@dataclass(frozen=True, eq=False)
class Images:
    """A split held in memory."""

    images: Tensor  # uint8 (N, C, H, W); channels_last is fastest
    labels: Tensor  # int64 (N,)

    def __len__(self) -> int:
        return len(self.labels)


class Decoded(Dataset[tuple[Tensor, int]]):
    """A split whose images are decoded, cropped and resized to ``size`` pixels one at a time.

    With ``random`` the crop has a random place, size and shape, and half of the images are mirrored
    (torchvision's recipe for ImageNet); otherwise it is the centre.
    """

    def __init__(self, split: Split, size: int, *, random: bool) -> None:
        self.split = split
        self.transform = _transform(size, random=random)

    def __len__(self) -> int:
        return len(self.split.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the uint8 image (3, size, size) and its label."""
        return self.transform(self.split.image(index)), int(self.split.labels[index])


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set that is ready for training: a training split and a held-out split."""

    name: str
    classes: tuple[str, ...]  # label k is the k-th
    shape: tuple[int, int, int]  # (C, H, W) of what a network gets
    mean: tuple[float, ...]  # per channel, on the scale 0 to 1: the training split's or ImageNet's
    std: tuple[float, ...]
    train: Images | Decoded
    test: Images | Decoded
    digest: str  # SHA-256 that identifies the data set

    @property
    def of_run(self) -> dict[str, Any]:
        """What a `Run` on these images records about them, by its field names."""
        return {
            "data_name": self.name,
            "data_digest": self.digest,
            "classes": self.classes,
            "input_shape": self.shape,
            "mean": self.mean,
            "std": self.std,
            "crop_pct": self.crop_pct,
        }

    @property
    def count(self) -> int:
        """The number of training images."""
        return len(self.train)

    @property
    def crop_pct(self) -> float:
        """The share of a held-out image's shorter side within the crop; the name is timm's."""
        held = isinstance(self.test, Images)
        return 1.0 if held else self.shape[-1] / _resized(self.shape[-1])


class MixedSizes(PrecropError):
    """Images of several sizes can't be one tensor.

    ``found`` says which sizes were seen, ``asked`` how to ask for one size for all of them.
    """

    def __init__(self, found: str, asked: str = "image_size=224") -> None:
        super().__init__(f"{found}: say {asked}, or another size, to bring all of them to squares")
        self.found = found


def load_data(source: str, *, image_size: int | None = None) -> ImageData:
    """Load a data set by its name or from a folder.

    Args:
        source: ``"digits"``, ``"cifar10"``, ``"cifar100"``, or a folder with Hugging Face's parquet
            files, with torchvision's CIFAR, or with ``train/CLASS/`` and ``val/CLASS/`` folders of
            image files.
        image_size: Side in pixels that all images are scaled to. Without it, images keep their size
            if it is the same for all and they fit in memory; if they don't fit, it is 224 pixels.

    Raises:
        PrecropError: The name is unknown, or something in the folder is missing or damaged.
    """
    if image_size is not None and not 1 <= image_size <= LARGEST_SIDE:
        raise PrecropError(
            f"an image size is a number of pixels from 1 to {LARGEST_SIDE}, not {image_size}"
        )
    with _reading(source):
        return _loaded(find(source), image_size)


def load_shaped(source: str, shape: Sequence[Any]) -> ImageData:
    """Load a data set by its name or from a folder, as images of one shape (C, H, W).

    Raises:
        PrecropError: As `load_data`; or the images can't be scaled to this shape.
    """
    wanted = ",".join(map(str, shape))
    if len(shape) != 3 or not all(isinstance(size, int) for size in shape):
        raise PrecropError(f"images are of one shape, as 3,224,224, not {wanted}")
    channels, height, width = shape
    if channels != 3:
        raise PrecropError(f"the images of {source} are 3x{height}x{width}, not {wanted}")
    if height == width:
        return load_data(source, image_size=width)
    with _reading(source):
        found = find(source)
        first = found.train.image(0)
        given = f"3x{first.height}x{first.width}"
        if first.size == (width, height):
            with suppress(MixedSizes):
                images = _loaded(found, None)
                if images.shape == tuple(shape):
                    return images
            given = "of several sizes, or do not fit in memory"
    raise PrecropError(
        f"images are scaled to squares, as 3,224,224, not to {wanted}, and those of {source} "
        f"are {given}: say another --input-shape"
    )


def load_again(source: str, shape: Sequence[int], digest: str) -> ImageData:
    """Load the images (C, H, W) that had this digest, in their own size or scaled to ``shape``.

    If neither has the ``digest``, the scaled images are returned. Raises the errors of `load_data`.
    """
    with suppress(MixedSizes):
        found = load_data(source)
        if found.digest == digest:
            return found
    return load_data(source, image_size=shape[-1])


@contextmanager
def _reading(source: str) -> Iterator[None]:
    """Turn errors of the operating system into a `PrecropError` of one line."""
    try:
        yield
    except OSError as error:
        raise PrecropError(f"cannot read {error.filename or source}: {error.strerror}") from error


def _loaded(found: Source, image_size: int | None) -> ImageData:
    """Load images in their own size or ``image_size``; what exceeds the memory stays encoded."""
    width, height = found.train.image(0).size
    if image_size is not None:
        height = width = image_size
    count = len(found.train.labels) + len(found.test.labels)
    if count * 3 * height * width <= HELD_BYTES:
        try:
            return _in_memory(found, (height, width))
        except MixedSizes:
            if image_size is None:
                raise
    return _decoded_later(found, image_size or DECODED_SIZE)


def _in_memory(found: Source, size: tuple[int, int]) -> ImageData:
    original = found.train.image(0).size
    identity = hashlib.sha256(json.dumps([found.classes, size]).encode())
    splits: dict[str, Images] = {}
    for name, split in (("train", found.train), ("test", found.test)):
        pixels = _pixels(split, original, size)
        identity.update(split.labels.numpy().tobytes())
        identity.update(pixels.numpy().data)
        splits[name] = Images(pixels.permute(0, 3, 1, 2), split.labels)
    mean, std = _statistics(splits["train"].images)
    digest = identity.hexdigest()
    return ImageData(found.name, found.classes, (3, *size), mean, std, **splits, digest=digest)


def _pixels(split: Split, original: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Decode all images of a split with several threads, as uint8 (N, height, width, 3).

    All must have the width and height ``original``; the result has the height and width ``size``.
    """
    import numpy as np
    from PIL import Image, ImageOps

    height, width = size
    pixels = torch.empty((len(split.labels), height, width, 3), dtype=torch.uint8)
    rows = pixels.numpy()

    def decode(start: int) -> None:
        for index in range(start, min(start + _DECODED_TOGETHER, len(rows))):
            image = split.image(index)
            if image.size != original:
                shape, other = (f"{x} x {y}" for x, y in (image.size, original))
                raise MixedSizes(
                    f"{split.where(index)} is {shape} pixels, the first image is {other}"
                )
            if image.size != (width, height):
                image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
            rows[index] = np.asarray(image)

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        # In the order of the rows, so that the first of several damaged images is reported.
        for _ in threads.map(decode, range(0, len(rows), _DECODED_TOGETHER)):
            pass
    return pixels


def _statistics(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of uint8 (N, C, H, W), on the scale 0 to 1."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in pixels.unbind(1):
        shares = channel.flatten().bincount(minlength=256).double() / channel.numel()
        mean = (shares * values).sum()
        means.append(float(mean))
        variance = float((shares * (values - mean) ** 2).sum())
        # A channel with one value only must not be divided by zero.
        deviations.append(max(variance**0.5, 1 / 255))
    return tuple(means), tuple(deviations)


def _decoded_later(found: Source, size: int) -> ImageData:
    identity = hashlib.sha256(json.dumps([found.classes, "decoded", size]).encode())
    for split in (found.train, found.test):
        identity.update(split.labels.numpy().tobytes())
        for line in split.contents():
            identity.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return ImageData(
        found.name,
        found.classes,
        (3, size, size),
        PHOTOGRAPH_MEAN,
        PHOTOGRAPH_STD,
        Decoded(found.train, size, random=True),
        Decoded(found.test, size, random=False),
        identity.hexdigest(),
    )


def _transform(size: int, *, random: bool) -> Any:
    """Return the transform from a PIL image to uint8 (3, size, size)."""
    with needs("images that don't fit in memory need", "precrop[models]"):
        from torchvision.transforms import v2
    if random:
        chosen = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
    else:
        chosen = [v2.Resize(_resized(size), antialias=True), v2.CenterCrop(size)]
    return v2.Compose([v2.PILToTensor(), *chosen])


def _resized(size: int) -> int:
    """Return the length of the shorter side before the centre crop: 256 for the usual 224."""
    return round(size * 256 / 224)
