"""``precrop count`` prints what `precrop.count` counts."""

import json

import pytest
import torch

import precrop
from precrop.cli.app import main
from precrop.models import resnet20


def test_json_is_what_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["count", "resnet20", "--arg", "num_classes=7", "--input-shape", "3x16x16", "--json"]
    assert main(words) == 0
    counted = precrop.count(resnet20(num_classes=7), (3, 16, 16))
    assert json.loads(capsys.readouterr().out) == counted.to_json()


def test_the_table_has_the_totals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", "resnet20"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.split() == ["total", "22", "272,474", "40,813,184"]


def test_a_shape_that_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", "resnet20", "--input-shape", "4,32,32"]) == 2
    assert "4x32x32" in capsys.readouterr().err


@pytest.mark.parametrize(
    "value", ["{[]: 1}", "{{}}", "-" * 9000 + "1", "0x" + "f" * 5000], ids=lambda value: value[:9]
)
def test_an_argument_that_is_no_value_of_pythons_is_a_text(
    capsys: pytest.CaptureFixture[str], value: str
) -> None:
    assert main(["count", "resnet20", "--arg", f"num_classes={value}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "resnet20 could not be built" in said


def test_inputs_of_a_function(capsys: pytest.CaptureFixture[str]) -> None:
    two = "tests.cli.test_count:two_images"
    assert main(["count", "resnet20", "--input", two, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["macs"] == precrop.count(resnet20(), (3, 8, 8)).macs


def test_a_function_that_returns_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", "resnet20", "--input", "tests.cli.test_count:nothing"]) == 2
    said = "precrop: error: tests.cli.test_count:nothing gave None: let it return what the network "
    assert capsys.readouterr().err.startswith(said)


def nothing() -> None:
    pass


def two_images() -> torch.Tensor:
    return torch.zeros(2, 3, 8, 8)
