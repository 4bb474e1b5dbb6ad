"""A data set whose images are still encoded, wherever it comes from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from precrop.errors import PrecropError

if TYPE_CHECKING:
    from PIL.Image import Image


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
        with Image.open(encoded) as image:
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
    # What a decoder raises on damaged bytes depends on the format and the damage.
    except Exception as error:
        unknown = "cannot identify" in str(error)
        reason = "no image that can be read" if unknown else first_line(error)
        raise PrecropError(f"{where} is damaged: {reason}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
