"""``precrop count`` prints what `precrop.count` counts."""

import json

import pytest

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
