"""Data sets from every source, their faults, and the batches of an epoch."""

import io
import json
import os
import pickle
import random
import urllib.error
from collections.abc import Iterable, Mapping, Sequence
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from precrop.errors import PrecropError
from precrop.training import data as data_module
from precrop.training import sources
from precrop.training.augment import Augment
from precrop.training.data import (
    Decoded,
    ImageData,
    Images,
    load_again,
    load_data,
    train_batches,
)
from precrop.training.data import test_batches as held_out_batches

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

CPU: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}
USUAL = Augment(crop=2, flip=True, cutout=3)


def pictures(count: int, height: int = 6, width: int = 6, seed: int = 0) -> Tensor:
    """uint8 (N, 3, H, W)"""
    numbers = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, height, width), generator=numbers, dtype=torch.uint8)


def png(picture: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def write_parquet(
    file: Path,
    images: Iterable[Tensor | bytes | None],
    labels: Sequence[int | None],
    *,
    names: Sequence[str] | None = ("cat", "dog"),
    columns: tuple[str, str] = ("image", "label"),
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"bytes": png(image) if isinstance(image, Tensor) else image, "path": None}
        for image in images
    ]
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {columns[0]: pa.array(rows, image_type), columns[1]: pa.array(labels, "int64")}
    )
    if names:
        features = {columns[1]: {"names": list(names), "_type": "ClassLabel"}}
        written = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": written})
    pq.write_table(table, file, row_group_size=3)


def parquet_set(folder: Path, **options: Any) -> tuple[Tensor, Tensor]:
    """Seven training and four test images."""
    train, test = pictures(7), pictures(4, seed=1)
    write_parquet(folder / "train-00000-of-00002.parquet", train[:4], [0, 1, 1, 0], **options)
    write_parquet(folder / "train-00001-of-00002.parquet", train[4:], [1, 0, 0], **options)
    write_parquet(folder / "test-00000-of-00001.parquet", test, [1, 0, 0, 1], **options)
    return train, test


def class_folders(
    folder: Path, size: tuple[int, int] = (6, 6), held_out: str = "val", each: int = 3
) -> None:
    for split in ("train", held_out):
        for label, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for k, picture in enumerate(pictures(each, *size, seed=2 * label + (split == "train"))):
                (folder / split / name / f"{k}.png").write_bytes(png(picture))


def held(split: Any) -> Images:
    assert isinstance(split, Images)
    return split


