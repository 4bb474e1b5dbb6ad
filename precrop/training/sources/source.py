"""A data set whose images are still encoded, wherever it comes from."""

import threading
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from precrop.errors import PrecropError, reason

if TYPE_CHECKING:
    from PIL.Image import Image


FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP", "GIF")
"""Pillow goes by an image's bytes, and of others starts programs: Ghostscript for PostScript."""
MOST_PIXELS = 2**26
"""Of one image: a file of a few kilobytes can say that it has more than fit in memory."""
_OPENING = threading.Lock()  # filters of warnings belong to all threads


class Split(Protocol):
    """Labelled images that are decoded one at a time."""

    labels: Tensor  # int64 (N,)

    def image(self, index: int) -> "Image":
        """The image in RGB; `PrecropError` that names it if it is damaged."""

    def where(self, index: int) -> str:
        """The file, and the row in it, of an image."""

    def contents(self) -> Iterable[str]:
        """Lines that tell this split from others without decoding its images."""


@dataclass(frozen=True)
class Source:
    """A data set whose images are still encoded."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split


def decoded(encoded: Any, where: str) -> "Image":
    """The image in a file or a stream, in RGB."""
    from PIL import Image

    try:
        with _OPENING, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(encoded, formats=FORMATS)
        with opened as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise ValueError(f"{width} x {height} pixels are more than {MOST_PIXELS:,}")
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
    # What a decoder raises on damaged bytes depends on the format and the damage.
    except Exception as error:
        unknown = "cannot identify" in str(error)
        fault = "no image that can be read" if unknown else reason(error)
        raise PrecropError(f"{where} is damaged: {fault}") from error
