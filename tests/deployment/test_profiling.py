import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn
from typer.testing import CliRunner

import precrop
from precrop.cli.app import app
from precrop.costs.profiles import DeviceProfile, roofline
from precrop.costs.work import FEATURES
from precrop.deployment import machine, profiling
from precrop.deployment.operations import Sample
from precrop.deployment.profiling import Subject, Total, check, correct, fit, kernel_step, predict
from precrop.deployment.runtimes import Setting
from precrop.deployment.timing import Timing
from precrop.errors import PrecropError
from precrop.models import resnet20

IMAGE = (3, 32, 32)
RATES = {"calls": 2e-6, "reads": 3e-11, "writes": 1e-11, "weights": 5e-11, "macs": 4e-12}


def sample(kind: str, random: np.random.Generator, rates: Mapping[str, float]) -> Sample:
    amounts = {name: float(10 ** random.uniform(4, 7)) for name in FEATURES}
    amounts["calls"] = 1.0
    seconds = sum(rates[name] * amounts[name] for name in FEATURES)
    return Sample(kind, amounts, seconds)


def test_rates_are_found_again() -> None:
    random = np.random.default_rng(0)
    slower = {name: 3 * rate for name, rate in RATES.items()}
    samples = [sample("conv", random, RATES) for _ in range(40)]
    samples += [sample("relu", random, slower) for _ in range(40)]
    found = fit(samples)
    assert found["conv"] == pytest.approx(RATES, rel=1e-6)
    assert found["relu"] == pytest.approx(slower, rel=1e-6)


def test_no_rate_is_negative_and_rare_kinds_have_none_of_their_own() -> None:
    random = np.random.default_rng(1)
    noisy = [
        Sample(s.kind, s.amounts, s.seconds * float(random.uniform(0.3, 3)))
        for s in (sample("conv", random, RATES) for _ in range(30))
    ]
    found = fit([*noisy, *(sample("rare", random, RATES) for _ in range(3))])
    assert set(found) == {"conv", "other"}
    assert all(rate > 0 for rates in found.values() for rate in rates.values())


def test_a_kind_that_says_too_little_borrows() -> None:
    random = np.random.default_rng(2)
    pointwise = [sample("pointwise", random, RATES) for _ in range(40)]
    amounts = {"calls": 1.0, "reads": 4096.0, "writes": 4000.0, "weights": 4.1e6, "macs": 1e6}
    seconds = sum(RATES[name] * amounts[name] for name in FEATURES)
    classifiers = [Sample("linear", amounts, seconds) for _ in range(10)]
    alone, helped = fit(classifiers)["linear"], fit([*classifiers, *pointwise])["linear"]
    # On one image weights and MACs go together: what maps would take cannot be told from that.
    maps = {"calls": 1.0, "reads": 1e6, "writes": 4e6, "weights": 1e5, "macs": 4e8}
    wanted = sum(RATES[name] * maps[name] for name in FEATURES)
    error = {
        name: abs(sum(rate * maps[k] for k, rate in rates.items()) / wanted - 1)
        for name, rates in {"alone": alone, "helped": helped}.items()
    }
    assert error["helped"] < 0.05 < error["alone"]


def profile_of(rates: Mapping[str, Mapping[str, float]]) -> DeviceProfile:
    return DeviceProfile("x", "cpu", "ort", 1, rates)


def test_whole_passes_correct_the_rates() -> None:
    totals = [
        Total(str(i), predicted, operations, 1.3 * predicted - 1e-6 * operations)
        for i, (predicted, operations) in enumerate([(1e-3, 30), (5e-3, 100), (2e-2, 40)])
    ]
    totals.append(Total("in a slow mode", 2e-3, 50, 3 * 1.3 * 2e-3))
    found = correct(profile_of({"other": {"calls": 5e-6, "macs": 1e-12}, "view": {}}), totals)
    assert found.coefficients["other"]["macs"] == pytest.approx(1.3e-12, rel=0.03)
    assert found.coefficients["other"]["calls"] == pytest.approx(1.3 * 5e-6 - 1e-6, rel=0.1)
    assert found.coefficients["view"]["calls"] == 0.0


def test_the_step_is_where_filling_up_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    class Idle:
        stopwatch = None

        def __enter__(self) -> "Idle":
            return self

        def __exit__(self, *error: object) -> None:
            pass

    def blocks_of_16(runners: Mapping[str, Any], **_: Any) -> dict[str, Timing]:
        widths = {step: 96 + int(step) for step in runners}
        return {step: Timing((float((-(-w // 16) * 16) ** 2),)) for step, w in widths.items()}

    monkeypatch.setattr(profiling, "runner", lambda *args, **kwargs: Idle())
    monkeypatch.setattr(profiling, "interleaved", blocks_of_16)
    assert kernel_step("ort", Setting(), 3) == 16


@pytest.fixture(scope="module", params=["eager", "ort"])
def measured(request: pytest.FixtureRequest) -> DeviceProfile:
    subject = Subject("resnet20", resnet20().eval(), IMAGE)
    return profiling.profile_device([subject], runtime=request.param, shares=(1.0, 0.4), rounds=2)


def test_a_device_is_measured(measured: DeviceProfile, tmp_path: Path) -> None:
    assert {"conv", "other"} <= set(measured.coefficients)
    assert measured.fitted["samples"] > 20
    assert set(measured.fitted["passes"]) == {"resnet20 at 100%", "resnet20 at 40%"}
    assert measured.machine["cpu"] == measured.name
    measured.save(tmp_path / "cpu.json")
    loaded = DeviceProfile.load(tmp_path / "cpu.json")
    assert loaded.digest == measured.digest
    plan = precrop.plan(resnet20(), IMAGE, latency=0.95, device_profile=tmp_path / "cpu.json")
    assert plan.budgets["latency"].used <= plan.budgets["latency"].limit
    assert plan.options["device_profile"]["digest"] == measured.digest


def test_a_network_is_measured_beside_its_prediction(measured: DeviceProfile) -> None:
    model = resnet20().eval()
    (found,) = check(measured, [Subject("resnet20", model, IMAGE)], rounds=2)
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
        machine.check_here(elsewhere)
    machine.check_here(roofline(1e11, 1e10))


@pytest.mark.parametrize(
    ("subjects", "options", "message"),
    [
        ([], {}, "at least one network"),
        ([("x", nn.Conv2d(3, 4, 1), IMAGE)], {"runtime": "compiled"}, "no profile for runtime"),
        ([("x", nn.Conv2d(3, 4, 1), IMAGE)], {"device": "tpu"}, "device 'tpu' is unknown"),
    ],
)
def test_senseless_requests(
    subjects: list[tuple[str, nn.Module, Any]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PrecropError, match=message):
        profiling.profile_device([Subject(*one) for one in subjects], **options)


def test_the_command(tmp_path: Path) -> None:
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
    assert json.loads(result.stdout)["device"] == "cpu"


@pytest.mark.parametrize("shares", ["x", "0", "2", "1,,2"])
def test_senseless_shares(shares: str) -> None:
    with pytest.raises(PrecropError, match="--shares"):
        CliRunner().invoke(app, ["profile", "resnet20", "--shares", shares], catch_exceptions=False)
