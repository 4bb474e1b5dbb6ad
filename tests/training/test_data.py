"""Data sets that are held in memory or decoded as they are used."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from precrop.cli.arguments import load_images
from precrop.errors import PrecropError
from precrop.training import data as data_module
from precrop.training.data import (
    Decoded,
    ImageData,
    Images,
    load_again,
    load_data,
    load_shaped,
)
from tests.training.image_sets import class_folders, held, parquet_set, pictures, png, write_parquet


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


def test_images_that_are_no_squares_have_a_shape_of_their_own(tmp_path: Path) -> None:
    class_folders(tmp_path, (10, 6))
    assert load_shaped(str(tmp_path), (3, 10, 6)).shape == (3, 10, 6)
    assert load_shaped(str(tmp_path), (3, 8, 8)).shape == (3, 8, 8)
    with pytest.raises(PrecropError, match=r"not to 3,6,10, and those of .* are 3x10x6: say ano"):
        load_shaped(str(tmp_path), (3, 6, 10))
    (tmp_path / "val" / "cat" / "0.png").write_bytes(b"damaged")
    with pytest.raises(PrecropError, match=r"not to 3,6,10, and those of"):
        load_shaped(str(tmp_path), (3, 6, 10))  # which is seen before the others are decoded


def test_images_of_many_sizes_need_one(tmp_path: Path) -> None:
    class_folders(tmp_path, (10, 6))
    larger = tmp_path / "train" / "dog" / "last.png"
    larger.write_bytes(png(pictures(1, 8, 8)[0]))
    seen = f"{larger} is 8 x 8 pixels, the first image is 6 x 10"
    whole = "or another size, to bring all of them to squares"
    with pytest.raises(PrecropError) as error:
        load_data(str(tmp_path))
    assert str(error.value) == f"{seen}: say image_size=224, {whole}"
    with pytest.raises(PrecropError) as error:
        load_images(str(tmp_path), None)
    assert str(error.value) == f"{seen}: say --input-shape 3,224,224, {whole}"
    with pytest.raises(PrecropError, match=r"squares, as 3,224,224, not to 3,10,6, .* several si"):
        load_images(str(tmp_path), (3, 10, 6))
    assert load_images(str(tmp_path), (3, 5, 5)).shape == (3, 5, 5)


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
