"""Data sets by name: digits, CIFAR, and what is neither a name nor a folder."""

import os
import pickle
import urllib.error
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from precrop.errors import PrecropError
from precrop.training.data import ImageData, load_data
from tests.training.image_sets import class_folders, fault, held, parquet_set, pictures


def test_digits(digits: ImageData) -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    assert digits.name == "digits"
    assert digits.classes == tuple("0123456789")
    assert digits.shape == (3, 8, 8)
    train, test = held(digits.train), held(digits.test)
    assert (len(train), len(test)) == (1437, 360)
    assert train.images.dtype == torch.uint8
    assert train.labels.dtype == torch.int64
    found = sklearn.load_digits()
    pairs = found.images, found.target
    every = {(bytes(x.astype(np.uint8)), int(y)) for x, y in zip(*pairs, strict=True)}
    ours = set()
    for split in (train, test):
        assert torch.equal(split.images[:, 0], split.images[:, 1])
        assert torch.equal(split.images[:, 0], split.images[:, 2])
        assert (int(split.images.min()), int(split.images.max())) == (0, 255)
        grey = (split.images[:, 0].double() * 16 / 255).round().byte()
        ours |= {(bytes(x.numpy()), int(y)) for x, y in zip(grey, split.labels, strict=True)}
    assert ours == every


def test_digits_hold_out_a_fifth_of_each_class(digits: ImageData) -> None:
    test = held(digits.test).labels.bincount()
    every = test + held(digits.train).labels.bincount()
    assert ((test - every / 5).abs() < 1).all()


def test_digits_are_always_the_same(digits: ImageData) -> None:
    again = load_data("digits")
    assert again.digest == digits.digest
    assert torch.equal(held(again.test).images, held(digits.test).images)
    # Written down: another split would be another data set.
    assert digits.digest == "000126ccd5d9c99a64a2d7e60ad2e42890ad409568aef15663a62d2eb4e491f2"


def test_unknown_sources(tmp_path: Path) -> None:
    names = "say digits, cifar10, cifar100 or a data set's folder"
    assert fault("digit") == f"'digit' is neither a data set nor a folder: {names}"
    (tmp_path / "file").touch()
    assert fault(tmp_path / "file") == f"'{tmp_path / 'file'}' is a file: {names}"
    assert fault("digits", image_size=0) == (
        "an image size is a number of pixels from 1 to 4096, not 0"
    )


def test_home_folders_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "the home folder of '~nobody-here/x' is not known: write it out"
    assert fault("~nobody-here/x") == said
    monkeypatch.setenv("PRECROP_DATA", "~nobody-here/x")
    assert fault("cifar10") == said


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    class_folders(tmp_path)
    (tmp_path / "val").chmod(0)
    try:
        assert fault(tmp_path) == f"cannot read {tmp_path / 'val'}: Permission denied"
    finally:
        (tmp_path / "val").chmod(0o700)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small ``cifar-10-batches-py`` whose checksums torchvision takes for the official ones."""
    cifar = pytest.importorskip("torchvision").datasets.CIFAR10
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, content: object) -> tuple[str, str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return name, md5((folder / name).read_bytes()).hexdigest()

    def batch(seed: int) -> dict[str, Any]:
        rows = pictures(4, 32, 32, seed).flatten(1).numpy()
        return {"data": rows, "labels": [seed, 1, 0, 2]}

    monkeypatch.setattr(cifar, "train_list", [write(f"data_batch_{k}", batch(k)) for k in (1, 2)])
    monkeypatch.setattr(cifar, "test_list", [write("test_batch", batch(0))])
    name, checksum = write("batches.meta", {"label_names": ["plane", "car", "bird"]})
    meta = {"filename": name, "key": "label_names", "md5": checksum}
    monkeypatch.setattr(cifar, "meta", meta)
    return folder


@pytest.mark.parametrize("how", ["name", "folder", "parent"])
def test_torchvision_cifar(archive: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setenv("PRECROP_DATA", str(archive.parent))
    source = {"name": "cifar10", "folder": str(archive), "parent": str(archive.parent)}[how]
    data = load_data(source)
    assert (data.classes, data.shape) == (("plane", "car", "bird"), (3, 32, 32))
    assert torch.equal(held(data.train).images[4:], pictures(4, 32, 32, 2))
    assert held(data.train).labels.tolist() == [1, 1, 0, 2, 2, 1, 0, 2]
    assert torch.equal(held(data.test).images, pictures(4, 32, 32, 0))


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def test_pickles_of_unknown_origin_are_not_opened(archive: Path, tmp_path: Path) -> None:
    for file in archive.iterdir():
        file.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    assert fault(archive) == (
        f"{archive} does not have the checksums of the official archive, and pickles of another "
        "origin are not opened: use cifar10 as parquet, or let 'cifar10' download it"
    )
    assert not (tmp_path / "sprung").exists()


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar = pytest.importorskip("torchvision").datasets.CIFAR100

    def fail(self: object) -> None:
        raise urllib.error.URLError(OSError(-3, "Temporary failure in name resolution"))

    monkeypatch.setattr(cifar, "download", fail)
    monkeypatch.setenv("PRECROP_DATA", str(tmp_path))
    assert fault("cifar100") == (
        f"cannot download cifar100 in {tmp_path} (Temporary failure in name resolution): "
        "say the folder of a copy instead"
    )


def test_one_process_downloads_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock, Timeout

    tried = []

    def download(*_: Any, **__: Any) -> None:
        with pytest.raises(Timeout):
            FileLock(tmp_path / "data" / ".downloading").acquire(timeout=0)
        tried.append(True)
        raise PrecropError("no network")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", download)
    monkeypatch.setenv("PRECROP_DATA", str(tmp_path / "data"))
    assert fault("cifar10") == "no network"
    assert tried
    FileLock(tmp_path / "data" / ".downloading").acquire(timeout=0).lock.release()


def test_a_named_set_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = parquet_set(tmp_path / "cifar10")
    monkeypatch.setenv("PRECROP_DATA", str(tmp_path))
    assert torch.equal(held(load_data("cifar10").train).images, train)
