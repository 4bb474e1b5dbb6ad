"""The studies that come with the project."""

from pathlib import Path

import pytest
import torch

from precrop.read.inputs import Inputs
from precrop.read.lower import lower
from precrop.read.network import read_network
from precrop.study.cells import expand, label
from precrop.study.preparing import check
from precrop.study.spec import read_study
from precrop.training.data import ImageData, Images
from precrop.zoo import load_model

FOLDER = Path(__file__).parents[2] / "studies"
FILES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "claims.yaml")
CELLS = {
    "balance": 75,
    "granularity": 96,
    "granularity-small": 100,
    "imagenet": 90,
    "macs-alone": 32,
    "many-classes": 30,
    "masks-small": 60,
    "methods": 732,
    "methods-pilot": 19,
    "options": 114,
    "preconfig": 60,
    "preconfig-small": 24,
    "proxy-pilot": 60,
    "proxy-seeds": 20,
    "repair": 96,
    "streams": 18,
    "streams-equal-time": 27,
    "tiny-imagenet": 90,
    "torch-pruning-small": 40,
}
SIDES = {
    "granularity-small": (16, 10),
    "imagenet": (224, 1000),
    "many-classes": (32, 50),
    "masks-small": (16, 10),
    "preconfig-small": (16, 10),
    "proxy-pilot": (16, 10),
    "proxy-seeds": (16, 10),
    "repair": (16, 10),
    "streams": (16, 10),
    "streams-equal-time": (16, 10),
    "tiny-imagenet": (64, 50),
    "torch-pruning-small": (16, 10),
}
"""Pixels and classes of images other than CIFAR-10's."""


def images(name: str) -> ImageData:
    """Images of the study's size, with nothing on them."""
    side, classes = SIDES.get(name, (32, 10))
    number = max(256, 2 * classes) if side < 224 else 256
    split = Images(
        torch.zeros(number, 3, side, side, dtype=torch.uint8), torch.zeros(number).long()
    )
    names = tuple(map(str, range(classes)))
    return ImageData(name, names, (3, side, side), (0.5,) * 3, (0.2,) * 3, split, split, "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_they_ask_for(path: Path) -> None:
    study = read_study(path, trust=True)
    cells = expand(study)
    assert study.name == path.stem
    assert len(cells) == len({cell.id for cell in cells}) == CELLS[path.stem]
    assert len({label(cell) for cell in cells}) == len(cells)
    assert len(study.description) > 60


def test_all_are_known() -> None:
    assert {path.stem for path in FILES} == set(CELLS)


def test_the_pilot() -> None:
    cells = expand(read_study(FOLDER / "methods-pilot.yaml"))
    assert {cell.variant for cell in cells} == {
        "dense",
        "uniform width",
        "PreCrop",
        "PreCrop, streams cropped",
        "SynFlow channels",
        "SynFlow weights",
        "PreCrop as SynFlow channels",
    }
    assert [cell.seed for cell in cells if cell.variant == "dense"] == [0]
    assert {cell.limits.given().get("macs") for cell in cells} == {None, 0.3}
    assert {(cell.network.name, cell.recipe.epochs) for cell in cells} == {("resnet20", 10)}
    check(cells, images("methods-pilot"))


def test_every_cell_can_be_trained() -> None:
    check(expand(read_study(FOLDER / "granularity.yaml", trust=True)), images("granularity"))


@pytest.mark.matrix
@pytest.mark.parametrize(
    "name",
    [
        "balance",
        "granularity-small",
        "imagenet",
        "macs-alone",
        "many-classes",
        "masks-small",
        "methods",
        "options",
        "preconfig",
        "preconfig-small",
        "proxy-pilot",
        "tiny-imagenet",
        "torch-pruning-small",
    ],
)
def test_every_cell_of_the_large_ones_can_be_trained(name: str) -> None:
    check(expand(read_study(FOLDER / f"{name}.yaml", trust=True)), images(name))


def test_the_documentations_example(tmp_path: Path) -> None:
    page = (FOLDER.parent / "docs" / "studies.md").read_text(encoding="utf-8")
    example = page.partition("```yaml\n")[2].partition("```")[0]
    path = tmp_path / "example.yaml"
    path.write_text(example, encoding="utf-8")
    cells = expand(read_study(path))
    check([cell for cell in cells if cell.network.name == "resnet20"], images("example"))
    for key in ("plan", "uniform", "torch-pruning", "mask", "densities", "match"):
        assert f"`{key}" in page


def test_every_study_is_documented() -> None:
    page = (FOLDER.parent / "docs" / "studies.md").read_text(encoding="utf-8")
    for name in CELLS:
        assert f"[{name}](../studies/{name}.yaml)" in page


def test_the_chain() -> None:
    model = load_model("studies.networks:vgg8", {"num_classes": 10})
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
    structure = lower(read_network(model, Inputs((3, 16, 16)))).structure
    assert [layer.kind for layer in structure.layers] == ["conv"] * 7 + ["linear"]
    assert len(structure.groups) == 7
