"""The script that exports the matrix tells PyTorch's failures from ours, and goes on."""

from pathlib import Path

import pytest
from torch import nn

from precrop.deployment.exporting import Exportable
from precrop.read.inputs import Inputs
from scripts.export_table import Attempt, Result, attempt, bare, page, read_cache
from tests.deployment.nets import Gamma, OneByOne, Valued, small

GOOD = {"pt2": Attempt(difference=0.0), "onnx": Attempt(difference=1e-6, megabytes=2.0)}


def attempted(model: nn.Module, shape: tuple[int, ...], name: str) -> Attempt:
    inputs = Inputs(shape)
    return attempt([Exportable(model, inputs), Exportable(model, inputs, batch=1)], name)


def test_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "export.jsonl"
    assert read_cache(cache) == {}
    good = Result("resnet18", 0.5, GOOD, seconds=3.0)
    stopped = Result("resnet34", None, stopped="took more than 9 seconds")
    cache.write_text(f"{good.to_json()}\n{stopped.to_json()}\n{good.to_json()[:40]}")
    assert read_cache(cache) == {("resnet18", 0.5): good}


@pytest.mark.parametrize("name", ["pt2", "onnx"])
def test_failures_of_pytorch(name: str) -> None:
    found = attempted(Valued(), (3, 8, 8), name)
    assert found.difference is None
    assert "torch.export cannot read" in found.error
    assert found.torch_error
    assert not found.ours


def test_a_fixed_batch_is_the_second_choice() -> None:
    found = attempted(OneByOne(), (3, 8, 8), "pt2")
    assert (found.batch, found.error) == (1, "")
    assert "any batch size" in found.any_error
    assert found.torch_any_error
    assert not found.ours_any


def test_failures_of_onnx_alone() -> None:
    assert "lgamma" in attempted(Gamma(), (4,), "onnx").torch_error
    assert attempted(Gamma(), (4,), "pt2").difference == 0


@pytest.mark.parametrize("name", ["pt2", "onnx"])
def test_pytorch_by_itself_exports_what_it_can(name: str) -> None:
    assert bare(small(), Inputs((3, 12, 12)), name, None) == ""


def test_the_page() -> None:
    ours = {"pt2": Attempt(error="no"), "onnx": Attempt(difference=0.0, any_error="no | never")}
    text = page(
        [
            Result("resnet34", None, ours),
            Result("resnet18", None, GOOD),
            Result("resnet50", None, stopped="took more than 9 seconds"),
            Result("resnet18", 0.5, GOOD),
        ]
    )
    dense, cropped = text.split("### Cropped to 50% of their MACs")
    assert "- pt2: 1 of 3 networks, 1 of them for any batch size" in dense
    assert "- onnx: 2 of 3 networks" in dense
    assert "| resnet34 | pt2 | 1 | no | **exports it** |" in dense
    assert "| resnet34 | onnx | any | no \\| never | **exports it** |" in dense
    assert "- resnet50: no answer, took more than 9 seconds." in dense
    row = "| resnet18 | any | 0.0e+00 | 1.0e-06 | 2.0 | 0.0 |"
    assert dense.index(row) < dense.index("| resnet34 | any | – | 0.0e+00 | – | 0.0 |")
    assert "onnx: 1 of 1 networks" in cropped
    assert not Result("resnet34", None, ours).sound
    assert Result("resnet18", None, GOOD).sound
