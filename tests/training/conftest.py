"""Data sets that several tests look at."""

from pathlib import Path

import pytest

from precrop.training.data import ImageData, load_data
from tests.training.image_sets import class_folders, pictures, png


@pytest.fixture(scope="session")
def digits() -> ImageData:
    return load_data("digits")


@pytest.fixture
def photographs(tmp_path: Path) -> ImageData:
    """Twelve images of 20 x 30 and one of 24 x 20 pixels, decoded to 10 x 10."""
    class_folders(tmp_path / "photographs", (20, 30), each=6)
    larger = tmp_path / "photographs" / "train" / "dog" / "last.png"
    larger.write_bytes(png(pictures(1, 24, 20)[0]))
    return load_data(str(tmp_path / "photographs"), image_size=10)
