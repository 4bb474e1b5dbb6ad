import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from typer.testing import CliRunner

import precrop
from precrop.cli.app import app
from precrop.costs.profiles import DeviceProfile, roofline
from precrop.costs.work import FEATURES
from precrop.deployment import profiling, quiet
from precrop.deployment.operations import Sample
from precrop.deployment.profiling import Subject, check, kernel_step, predict
from precrop.deployment.rates import CountedWork, TimedPass
from precrop.deployment.runtimes import check_here
from precrop.deployment.setting import Setting
from precrop.deployment.timing import Timing
from precrop.errors import PrecropError
from precrop.models import resnet20
from precrop.models.resnet import CifarResNet

IMAGE = (3, 32, 32)


def test_the_step_is_where_filling_up_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def blocks_of_16(runs: Mapping[str, Any], **_: Any) -> dict[str, Timing]:
        widths = {step: 96 + int(step) for step in runs}
        return {step: Timing((float((-(-w // 16) * 16) ** 2),)) for step, w in widths.items()}

    monkeypatch.setattr(profiling, "sessions", lambda *_: nullcontext([int]))
    monkeypatch.setattr(profiling, "interleaved", blocks_of_16)
    assert kernel_step(Setting("ort"), 3) == 16


@pytest.fixture(scope="module", params=["eager", "ort"])
def measured(request: pytest.FixtureRequest) -> DeviceProfile:
    subject = Subject("resnet8", CifarResNet(1).eval(), IMAGE)
    return profiling.profile_device([subject], Setting(request.param), shares=(1.0, 0.4), rounds=2)


def test_a_device_is_measured(measured: DeviceProfile, tmp_path: Path) -> None:
    assert {"conv", "other"} <= set(measured.coefficients)
    assert measured.fitted["samples"] > 20
    assert set(measured.fitted["passes"]) == {"resnet8 at 100%", "resnet8 at 40%"}
    assert measured.machine["cpu"] == measured.name
    assert measured.fitted["left"] == 0
    assert measured.fitted["held_out"]["median_error"] >= 0
    measured.save(tmp_path / "cpu.json")
    loaded = DeviceProfile.load(tmp_path / "cpu.json")
    assert loaded.digest == measured.digest
    plan = precrop.plan(resnet20(), IMAGE, latency=0.95, device_profile=tmp_path / "cpu.json")
    assert plan.budgets["latency"].used <= plan.budgets["latency"].limit
    assert plan.options["device_profile"]["digest"] == measured.digest


def test_a_network_is_measured_beside_its_prediction(measured: DeviceProfile) -> None:
    model = CifarResNet(1).eval()
    found = check(measured, Subject("resnet8", model, IMAGE), rounds=2)
    assert found.predicted == predict(measured, model, IMAGE)
    assert found.seconds > 0
    assert found.error == found.predicted / found.seconds - 1


def test_prediction_grows_with_the_batch() -> None:
    profile = roofline(1e11, 1e10)
    one, four = (predict(profile, resnet20(), IMAGE, batch) for batch in (1, 4))
    assert one < four < 4 * one


def test_a_profile_of_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = DeviceProfile("x", "cpu", "ort", 1, {"other": {}}, machine={"cpu": "Abacus 3000"})
    with pytest.raises(PrecropError, match="of another device, Abacus 3000, and this is"):
        check_here(elsewhere)
    check_here(roofline(1e11, 1e10))


@pytest.mark.parametrize(
    ("subjects", "options", "message"),
    [
        ([], {}, "at least one network"),
        ([("x", nn.Conv2d(3, 4, 1), IMAGE)], {"runtime": "compiled"}, "of a profile is unknown"),
        ([("x", nn.Conv2d(3, 4, 1), IMAGE)], {"device": "tpu"}, "device 'tpu' is unknown"),
    ],
)
def test_senseless_requests(
    subjects: list[tuple[str, nn.Module, Any]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PrecropError, match=message):
        profiling.profile_device([Subject(*one) for one in subjects], Setting(**options))


class Device:
    """Runs nothing: a network's pass takes what its name says, and a clock moves by a minute."""

    def __init__(self) -> None:
        self.now, self.passes = 0.0, list[str]()

    def clock(self) -> float:
        return self.now

    def measured(self, subject: Subject, share: float, *rest: Any) -> TimedPass | None:
        rest[-1](subject.name)
        self.passes.append(f"{subject.name} {share}")
        self.now += 60
        if subject.name == "tiny" and share < 1:
            return None
        amounts = dict.fromkeys(FEATURES, 100 * share)
        sample = Sample("conv", amounts, 1e-3 * share)
        return TimedPass(
            subject.name, share, 1e-2 * share, (sample,) * 9, (CountedWork("conv", amounts),) * 9
        )


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    found = Device()
    monkeypatch.setattr(profiling, "measured_pass", found.measured)
    monkeypatch.setattr(profiling, "kernel_step", lambda *_: 16)
    return found


SUBJECTS = [Subject(name, nn.Conv2d(3, 4, 1), IMAGE) for name in ("big", "tiny")]


def profiled(device: Device, path: Path | None, seconds: float | None = None) -> DeviceProfile:
    return profiling.profile_device(
        SUBJECTS,
        Setting("ort"),
        shares=(1.0, 0.5),
        kept=path,
        seconds=seconds,
        clock=device.clock,
        rounds=2,
    )


def test_all_networks_come_before_the_next_share(device: Device) -> None:
    assert profiled(device, None).fitted["left"] == 0
    assert device.passes == ["big 1.0", "tiny 1.0", "big 0.5", "tiny 0.5"]


def test_a_profile_ends_in_time_and_goes_on(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "cpu.passes.jsonl"
    first = profiled(device, path, 130)
    assert device.passes == ["big 1.0", "tiny 1.0"]
    assert first.fitted["left"] == 2
    assert set(first.fitted["passes"]) == {"big at 100%", "tiny at 100%"}
    second = profiled(device, path)
    assert device.passes == ["big 1.0", "tiny 1.0", "big 0.5", "tiny 0.5"]
    assert second.fitted["left"] == 0
    # What gets no smaller is remembered too, and all is as if it had been measured at once.
    assert profiled(device, path).digest == second.digest == profiled(Device(), path).digest
    assert len(device.passes) == 4
    assert second.digest == profiled(device, None).digest


def test_a_profile_whose_time_is_over_before_it_begins_has_one_pass(device: Device) -> None:
    assert profiled(device, None, 0.0).fitted["left"] == 3


def test_what_is_measured_is_kept_when_it_is_stopped(device: Device, tmp_path: Path) -> None:
    path, profiles = tmp_path / "cpu.passes.jsonl", list[DeviceProfile]()

    def stop(profile: DeviceProfile) -> None:
        profiles.append(profile)
        if len(profiles) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profiling.profile_device(
            SUBJECTS, Setting("ort"), shares=(1.0, 0.5), kept=path, rounds=2, found=stop
        )
    assert [profile.fitted["left"] for profile in profiles] == [3, 2]
    profiled(device, path)
    assert device.passes == ["big 1.0", "tiny 1.0", "big 0.5", "tiny 0.5"]


def test_passes_of_another_setting_are_not_mixed(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "cpu.passes.jsonl"
    profiled(device, path)
    with pytest.raises(PrecropError, match="was measured with rounds 2, not 3: remove it"):
        profiling.profile_device(SUBJECTS, Setting("ort"), kept=path, rounds=3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        '{"schema": 2}',
        "GOOD\n{}",
        "NO STEP",
        'GOOD\n{"network": "a", "inputs": "b", "share": NaN, "seconds": null}',
        'GOOD\n{"network": "a", "inputs": "b", "share": 1, "seconds": 1, "samples": '
        '[["conv", 1, [1, 2, 3, 4]]], "works": []}',
    ],
)
def test_a_broken_file_of_passes_is_named(device: Device, tmp_path: Path, text: str) -> None:
    path = tmp_path / "cpu.passes.jsonl"
    profiled(device, path)
    head = path.read_text(encoding="utf-8").splitlines()[0]
    text = text.replace("NO STEP", head.replace('"step": 16', '"step": 0'))
    path.write_text(text.replace("GOOD", head), encoding="utf-8")
    with pytest.raises(PrecropError, match=r"cpu.passes.jsonl holds no measured passes: remove it"):
        profiled(device, path)


def test_networks_that_get_no_smaller(device: Device) -> None:
    with pytest.raises(PrecropError, match="add 1 to them"):
        profiling.profile_device(SUBJECTS[1:], Setting("ort"), shares=(0.5,), rounds=2)


def shares_told(device: Device, seconds: float) -> list[float]:
    """The progress that is told while the device is measured for so long."""
    shares: list[float] = []
    profiling.profile_device(
        SUBJECTS, Setting("ort"), rounds=2, seconds=seconds, clock=device.clock,
        progress=lambda _, share: shares.append(share),
    )  # fmt: skip
    return shares


def test_progress_moves(device: Device) -> None:
    shares = shares_told(device, 600)
    assert len(shares) == 8
    assert shares == sorted(set(shares))


def test_time_that_is_over_is_not_all(device: Device) -> None:
    assert max(shares_told(device, 0.0)) < 1


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quiet, "wait", lambda *_: quiet.Quiet(0.01, None))
    words = ["profile", "resnet20", "--runtime", "eager", "--rounds", "2", "--shares", "1,0.5"]
    path = tmp_path / "cpu.json"
    result = CliRunner().invoke(
        app, [*words, "--check", "resnet20", "-o", str(path)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    assert "conv" in result.stdout
    assert "resnet20: predicted" in result.stdout
    assert DeviceProfile.load(path).runtime == "eager"
    result = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    content = json.loads(result.stdout)
    assert content["device"] == "cpu"
    assert content["fitted"]["quiet"] == {"spread": 0.01, "load": None}
    assert DeviceProfile.load("cpu-eager-1.json").digest


@pytest.mark.parametrize("shares", ["x", "0", "2", "1,,2"])
def test_senseless_shares(shares: str) -> None:
    with pytest.raises(PrecropError, match="--shares"):
        CliRunner().invoke(app, ["profile", "resnet20", "--shares", shares], catch_exceptions=False)
