"""Parquet files and their faults."""

import io
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from precrop.training.data import load_data
from precrop.training.sources import parquet
from tests.training.image_sets import (
    fault,
    held,
    parquet_set,
    pictures,
    png,
    write_parquet,
)

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


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
        "say image_size=224, or another size, to bring all of them to squares"
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


@pytest.mark.parametrize("image", [bytes(2**20), None])
def test_small_files_that_stand_for_many_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: bytes | None
) -> None:
    """One page holds a value that all rows repeat, and rows without a value take hardly any."""
    monkeypatch.setattr(parquet, "LARGE", 2**22)
    parquet_set(tmp_path)
    file = tmp_path / "test-00000-of-00001.parquet"
    kind = pa.struct([("bytes", pa.binary())])
    repeated = pa.array([{"bytes": image}], kind).take(pa.array([0] * 100, "int64"))
    images = pa.chunked_array([repeated] * (1 if image else 1000))
    pq.write_table(
        pa.table({"image": images, "label": [0] * len(images)}), file, compression="zstd"
    )
    assert file.stat().st_size < 10_000
    before = pa.total_allocated_bytes()
    most = f"its rows take more than {2**22:,} bytes of memory"
    assert fault(tmp_path) == f"{file} is damaged: {most}"
    assert pa.total_allocated_bytes() - before < 2**25


def test_a_page_that_stands_for_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "LARGE", 2**20)
    parquet_set(tmp_path)
    file = tmp_path / "test-00000-of-00001.parquet"
    image = pa.array([{"bytes": bytes(2**24)}], pa.struct([("bytes", pa.binary())]))
    pq.write_table(pa.table({"image": image, "label": [0]}), file, compression="zstd")
    assert (
        fault(tmp_path) == f"{file} is damaged: its pages take more than {2**20:,} bytes of memory"
    )


def test_labels_that_no_integer_of_ours_holds(tmp_path: Path) -> None:
    parquet_set(tmp_path)
    file = tmp_path / "test-00000-of-00001.parquet"
    labels = pa.array([2**64 - 7], "uint64")
    pq.write_table(pa.table({"image": [{"bytes": b"x"}], "label": labels}), file)
    assert fault(tmp_path) == f"row 0 of {file} has label -7; labels are 0 to 1"


@pytest.mark.parametrize("names", [("cat", "dog", "bird"), None])
def test_a_class_that_no_training_image_has(tmp_path: Path, names: tuple[str, ...] | None) -> None:
    parquet_set(tmp_path, names=names)
    file = tmp_path / "test-00000-of-00001.parquet"
    write_parquet(file, pictures(2), [0, 2], names=names)
    title = " (bird)" if names else ""
    assert fault(tmp_path) == f"row 1 of {file} has label 2{title}, which no training image has"


def test_a_label_that_stands_for_millions_of_classes(tmp_path: Path) -> None:
    parquet_set(tmp_path, names=None)
    file = tmp_path / "train-00001-of-00002.parquet"
    write_parquet(file, pictures(2), [0, 10**12], names=None)
    assert fault(tmp_path) == (
        f"row 1 of {file} has label 1000000000000, of 6 images: labels are numbers of classes, "
        "counted from 0"
    )


def test_classes_that_are_called_alike_have_their_labels(tmp_path: Path) -> None:
    parquet_set(tmp_path, names=("crane", "crane", "dog"))
    assert load_data(str(tmp_path)).classes == ("crane (0)", "crane (1)", "dog")


def test_faults_of_class_lists(tmp_path: Path) -> None:
    parquet_set(tmp_path, names=None)
    file = tmp_path / "classes.json"
    file.write_text("[]")
    assert fault(tmp_path) == f"{file} is not a list of class names"
    file.write_text("[")
    assert fault(tmp_path).startswith(f"{file} is damaged: ")


def test_parquet_beyond_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet_set(tmp_path)
    monkeypatch.setattr(parquet, "MOST_BYTES", 100)
    assert "more than is read into memory: unpack it" in fault(tmp_path)


def test_a_pipe_among_the_files(tmp_path: Path) -> None:
    parquet_set(tmp_path)
    shard = tmp_path / "train-00001-of-00002.parquet"
    shard.unlink()
    os.mkfifo(shard)
    assert fault(tmp_path) == f"{shard} is damaged: it is not a plain file"
