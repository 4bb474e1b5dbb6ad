"""Channels of trained weights from a shell."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import precrop
from precrop.cli.app import main
from tests.networks import small
from tests.trained.oracle import trained

Output = pytest.CaptureFixture[str]
SHUFFLED = ["tests.networks:small", "--arg", "block=shuffle unit", "--input-shape", "3,8,8"]


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("init", ["l1", "bn"])
def test_build_keeps_the_channels_that_the_library_keeps(init: str, capsys: Output) -> None:
    model = trained(small("residual")).float()
    save_file(model.state_dict(), "trained.safetensors")
    plan = precrop.plan(model, (3, 8, 8), params=0.5)
    plan.save("half.json")
    argv = ["half.json", "--model", "tests.networks:small", "--arg", "block=residual"]
    argv += ["--weights", "trained.safetensors", "--init", init, "-o", "half"]
    assert main(["build", *argv]) == 0
    assert capsys.readouterr().err == ""
    expected = plan.build(model, init).state_dict()  # type: ignore[arg-type]
    found = load_file("half.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_what_is_sliced_is_one_line(capsys: Output) -> None:
    assert main(["crop", *SHUFFLED, "--params", "0.5", "--rule", "uniform", "--init", "l1"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    _, sliced = err.splitlines()  # the first is that there are no trained weights
    assert sliced.startswith(
        "precrop: warning: 1 of 2 widths keep their leading channels: blocks.0"
    )


def test_an_unknown_init_is_refused(capsys: Output) -> None:
    assert main(["crop", "resnet20", "--params", "0.5", "--init", "l3"]) == 2
    assert "'l3' is not one of 'slice', 'reset', 'l1', 'l2', 'bn'" in capsys.readouterr().err
