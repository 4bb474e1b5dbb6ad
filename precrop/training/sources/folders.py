"""Data sets with a folder of image files for every class."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from precrop.errors import PrecropError, errors_as
from precrop.files import open_plain
from precrop.training.sources.source import Source, decoded

if TYPE_CHECKING:
    from PIL.Image import Image

# The held-out split's names, the preferred one first: an ImageNet folder's "test" has no labels.
TESTS = ("val", "valid", "validation", "test")
_DEEPEST = 64
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp", ".gif")


class Files:
    """A split of image files in one folder per class, all below ``root``."""

    def __init__(self, root: Path, classes: Iterable[str]) -> None:
        self.root = root
        self.paths: list[str] = []
        self.sizes: list[int] = []
        counts = []
        for name in classes:
            found = sorted(_image_files(root, name))
            if not found:
                raise PrecropError(f"{root / name} has no images")
            empty = next((path for path, size in found if not size), None)
            if empty is not None:
                raise PrecropError(f"{root / empty} is damaged: it is empty")
            self.paths += (path for path, _ in found)
            self.sizes += (size for _, size in found)
            counts.append(len(found))
        self.labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))

    def image(self, index: int) -> "Image":
        """Return the image in RGB."""
        path = self.root / self.paths[index]
        with errors_as(f"{path} is damaged", OSError), open_plain(path) as file:
            return decoded(file, str(path))

    def where(self, index: int) -> str:
        """Return the file."""
        return str(self.root / self.paths[index])

    def contents(self) -> Iterable[str]:
        """Return a line per file, with its size in bytes."""
        return (f"{path} {size}" for path, size in zip(self.paths, self.sizes, strict=True))


def class_folders(folder: Path) -> Source:
    """Return the data set in ``train/CLASS/`` and ``val/CLASS/``, or raise `PrecropError`."""
    splits = {name: _subfolders(folder / name) for name in ("train", *TESTS)}
    held_out = next((name for name in TESTS if splits[name]), None)
    if not splits["train"] or held_out is None:
        missing = "val/, valid/ or test/" if splits["train"] else "train/"
        raise PrecropError(
            f"{folder} is not a data set: it has neither train-*.parquet nor {missing} "
            "with a folder for every class"
        )
    for here, there in (("train", held_out), (held_out, "train")):
        lone = sorted(set(splits[here]) - set(splits[there]))
        if lone:
            raise PrecropError(
                f"{folder / here / lone[0]} has no counterpart: class {lone[0]} is missing "
                f"in {folder / there}"
            )
    return Source(
        folder.resolve().name,
        tuple(splits["train"]),
        Files(folder / "train", splits["train"]),
        Files(folder / held_out, splits["train"]),
    )


def _subfolders(folder: Path) -> list[str]:
    """Return the sorted names of a folder's visible subfolders: label k is the k-th."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _image_files(root: Path, name: str) -> Iterator[tuple[str, int]]:
    """Yield path below ``root`` and size in bytes of each image in a folder and its subfolders."""
    seen, folders = set[tuple[int, int]](), [name]
    while folders:
        below = folders.pop()
        here = (root / below).stat()
        if (here.st_dev, here.st_ino) in seen:  # through a link, perhaps to a folder above
            raise PrecropError(f"{root / below} leads to a folder that is read already: remove it")
        if below.count("/") > _DEEPEST:
            raise PrecropError(
                f"{root / name} has folders in one another, {_DEEPEST} deep: move the images up"
            )
        seen.add((here.st_dev, here.st_ino))
        with os.scandir(root / below) as entries:
            for entry in entries:
                path = f"{below}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(path)
                elif entry.name.lower().endswith(SUFFIXES):
                    yield path, entry.stat().st_size
