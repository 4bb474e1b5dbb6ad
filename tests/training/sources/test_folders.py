"""A folder for every class, and its faults."""

from pathlib import Path

import pytest
import torch

from precrop.training.data import load_data
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
