"""Finding a data set by its name or folder."""

import os
from pathlib import Path

from precrop.errors import PrecropError, errors_as
from precrop.training.sources.cifar import ARCHIVES, unpacked
from precrop.training.sources.digits import digits
from precrop.training.sources.folders import class_folders
from precrop.training.sources.parquet import parquet
from precrop.training.sources.source import Source

CLASSES_AND_SIDE = {"digits": (10, 8), "cifar10": (10, 32), "cifar100": (100, 32)}
"""Number of classes and image side in pixels of the data sets that have names."""
NAMES = (*CLASSES_AND_SIDE,)


def find(source: str) -> Source:
    """Return the data set of this name or in this folder."""
    if source == "digits":
        return digits()
    if source in NAMES:
        return _named(source)
    folder = _expanded(source)
    if not folder.is_dir():
        problem = "is a file" if folder.is_file() else "is neither a data set nor a folder"
        raise PrecropError(f"{source!r} {problem}: say {', '.join(NAMES)} or a data set's folder")
    return _folder(folder)


def at_hand(source: str) -> bool:
    """Whether a data set is here or comes with a library, so that nothing would be downloaded."""
    if source in ARCHIVES:
        return any((_home() / name).is_dir() for name in (ARCHIVES[source], source))
    return source == "digits" or _expanded(source).is_dir()


def _folder(folder: Path) -> Source:
    files = sorted(folder.glob("train-*.parquet")) or sorted(folder.glob("*/train-*.parquet"))
    if files:
        parents = sorted({file.parent.name for file in files})
        if len(parents) > 1:
            raise PrecropError(f"{folder} holds several data sets, say which: {', '.join(parents)}")
        return parquet(folder, files[0].parent)
    for name, archive in ARCHIVES.items():
        if folder.name == archive:
            return unpacked(name, folder.resolve().parent, folder.resolve().name)
        if (folder / archive).is_dir():
            return unpacked(name, folder, folder.resolve().name)
    return class_folders(folder)


def _named(name: str) -> Source:
    """Load CIFAR from the data folder; it is downloaded if it is not there yet."""
    from filelock import FileLock

    root = _home()
    if not (root / ARCHIVES[name]).is_dir() and (root / name).is_dir():
        return _folder(root / name)
    with errors_as(f"cannot write to {root}", OSError):
        root.mkdir(parents=True, exist_ok=True)
        alone = FileLock(root / ".downloading").acquire()
    with alone:  # processes that start together download once; the others then find the files
        return unpacked(name, root, name, download=True)


def _home() -> Path:
    """Return the data folder."""
    return _expanded(os.environ.get("PRECROP_DATA") or "~/.cache/precrop")


def _expanded(path: str) -> Path:
    """Return a path with ``~`` or ``~user`` replaced by that user's home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise PrecropError(f"the home folder of {path!r} is not known: write it out") from error
