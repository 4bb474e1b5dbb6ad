"""Images that are decoded already."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


class Arrays:
    """Images that are decoded already: uint8 (N, H, W, 3)."""

    def __init__(self, name: str, pixels: Tensor, labels: Tensor) -> None:
        self.name = name
        self.pixels = pixels
        self.labels = labels

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
