"""A data set whose images are still encoded, wherever it comes from."""

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
"""Pillow goes by an image's bytes, and of others starts programs: Ghostscript for PostScript."""
MOST_PIXELS = 2**26
"""Of one image: a file of a few kilobytes can say that it has more than fit in memory."""
LONGEST = 100
"""How many times as long as its shorter side an image may be: it is scaled by that one."""
_GREY16 = ("PNG", "PPM")
"""Formats whose grey images of Pillow's mode I have 16 bits."""
_OPENING = process_lock()  # filters of warnings belong to all threads


class Split(Protocol):
    """Labelled images that are decoded one at a time."""

    labels: Tensor  # int64 (N,)

    def image(self, index: int) -> "Image":
        """The image in RGB; `PrecropError` that names it if it is damaged."""

    def where(self, index: int) -> str:
        """The file, and the row in it, of an image."""

    def contents(self) -> Iterable[str]:
        """Lines that tell this split from others without decoding its images."""


class Arrays:
    """Images that are decoded already: uint8 (N, H, W, 3)."""

    def __init__(self, name: str, pixels: Tensor, labels: Tensor) -> None:
        self.name, self.pixels, self.labels = name, pixels, labels

    def image(self, index: int) -> "Image":
        """The image in RGB."""
        from PIL import Image

        return Image.fromarray(self.pixels[index].numpy())

    def where(self, index: int) -> str:
        """Its number."""
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
    """The image in an opened file, in RGB."""
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
    """An image with 8 bits a channel; Pillow takes all above 255 of 16 bits for white.

    Raises:
        ValueError: its pixels are 32-bit numbers, of which nothing says what is white.
    """
    from PIL import Image

    grey16 = image.mode.startswith("I;16") or (image.mode == "I" and image.format in _GREY16)
    if grey16:
        return Image.fromarray((np.asarray(image) >> 8).astype("uint8")).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("its pixels are 32-bit numbers: save it with 8 or 16 bits")
    if image.mode == "RGB":
        return image
    # What is transparent has a colour too, and is shown in it: that there is no one transparent
    # colour, of which Pillow would warn, makes no difference.
    image.info.pop("transparency", None)
    return image.convert("RGB")
