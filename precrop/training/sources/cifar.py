"""CIFAR-10 and CIFAR-100 as torchvision downloads them."""

import warnings
from pathlib import Path

import torch

from precrop.errors import PrecropError, needs, reason
from precrop.files import checked_path
from precrop.training.sources.source import Arrays, Source

ARCHIVES = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
"""The folder that torchvision's archive unpacks to."""


def unpacked(name: str, root: Path, title: str, *, download: bool = False) -> Source:
    """Load CIFAR from torchvision's archive in ``root``.

    Its files are pickles, which can run code when they are read. torchvision reads them only if
    their checksums are those of the official archive, so no other code can hide in them.
    """
    with needs(f"{name} needs", "precrop[models]"):
        import torchvision
    kind = getattr(torchvision.datasets, name.upper())
    try:
        for file in (root / ARCHIVES[name]).glob("*"):
            checked_path(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, about the age of the pickles
            train = kind(str(root), train=True, download=download)
            test = kind(str(root), train=False)
    except OSError as error:
        cause = getattr(error, "reason", error)  # what a URLError is about; it may be a text
        raise PrecropError(
            f"cannot {'download' if download else 'read'} {name} in {root} ({reason(cause)}): "
            "say the folder of a copy instead"
        ) from error
    except RuntimeError as error:
        raise PrecropError(
            f"{root / ARCHIVES[name]} does not have the checksums of the official archive, and "
            f"pickles of another origin are not opened: use {name} as parquet, or let "
            f"{name!r} download it"
        ) from error
    splits = [
        Arrays(f"{name}'s {which} split", torch.from_numpy(split.data), torch.tensor(split.targets))
        for which, split in (("training", train), ("test", test))
    ]
    return Source(title, tuple(train.classes), *splits)
