import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from precrop.cli import profile
from precrop.cli.app import main
from precrop.costs.profiles import DeviceProfile, roofline
from precrop.deployment import profiling, quiet
from precrop.deployment.profiling import Check, Subject
from precrop.deployment.quiet import wait
from precrop.errors import PrecropError

Output = pytest.CaptureFixture[str]
Measured = list[Subject]

MODEL = "tests.deployment.benched:small"
ROOT = Path(__file__).parents[2]
FIT = {
    "samples": 9,
    "passes": {},
    "median_error": 0.05,
    "largest_error": 0.3,
    "held_out": {"left_out": "network", "median_error": 0.08, "largest_error": 0.4},
    "left": 0,
}
QUIET = quiet.Quiet(0.01, 0.3)
PROFILE = replace(roofline(1e11, 1e10), fitted=FIT)


def narrow(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, 2, 1))


@pytest.fixture
def measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[DeviceProfile], Measured]:
    """Networks that are handed over to be measured, at no cost; the profile is as told."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quiet, "wait", lambda *_: QUIET)

    def become(profile: DeviceProfile) -> Measured:
        found: Measured = []

        def profile_device(subjects: Sequence[Subject], *_: Any, **__: Any) -> DeviceProfile:
            found.extend(subjects)
            return profile

        def check(profile: DeviceProfile, subject: Subject, **_: Any) -> Check:
            found.append(subject)
            return Check(subject.name, 1.0, 2.0)

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
    assert "narrow(width=6): predicted" in capsys.readouterr().out
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
        (["resnet20", "--minutes", "0"], "--minutes 0 is not a time: write a number above 0"),
        (["resnet20", "--minutes", "nan"], "--minutes nan is not a time"),
        (["resnet20", "--rounds", "0"], "--rounds, --threads and --batch are whole numbers from 1"),
        (["resnet20", "--threads", "0"], "are whole numbers from 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_refused_is_refused_before_anything_is_measured(
    measured: Become, words: list[str], message: str, capsys: Output
) -> None:
    found = measured(PROFILE)
    assert main(["profile", *words]) == 2
    *announced, error = capsys.readouterr().err.splitlines()
    assert error.startswith("precrop: error: ")
    assert message in error
    assert len(announced) <= 1
    assert not found
    assert not [*Path().iterdir()]


def test_a_check_that_fails_costs_no_profile(
    measured: Become, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(PROFILE)

    def check(*_: Any, **__: Any) -> Check:
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
    held_out = {**FIT["held_out"], "median_error": error}  # type: ignore[dict-item]
    measured(replace(PROFILE, fitted={**FIT, "held_out": held_out}))
    assert main(["profile", "resnet20", "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["fitted"]["held_out"]["median_error"] == error
    _, *warnings = output.err.splitlines()
    if error < 0.15:
        assert warnings == []
        return
    (warning,) = warnings
    assert warning.startswith("precrop: warning: no good fit")
    assert "15.1%" in warning
    assert "measure again on a quiet machine, with more networks or --rounds" in warning


def test_a_fit_through_its_only_point_is_not_called_good(measured: Become, capsys: Output) -> None:
    measured(replace(PROFILE, fitted={**FIT, "median_error": 0.0, "held_out": None}))
    assert main(["profile", "resnet20"]) == 0
    assert "one pass alone says nothing of how well others are" in capsys.readouterr().err


def test_what_is_left_goes_on(measured: Become, capsys: Output) -> None:
    measured(replace(PROFILE, fitted={**FIT, "left": 3}))
    assert main(["profile", "resnet20"]) == 0
    output = capsys.readouterr()
    assert "3 passes are left: the same command goes on with them" in output.err
    assert "that a fit to the others did not see: median error 8.0%, the largest 40" in output.out


def test_a_profile_that_nobody_named_replaces_none(measured: Become, capsys: Output) -> None:
    measured(PROFILE)
    assert main(["profile", "resnet20"]) == 0
    assert DeviceProfile.load("cpu-ort-1.json").digest == PROFILE.digest
    assert main(["profile", "resnet20"]) == 2
    assert "cpu-ort-1.json is there already: say -o cpu-ort-1.json" in capsys.readouterr().err


def test_networks_need_no_name(measured: Become, monkeypatch: pytest.MonkeyPatch) -> None:
    from precrop.zoo import library_names

    assert len(profile.USUAL) >= 3
    assert set(profile.USUAL) <= {name for names in library_names().values() for name in names}
    monkeypatch.setattr(profile, "USUAL", ("resnet20",))
    found = measured(PROFILE)
    assert main(["profile", "--shares", "1"]) == 0
    assert [subject.name for subject in found] == ["resnet20"]


def test_a_busy_machine_is_one_line(
    measured: Become, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = quiet.Quiet(0.8, 5.3)
    measured(PROFILE)
    monkeypatch.setattr(quiet, "wait", wait)
    monkeypatch.setattr(quiet, "listen", lambda _: busy)
    monkeypatch.setattr(quiet, "PATIENCE", 0.0)
    assert main(["profile", "resnet20"]) == 0
    _, line = capsys.readouterr().err.splitlines()
    assert (
        "the machine is busy: the times of one computation vary by 80%, load 5.3; times may" in line
    )


def test_stopped_it_says_how_to_go_on(
    measured: Become, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(PROFILE)

    def stop(*_: Any, **__: Any) -> DeviceProfile:
        raise KeyboardInterrupt

    monkeypatch.setattr(profiling, "profile_device", stop)
    assert main(["profile", "resnet20"]) == 130
    assert "the same command goes on from cpu-ort-1.passes.jsonl" in capsys.readouterr().err


def test_the_first_line_waits_for_nothing_heavy() -> None:
    code = (
        "import os, sys; from precrop.cli import output, profile\n"
        "def first(text):\n"
        "    assert 'measuring cpu with ort on 1 thread: resnet20' in text\n"
        "    assert not {'torch', 'scipy', 'rich'} & set(sys.modules)\n"
        "    os._exit(7)\n"
        "profile.note = first\n"
        "from precrop.cli.app import main; main(['profile', 'resnet20'])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT)
    assert found.returncode == 7
