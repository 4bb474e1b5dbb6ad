"""Data sets whose images are still encoded, wherever they come from."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol

import numpy as np
from torch import Tensor

from precrop.errors import PrecropError, errors_as, reason
from precrop.forking import process_lock

if TYPE_CHECKING:
    from PIL.Image import Image


FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP", "GIF")
"""Formats to open: Pillow goes by an image's bytes, and starts Ghostscript for PostScript."""
MOST_PIXELS = 2**26
"""Most pixels of an image: a file of a few kilobytes can claim more than fit in memory."""
LONGEST = 100
"""How many times as long as its shorter side, by which it is scaled, an image may be."""
_GREY16 = ("PNG", "PPM")
"""Formats whose 16-bit grey images Pillow opens in mode I."""
_OPENING = process_lock()  # all threads share one list of warning filters


class Split(Protocol):
    """Labelled images that are decoded one at a time."""

    labels: Tensor  # int64 (N,)

    def image(self, index: int) -> "Image":
        """Return the image in RGB; if it is damaged, a `PrecropError` names it."""

    def where(self, index: int) -> str:
        """Return the file of an image, and the row in it."""

    def contents(self) -> Iterable[str]:
        """Return lines that identify this split without decoding its images."""


class Arrays:
    """Images that are decoded already: uint8 (N, H, W, 3)."""

    def __init__(self, name: str, pixels: Tensor, labels: Tensor) -> None:
        self.name, self.pixels, self.labels = name, pixels, labels

    def image(self, index: int) -> "Image":
        """Return the image in RGB."""
        from PIL import Image

        return Image.fromarray(self.pixels[index].numpy())

    def where(self, index: int) -> str:
        """Return its number."""
        return f"image {index} of {self.name}"

    def contents(self) -> Iterable[str]:
        """The name is enough: these data sets never change."""
        return (self.name,)


@dataclass(frozen=True)
class Source:
    """A data set whose images are still encoded."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split


def decoded(encoded: IO[bytes], where: str) -> "Image":
    """Decode the image in an opened file to RGB."""
    from PIL import Image

    # What a decoder raises on damaged bytes depends on the format and the damage.
    with errors_as(f"{where} is damaged", Exception, told=_fault):
        with _OPENING, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(encoded, formats=FORMATS)
        with opened as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise PrecropError(
                    f"{where} has {width} x {height} pixels, more than {MOST_PIXELS:,}: scale it "
                    "down, or leave it out"
                )
            if max(width, height) > LONGEST * min(width, height):
                raise PrecropError(
                    f"{where} has {width} x {height} pixels: photographs are scaled by their "
                    f"shorter side, so none may be more than {LONGEST} times as long; leave it out"
                )
            image.load()
            return _in_rgb(image)


def _fault(error: BaseException) -> str:
    unknown = "cannot identify" in str(error)
    return "no image that can be read" if unknown else reason(error)


def _in_rgb(image: "Image") -> "Image":
    """Convert an image to 8 bits per channel; Pillow would turn 16-bit values above 255 white.

    Raises:
        ValueError: its pixels are 32-bit numbers, for which the value of white is unknown.
    """
    from PIL import Image

    grey16 = image.mode.startswith("I;16") or (image.mode == "I" and image.format in _GREY16)
    if grey16:
        return Image.fromarray((np.asarray(image) >> 8).astype("uint8")).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("its pixels are 32-bit numbers: save it with 8 or 16 bits")
    if image.mode == "RGB":
        return image
    # Transparent pixels are shown in their own colour. Without this entry Pillow does not warn
    # of images with several transparent colours, which make no difference then.
    image.info.pop("transparency", None)
    return image.convert("RGB")
