import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from precrop.cli.app import main
from precrop.costs.profiles import DeviceProfile, roofline
from precrop.deployment import profiling
from precrop.deployment.profiling import Check, Subject
from precrop.errors import PrecropError

Output = pytest.CaptureFixture[str]
Measured = list[Subject]

MODEL = "tests.deployment.benched:small"
FIT = {"samples": 9, "passes": {}, "median_error": 0.05, "largest_error": 0.3}
PROFILE = replace(roofline(1e11, 1e10), fitted=FIT)


def narrow(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, 2, 1))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[DeviceProfile], Measured]:
    """Networks that are handed over to be measured, at no cost; the profile is as told."""

    def become(profile: DeviceProfile) -> Measured:
        found: Measured = []

        def profile_device(subjects: Sequence[Subject], **_: Any) -> DeviceProfile:
            found.extend(subjects)
            return profile

        def check(profile: DeviceProfile, subjects: Sequence[Subject], **_: Any) -> list[Check]:
            found.extend(subjects)
            return [Check(subject.name, 1.0, 2.0) for subject in subjects]

        monkeypatch.setattr(profiling, "profile_device", profile_device)
        monkeypatch.setattr(profiling, "check", check)
        return found

    return become


Become = Callable[[DeviceProfile], Measured]


def test_shapes_and_arguments_are_those_of_every_model(measured: Become, capsys: Output) -> None:
    found = measured(PROFILE)
    name = "tests.cli.test_profile:narrow"
    words = ["profile", name, "--check", name, "--input-shape", "3x9x8", "--arg", "width=6"]
    assert main(words) == 0
    assert "narrow: predicted" in capsys.readouterr().out
    assert [subject.input_shape for subject in found] == [(3, 9, 8)] * 2
    assert [subject.model[0].out_channels for subject in found] == [6, 6]  # type: ignore[index]


def test_a_network_keeps_the_shape_that_is_known_of_it(measured: Become) -> None:
    found = measured(PROFILE)
    assert main(["profile", "resnet20"]) == 0
    assert [subject.input_shape for subject in found] == [(3, 32, 32)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([MODEL], "no input shape is known for tests.deployment.benched:small: give one with"),
        ([MODEL, "--input-shape", "3,a"], "'3,a' is not like 3,224,224"),
        (["resnet20", "--input-shape", "5,32,32"], "fails on"),
        (["resnet20", "--check", MODEL], "no input shape is known"),
        (["resnet20", "--arg", "five"], "'five' is not like name=value"),
        (["resnet20", "-o", "none/p.json"], "cannot write none/p.json: No such file"),
        (["resnet20", "-o", "."], "cannot write .: it is a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_refused_is_refused_before_anything_is_measured(
    measured: Become, words: list[str], message: str, capsys: Output
) -> None:
    found = measured(PROFILE)
    assert main(["profile", *words]) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.err.count("\n") == 1
    assert not found


def test_a_check_that_fails_costs_no_profile(
    measured: Become, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(PROFILE)

    def check(*_: Any, **__: Any) -> list[Check]:
        raise PrecropError("ONNX Runtime cannot run it")

    monkeypatch.setattr(profiling, "check", check)
    path = tmp_path / "cpu.json"
    assert main(["profile", "resnet20", "--check", "resnet20", "-o", str(path)]) == 2
    output = capsys.readouterr()
    assert "ONNX Runtime cannot run it" in output.err
    assert "GMAC/s" in output.out
    assert DeviceProfile.load(path).digest == PROFILE.digest


@pytest.mark.parametrize("error", [0.149, 0.151])
def test_a_bad_fit_is_one_line(measured: Become, error: float, capsys: Output) -> None:
    measured(replace(PROFILE, fitted={**FIT, "median_error": error}))
    assert main(["profile", "resnet20", "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["fitted"]["median_error"] == error
    warnings = [line for line in output.err.splitlines() if line]
    if error < 0.15:
        assert warnings == []
        return
    (warning,) = warnings
    assert warning.startswith("precrop: warning: ")
    assert "15.1%" in warning
    assert "measure again on a quiet machine, with more --rounds" in warning
