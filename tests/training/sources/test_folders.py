"""A folder for every class, and its faults."""

import os
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image

from precrop.errors import PrecropError
from precrop.training.data import load_data
from precrop.training.sources import folders
from precrop.training.sources.source import decoded
from tests.training.image_sets import class_folders, fault, held, pictures, png


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


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    """Also where images are decoded as they are used, since their sizes differ."""
    class_folders(tmp_path)
    for size in (5, 6):
        name = os.fsdecode(b"\xff%d.png" % size)
        (tmp_path / "train" / "dog" / name).write_bytes(png(pictures(1)[0, :, :size]))
    assert len(load_data(str(tmp_path), image_size=6).train) == 8


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


def test_an_image_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    class_folders(tmp_path / "pets")
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    file = tmp_path / "pets" / "train" / "cat" / "0.png"
    file.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n%%EndComments\n{} loop\n%%EOF"
    )
    assert fault(tmp_path / "pets") == f"{file} is damaged: no image that can be read"
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "MPO", "BMP", "PPM", "TIFF", "WEBP", "GIF"])
def test_kinds_of_images(tmp_path: Path, kind: str) -> None:
    class_folders(tmp_path)
    file = BytesIO()
    Image.new("RGB", (6, 6), (9, 9, 9)).save(file, kind)
    (tmp_path / "train" / "cat" / "0.png").write_bytes(file.getvalue())
    first = held(load_data(str(tmp_path)).train).images[0].int()
    assert (first - 9).abs().max() <= 3


@pytest.mark.parametrize("side", [8193, 13000])
def test_an_image_of_more_pixels_than_are_decoded(tmp_path: Path, side: int) -> None:
    """A few bytes say it; beyond some size Pillow would warn besides."""
    class_folders(tmp_path)
    file = tmp_path / "train" / "cat" / "0.png"
    whole = bytearray(png(pictures(1)[0]))
    whole[16:24] = side.to_bytes(4, "big") * 2
    whole[29:33] = crc32(whole[12:29]).to_bytes(4, "big")
    file.write_bytes(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = fault(tmp_path)
    more = f"{file} has {side} x {side} pixels, more than 67,108,864"
    assert said == f"{more}: scale it down, or leave it out"


def test_an_image_that_its_shorter_side_would_make_huge(tmp_path: Path) -> None:
    class_folders(tmp_path)
    file = tmp_path / "val" / "dog" / "0.png"
    file.write_bytes(png(pictures(1, 3, 301)[0]))
    assert fault(tmp_path).startswith(f"{file} has 301 x 3 pixels: photographs are scaled by their")
    file.write_bytes(png(pictures(1, 3, 300)[0]))
    assert len(load_data(str(tmp_path), image_size=8).test) == 6


def test_links_among_class_folders(tmp_path: Path) -> None:
    """A class may be a link, as in subsets of ImageNet; none may lead to what is read already."""
    class_folders(tmp_path)
    cats, elsewhere = tmp_path / "train" / "cat", tmp_path / "elsewhere"
    cats.rename(elsewhere)
    cats.symlink_to(elsewhere)
    assert len(load_data(str(tmp_path)).train) == 6
    (elsewhere / "more").symlink_to(cats)
    said = f"{cats / 'more'} leads to a folder that is read already: remove it"
    assert fault(tmp_path) == said


def test_folders_deep_in_one_another(tmp_path: Path) -> None:
    class_folders(tmp_path)
    deep, more = tmp_path / "train" / "cat", "x/" * 60
    (deep / more).mkdir(parents=True)
    (deep / more / "a.png").write_bytes(png(pictures(1)[0]))
    assert len(load_data(str(tmp_path)).train) == 7
    for _ in range(10):
        deep /= more
        deep.mkdir(parents=True, exist_ok=True)
    said = f"{tmp_path / 'train' / 'cat'} has folders in one another, 64 deep: move the images up"
    assert fault(tmp_path) == said


def test_a_pipe_in_the_place_of_an_image(tmp_path: Path) -> None:
    class_folders(tmp_path)
    images = folders.class_folders(tmp_path).train
    file = tmp_path / "train" / "cat" / "0.png"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(PrecropError, match=f"{file} is damaged: it is not a plain file"):
        images.image(0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_images_of_16_bits(tmp_path: Path, kind: str) -> None:
    values = np.array([[0, 255, 256, 30000], [1000, 32768, 65280, 65535]])
    file = BytesIO()
    Image.fromarray(values.astype("uint16")).save(file, kind)
    file.seek(0)
    expected = np.repeat(values[..., None] // 256, 3, axis=2)
    assert np.array_equal(np.asarray(decoded(file, "x.png")), expected)
    for dtype in ("float32", "int32"):
        with pytest.raises(PrecropError, match="x is damaged: its pixels are 32-bit numbers"):
            decoded(encoded(values.astype(dtype)), "x")


def encoded(values: Any) -> BytesIO:
    file = BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    return BytesIO(file.getvalue())


@pytest.mark.parametrize("transparent", [bytes([0, 128, 255]), 1, None])
def test_palettes_are_their_colours(transparent: bytes | int | None) -> None:
    """However transparent they are, and without a word about it."""
    colours = np.array([[10, 20, 30], [200, 0, 7], [0, 255, 9]], "uint8")
    places = np.array([[0, 1, 2], [2, 1, 0]], "uint8")
    image = Image.fromarray(places, "P")
    image.putpalette(colours.tobytes())
    file = BytesIO()
    image.save(file, "PNG", **({} if transparent is None else {"transparency": transparent}))
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = np.asarray(decoded(file, "x.png"))
    assert np.array_equal(found, colours[places])