def one_line(error: pytest.ExceptionInfo[PrecropError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def fault(source: Path | str, **options: Any) -> str:
    with pytest.raises(PrecropError) as error:
        load_data(str(source), **options)
    return one_line(error)


# --- digits -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits")


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


@pytest.mark.parametrize("size", [None, 5, 8])
def test_what_was_loaded_before_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    class_folders(tmp_path, (10, 10))
    # As large as they are the images do not fit in memory, made smaller they do.
    monkeypatch.setattr(data_module, "HELD_BYTES", 12 * 3 * 8 * 8)
    monkeypatch.setattr(data_module, "DECODED_SIZE", 8)
    before = load_data(str(tmp_path), image_size=size)
    found = load_again(str(tmp_path), before.shape, before.digest)
    assert (found.digest, found.shape) == (before.digest, before.shape)
    assert isinstance(found.train, Images) == (size is not None)


def test_images_that_are_no_squares_are_found_again(tmp_path: Path) -> None:
    class_folders(tmp_path, (10, 6))
    before = load_data(str(tmp_path))
    assert before.shape == (3, 10, 6)
    assert load_again(str(tmp_path), before.shape, before.digest).digest == before.digest


def test_images_of_many_sizes_are_found_again(tmp_path: Path) -> None:
    class_folders(tmp_path, (10, 6))
    (tmp_path / "train" / "dog" / "last.png").write_bytes(png(pictures(1, 8, 8)[0]))
    before = load_data(str(tmp_path), image_size=5)
    assert load_again(str(tmp_path), before.shape, before.digest).digest == before.digest


def test_mean_and_deviation_are_those_of_the_training_split(digits: ImageData) -> None:
    pixels = held(digits.train).images.double() / 255
    torch.testing.assert_close(torch.tensor(digits.mean).double(), pixels.mean((0, 2, 3)))
    deviation = pixels.std((0, 2, 3), correction=0)
    torch.testing.assert_close(torch.tensor(digits.std).double(), deviation)


def test_images_in_memory_are_resized(digits: ImageData) -> None:
    larger = load_data("digits", image_size=12)
    assert larger.shape == (3, 12, 12)
    assert held(larger.train).images.shape == (1437, 3, 12, 12)
    assert larger.digest != digits.digest
    assert load_data("digits", image_size=8).digest == digits.digest
    assert np.allclose(larger.mean, digits.mean, atol=0.02)


# --- parquet ------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [("image", "label"), ("img", "label"), ("img", "fine_label")])
def test_parquet_comes_back(tmp_path: Path, columns: tuple[str, str]) -> None:
    train, test = parquet_set(tmp_path / "pets", columns=columns)
    data = load_data(str(tmp_path / "pets"))
    assert data.name == "pets"
    assert data.classes == ("cat", "dog")
    assert data.shape == (3, 6, 6)
    assert torch.equal(held(data.train).images, train)
    assert held(data.train).labels.tolist() == [0, 1, 1, 0, 1, 0, 0]
    assert torch.equal(held(data.test).images, test)
    assert held(data.test).labels.tolist() == [1, 0, 0, 1]


def test_parquet_in_a_subfolder(tmp_path: Path) -> None:
    train, _ = parquet_set(tmp_path / "pets" / "plain_text")
    data = load_data(str(tmp_path / "pets"))
    assert data.name == "pets"
    assert torch.equal(held(data.train).images, train)
    parquet_set(tmp_path / "pets" / "second")
    assert fault(tmp_path / "pets").endswith("several data sets, say which: plain_text, second")


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    parquet_set(tmp_path)
    encoded = []
    for mode in ("L", "RGBA", "P", "1"):
        file = io.BytesIO()
        Image.new(mode, (6, 6), 1).save(file, "PNG")
        encoded.append(file.getvalue())
    write_parquet(tmp_path / "test-00000-of-00001.parquet", encoded, [0, 1, 0, 1])
    assert held(load_data(str(tmp_path)).test).images.shape == (4, 3, 6, 6)


@pytest.mark.parametrize("written", [["one", "two"], {"one": "a long name", "two": "another"}])
def test_class_names_in_a_file(tmp_path: Path, written: object) -> None:
    parquet_set(tmp_path, names=None)
    (tmp_path / "classes.json").write_text(json.dumps(written))
    assert load_data(str(tmp_path)).classes == ("one", "two")


def test_classes_without_names_are_numbers(tmp_path: Path) -> None:
    parquet_set(tmp_path, names=None)
    assert load_data(str(tmp_path)).classes == ("0", "1")


def test_a_test_split_without_labels_is_passed_over(tmp_path: Path) -> None:
    parquet_set(tmp_path)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", pictures(2), [-1, -1])
    assert "has label -1; labels are 0 to 1" in fault(tmp_path)
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", pictures(3), [0, 1, 0])
    assert held(load_data(str(tmp_path)).test).labels.tolist() == [0, 1, 0]


def test_digest_tells_data_sets_apart(tmp_path: Path) -> None:
    parquet_set(tmp_path / "a")
    train, _ = parquet_set(tmp_path / "b")
    assert load_data(str(tmp_path / "a")).digest == load_data(str(tmp_path / "b")).digest
    shard = tmp_path / "b" / "train-00001-of-00002.parquet"
    other = train[4:].clone()
    other[0, 0, 0, 0] ^= 1
    digests = {load_data(str(tmp_path / "a")).digest}
    write_parquet(shard, other, [1, 0, 0])
    digests.add(load_data(str(tmp_path / "b")).digest)
    write_parquet(shard, train[4:], [1, 0, 1])
    digests.add(load_data(str(tmp_path / "b")).digest)
    assert len(digests) == 3


def test_faults_of_parquet(tmp_path: Path) -> None:
    test_file = tmp_path / "test-00000-of-00001.parquet"
    train, _ = parquet_set(tmp_path)
    shard = tmp_path / "train-00001-of-00002.parquet"

    write_parquet(test_file, pictures(2), [0, 2])
    assert fault(tmp_path) == f"row 1 of {test_file} has label 2; labels are 0 to 1"
    write_parquet(test_file, pictures(2), [0, None])
    assert fault(tmp_path) == f"row 1 of {test_file} has no label; labels are 0 to 1"
    write_parquet(test_file, [train[0], b"not a picture"], [0, 1])
    assert fault(tmp_path) == f"row 1 of {test_file} is damaged: no image that can be read"
    write_parquet(test_file, [train[0], png(pictures(1, 40, 40)[0])[:900]], [0, 1])
    assert f"row 1 of {test_file} is damaged: " in fault(tmp_path, image_size=6)
    write_parquet(test_file, [train[0], None], [0, 1])
    assert fault(tmp_path) == f"row 1 of {test_file} has no image bytes"
    write_parquet(test_file, [], [])
    assert fault(tmp_path) == f"{test_file} has no images"
    write_parquet(test_file, [*pictures(1), *pictures(1, 5, 6)], [0, 1])
    assert fault(tmp_path) == (
        f"row 1 of {test_file} is 6 x 5 pixels, the first image is 6 x 6: "
        "say an image size to bring all of them to"
    )
    write_parquet(test_file, pictures(2), [0, 1], names=("dog", "cat"))
    first = tmp_path / "train-00000-of-00002.parquet"
    assert fault(tmp_path) == f"{test_file} names other classes than {first}"
    write_parquet(test_file, pictures(2), [0, 1], columns=("picture", "label"))
    assert fault(tmp_path) == f"{test_file} has no column img or image but picture, label"
    pq.write_table(pa.table({"image": ["a.png"], "label": [0]}), test_file)
    assert fault(tmp_path) == f"{test_file}: column image holds string, not encoded images"
    pq.write_table(pa.table({"image": ["a.png"], "label": ["cat"]}), test_file)
    assert "column image holds string" in fault(tmp_path)
    pq.write_table(pa.table({"image": [{"bytes": b""}], "label": ["cat"]}), test_file)
    assert fault(tmp_path) == f"{test_file}: column label holds string, labels are integers"
    test_file.write_bytes(b"PAR1 and then nothing")
    assert fault(tmp_path).startswith(f"{test_file} is damaged: ")
    test_file.unlink()
    assert fault(tmp_path).startswith(f"{tmp_path} has train-*.parquet, but no test-, valid-")

    parquet_set(tmp_path)
    write_parquet(shard, train[4:], [1, 0, 0], columns=("img", "label"))
    assert fault(tmp_path) == f"{shard} has other columns than {first}"
    shard.unlink()
    assert fault(tmp_path) == f"{shard} is missing, {first.name} is there"


def test_a_page_of_a_parquet_file_is_damaged(tmp_path: Path) -> None:
    parquet_set(tmp_path)
    file = tmp_path / "train-00000-of-00002.parquet"
    content = bytearray(file.read_bytes())
    content[4:400] = bytes(396)
    file.write_bytes(content)
    assert fault(tmp_path).startswith(f"{file} is damaged: ")


@pytest.mark.parametrize("names", [("cat", "dog", "bird"), None])
def test_a_class_that_no_training_image_has(tmp_path: Path, names: tuple[str, ...] | None) -> None:
    parquet_set(tmp_path, names=names)
    file = tmp_path / "test-00000-of-00001.parquet"
    write_parquet(file, pictures(2), [0, 2], names=names)
    title = " (bird)" if names else ""
    assert fault(tmp_path) == f"row 1 of {file} has label 2{title}, which no training image has"


def test_faults_of_class_lists(tmp_path: Path) -> None:
    parquet_set(tmp_path, names=None)
    file = tmp_path / "classes.json"
    file.write_text("[]")
    assert fault(tmp_path) == f"{file} is not a list of class names"
    file.write_text("[")
    assert fault(tmp_path).startswith(f"{file} is damaged: ")


def test_parquet_beyond_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet_set(tmp_path)
    monkeypatch.setattr(sources, "PARQUET_BYTES", 100)
    assert "more than is read into memory: unpack it" in fault(tmp_path)


# --- folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "test"])
def test_class_folders_come_back(tmp_path: Path, held_out: str) -> None:
    class_folders(tmp_path / "pets", held_out=held_out)
    (tmp_path / "pets" / "train" / ".hidden").mkdir()
    (tmp_path / "pets" / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "pets" / "train" / "cat" / ".0.png").write_text("no image")
    data = load_data(str(tmp_path / "pets"))
    assert (data.name, data.classes, data.shape) == ("pets", ("cat", "dog"), (3, 6, 6))
    expected = torch.cat([pictures(3, seed=1), pictures(3, seed=3)])
    assert torch.equal(held(data.train).images, expected)
    assert held(data.train).labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(held(data.test).images, torch.cat([pictures(3), pictures(3, seed=2)]))


def test_images_below_a_class_folder(tmp_path: Path) -> None:
    class_folders(tmp_path)
    below = tmp_path / "train" / "dog" / "images"
    below.mkdir()
    (below / "more.PNG").write_bytes(png(pictures(1)[0]))
    assert held(load_data(str(tmp_path)).train).labels.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_faults_of_class_folders(tmp_path: Path) -> None:
    def path(*parts: str) -> Path:
        return tmp_path.joinpath(*parts)

    assert fault(tmp_path) == (
        f"{tmp_path} is not a data set: it has neither train-*.parquet nor train/ "
        "with a folder for every class"
    )
    path("train", "cat").mkdir(parents=True)
    assert "nor val/, valid/ or test/ with a folder for every class" in fault(tmp_path)
    path("train", "cat").rmdir()
    path("train").rmdir()

    class_folders(tmp_path)
    path("train", "bird").mkdir()
    assert fault(tmp_path) == (
        f"{path('train', 'bird')} has no counterpart: class bird is missing in {path('val')}"
    )
    path("val", "bird").mkdir()
    assert fault(tmp_path) == f"{path('train', 'bird')} has no images"
    path("train", "bird").rmdir()
    assert fault(tmp_path) == (
        f"{path('val', 'bird')} has no counterpart: class bird is missing in {path('train')}"
    )
    path("val", "bird").rmdir()

    file = path("val", "dog", "1.png")
    whole = file.read_bytes()
    for content in (b"no picture", whole[: len(whole) // 2], whole[:40]):
        file.write_bytes(content)
        assert fault(tmp_path).startswith(f"{file} is damaged: ")
    file.write_bytes(b"")
    assert fault(tmp_path) == f"{file} is damaged: it is empty"
    file.write_bytes(png(pictures(1, 6, 8)[0]))
    assert fault(tmp_path).startswith(f"{file} is 8 x 6 pixels, the first image is 6 x 6: ")


def test_unknown_sources(tmp_path: Path) -> None:
    names = "say digits, cifar10, cifar100 or a data set's folder"
    assert fault("digit") == f"'digit' is neither a data set nor a folder: {names}"
    (tmp_path / "file").touch()
    assert fault(tmp_path / "file") == f"'{tmp_path / 'file'}' is a file: {names}"
    assert fault("digits", image_size=0) == (
        "an image size is a number of pixels from 1 to 4096, not 0"
    )


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    class_folders(tmp_path)
    (tmp_path / "val").chmod(0)
    try:
        assert fault(tmp_path) == f"cannot read {tmp_path / 'val'}: Permission denied"
    finally:
        (tmp_path / "val").chmod(0o700)


# --- images that are decoded as they are used -----------------------------------------------------


@pytest.fixture
def photographs(tmp_path: Path) -> ImageData:
    """Twelve images of 20 x 30 and one of 24 x 20 pixels, decoded to 10 x 10."""
    class_folders(tmp_path / "photographs", (20, 30), each=6)
    larger = tmp_path / "photographs" / "train" / "dog" / "last.png"
    larger.write_bytes(png(pictures(1, 24, 20)[0]))
    return load_data(str(tmp_path / "photographs"), image_size=10)


def test_images_of_many_sizes_are_decoded_as_they_are_used(photographs: ImageData) -> None:
    assert photographs.shape == (3, 10, 10)
    assert photographs.mean == (0.485, 0.456, 0.406)
    assert isinstance(photographs.train, Decoded)
    assert isinstance(photographs.test, Decoded)
    assert (len(photographs.train), len(photographs.test)) == (13, 12)
    image, label = photographs.train[12]
    assert (image.shape, image.dtype, label) == ((3, 10, 10), torch.uint8, 1)
    again, _ = photographs.test[3]
    assert torch.equal(again, photographs.test[3][0])


@pytest.mark.parametrize("kind", ["folders", "parquet"])
def test_too_many_images_are_decoded_as_they_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(data_module, "HELD_BYTES", 100)
    if kind == "folders":
        class_folders(tmp_path)
    else:
        parquet_set(tmp_path)
    data = load_data(str(tmp_path))
    assert data.shape == (3, 224, 224)
    smaller = load_data(str(tmp_path), image_size=8)
    assert smaller.digest != data.digest
    assert smaller.digest == load_data(str(tmp_path), image_size=8).digest
    assert isinstance(smaller.test, Decoded)
    pickled = pickle.loads(pickle.dumps(smaller.test))  # as for worker processes that are spawned
    assert torch.equal(pickled[1][0], smaller.test[1][0])


def test_digest_of_files_is_that_of_their_names_and_sizes(tmp_path: Path) -> None:
    class_folders(tmp_path, (20, 30))
    (tmp_path / "train" / "cat" / "odd.png").write_bytes(png(pictures(1, 9, 9)[0]))
    before = load_data(str(tmp_path), image_size=5).digest
    (tmp_path / "val" / "cat" / "0.png").rename(tmp_path / "val" / "cat" / "9.png")
    assert load_data(str(tmp_path), image_size=5).digest != before


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork beside threads
def test_workers_do_not_change_the_images(photographs: ImageData) -> None:
    def epoch(workers: int, number: int = 0) -> list[tuple[Tensor, Tensor]]:
        options = CPU | {"seed": 5, "epoch": number, "augment": USUAL, "workers": workers}
        return list(train_batches(photographs, 4, **options))

    state = torch.get_rng_state()
    alone, helped = epoch(0), epoch(2)
    assert torch.equal(state, torch.get_rng_state())
    assert len(alone) == 3
    assert equal(alone, helped)
    assert not equal(alone, epoch(0, 1))
    tests = [list(held_out_batches(photographs, 5, **CPU, workers=workers)) for workers in (0, 1)]
    assert equal(*tests)
    assert [len(labels) for _, labels in tests[0]] == [5, 5, 2]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_later_is_named(photographs: ImageData, workers: int) -> None:
    assert isinstance(photographs.test, Decoded)
    file = photographs.test.split.where(3)
    Path(file).write_bytes(b"nothing")
    with pytest.raises(PrecropError) as error:
        list(held_out_batches(photographs, 4, **CPU, workers=workers))
    assert one_line(error) == f"{file} is damaged: no image that can be read"


# --- batches ------------------------------------------------------------------------------------


def numbered(count: int, held_out: int = 7) -> ImageData:
    """Images that carry their label's number in every pixel."""

    def split(size: int) -> Images:
        labels = torch.arange(size)
        pixels = labels.byte()[:, None, None, None].expand(size, 3, 5, 6).contiguous()
        return Images(pixels, labels)

    classes = tuple(str(k) for k in range(count))
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return ImageData(
        "numbers", classes, (3, 5, 6), mean, std, split(count), split(held_out), "digest"
    )


def equal(one: Iterable[tuple[Tensor, Tensor]], other: Iterable[tuple[Tensor, Tensor]]) -> bool:
    """Whether two epochs have the same batches."""
    pairs = list(zip(one, other, strict=True))
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


def test_an_epoch_has_every_image_once() -> None:
    data = numbered(40)
    batches = train_batches(data, 8, **CPU, seed=0, epoch=0, augment=Augment())
    assert len(batches) == 5
    seen = []
    for images, labels in batches:
        assert images.shape == (8, 3, 5, 6)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), labels)
        seen += labels.tolist()
    assert sorted(seen) == list(range(40))
    assert seen != sorted(seen)


def test_a_last_incomplete_batch() -> None:
    data = numbered(43, held_out=10)
    train = train_batches(data, 8, **CPU, seed=0, epoch=0, augment=USUAL)
    assert [len(labels) for _, labels in train] == [8] * 5
    test = held_out_batches(data, 4, **CPU)
    assert [labels.tolist() for _, labels in test] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(test) == 3


def test_batches_are_augmented_images(digits: ImageData) -> None:
    """The whole way against single images, in the order of the epoch."""
    train = held(digits.train)
    augment = Augment(crop=1, flip=True)
    plain = list(train_batches(digits, 100, **CPU, seed=3, epoch=2, augment=Augment()))
    moved = list(train_batches(digits, 100, **CPU, seed=3, epoch=2, augment=augment))
    draws = augment.draw(len(train), 8, 8, seed=3, epoch=2)
    black = -torch.tensor(digits.mean)[:, None, None] / torch.tensor(digits.std)[:, None, None]
    place = 0
    for (before, labels), (after, same_labels) in zip(plain, moved, strict=True):
        assert torch.equal(labels, same_labels)
        for image, result in zip(before, after, strict=True):
            padded = black.expand(3, 10, 10).clone()
            padded[:, 1:9, 1:9] = image
            top, left = int(draws.top[place]), int(draws.left[place])
            window = padded[:, top : top + 8, left : left + 8]
            expected = window.flip(-1) if draws.flipped[place] else window
            torch.testing.assert_close(result, expected)
            place += 1


def test_cutout_is_the_mean_colour(digits: ImageData) -> None:
    batches = train_batches(digits, 50, **CPU, seed=0, epoch=0, augment=Augment(cutout=100))
    assert not any(images.any() for images, _ in batches)


def test_normalisation_gives_mean_zero_and_deviation_one(digits: ImageData) -> None:
    batches = train_batches(digits, 1437, **CPU, seed=0, epoch=0, augment=Augment())
    ((images, _),) = batches
    assert images.mean().abs() < 1e-5
    assert images.std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dtype(digits: ImageData, dtype: torch.dtype) -> None:
    train = train_batches(digits, 32, device="cpu", dtype=dtype, seed=0, epoch=0, augment=USUAL)
    test = held_out_batches(digits, 32, device="cpu", dtype=dtype)
    for batches in (train, test):
        images, labels = next(iter(batches))
        assert (images.dtype, labels.dtype) == (dtype, torch.int64)
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_depends_on_seed_and_epoch_alone(digits: ImageData) -> None:
    def epoch(seed: int, number: int) -> Any:
        return train_batches(digits, 64, **CPU, seed=seed, epoch=number, augment=USUAL)

    first = [list(epoch(7, number)) for number in range(3)]
    torch.manual_seed(1234)
    random.seed(1)
    resumed = list(epoch(7, 2))
    assert equal(first[2], resumed)
    assert not equal(first[1], resumed)
    assert not equal(epoch(8, 2), resumed)
    again = epoch(7, 2)
    next(iter(again))  # one that was not gone through to its end
    assert equal(again, resumed)


def test_batches_leave_the_global_generator_and_the_data_alone(digits: ImageData) -> None:
    state, before = torch.get_rng_state(), held(digits.train).images.clone()
    for _ in train_batches(digits, 64, **CPU, seed=0, epoch=0, augment=USUAL):
        pass
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(before, held(digits.train).images)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_parts_of_all_processes_are_the_batch(digits: ImageData, world_size: int) -> None:
    options = CPU | {"seed": 1, "epoch": 4, "augment": USUAL}
    whole = list(train_batches(digits, 48, **options))
    share: dict[str, Any] = {"world_size": world_size}
    parts = [
        list(train_batches(digits, 48, **options, rank=rank, **share)) for rank in range(world_size)
    ]
    assert {len(labels) for part in parts for _, labels in part} == {48 // world_size}
    assert equal(whole, united(parts))
    tests = [
        list(held_out_batches(digits, 50, **CPU, rank=rank, **share)) for rank in range(world_size)
    ]
    assert equal(held_out_batches(digits, 50, **CPU), united(tests))


def test_the_parts_of_all_processes_are_the_batch_of_decoded_images(
    photographs: ImageData,
) -> None:
    options = CPU | {"seed": 1, "epoch": 4, "augment": USUAL}
    parts = [train_batches(photographs, 6, **options, rank=rank, world_size=2) for rank in range(2)]
    assert equal(train_batches(photographs, 6, **options), united(parts))


def united(parts: Sequence[Iterable[tuple[Tensor, Tensor]]]) -> list[tuple[Tensor, Tensor]]:
    """Batch by batch, the parts of all processes one after the other."""
    return [
        (torch.cat([images for images, _ in batch]), torch.cat([labels for _, labels in batch]))
        for batch in zip(*parts, strict=True)
    ]


def test_a_last_test_batch_smaller_than_the_processes() -> None:
    data = numbered(8, held_out=9)
    parts = [held_out_batches(data, 4, **CPU, rank=rank, world_size=4) for rank in range(4)]
    assert [len(part) for part in parts] == [2, 2, 2, 3]
    seen = [label for part in parts for _, labels in part for label in labels.tolist()]
    assert sorted(seen) == list(range(9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "a batch has 1 image or more, not 0"),
        (
            {"batch_size": 41},
            "numbers has 40 training images, less than one batch of 41: say a smaller --batch-size",
        ),
        ({"rank": 2, "world_size": 2}, "process 2 is not one of 2, counted from 0"),
        (
            {"world_size": 3},
            "a batch of 8 images can't be shared out equally to 3 processes",
        ),
    ],
)
def test_senseless_batches(options: Mapping[str, int], message: str) -> None:
    given: dict[str, Any] = {
        "batch_size": 8,
        **CPU,
        "seed": 0,
        "epoch": 0,
        "augment": USUAL,
        **options,
    }
    with pytest.raises(PrecropError) as error:
        train_batches(numbered(40), **given)
    assert one_line(error) == message


# --- CIFAR as torchvision has it ----------------------------------------------------------------


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


@pytest.mark.skipif(
    not (Path(os.environ.get("PRECROP_DATA", "/nowhere")) / "tiny-imagenet-50").is_dir(),
    reason="PRECROP_DATA has no tiny-imagenet-50",
)
def test_tiny_imagenet() -> None:
    data = load_data(str(Path(os.environ["PRECROP_DATA"]) / "tiny-imagenet-50"))
    assert data.shape == (3, 64, 64)
    assert data.classes[0] == "n01443537"
    assert held(data.train).labels.bincount().tolist() == [500] * 50
    assert held(data.test).labels.bincount().tolist() == [50] * 50
