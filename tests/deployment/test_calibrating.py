import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import precrop
from precrop.cli.app import main
from precrop.costs.profiles import DeviceProfile, roofline
from precrop.deployment import calibrating, runtimes
from precrop.deployment.calibrating import MOST_ROUNDS, Calibrated, calibrate
from precrop.deployment.profiling import predict
from precrop.errors import BudgetError, PrecropError
from precrop.models import resnet20
from precrop.models.resnet import CifarResNet

IMAGE = (3, 32, 32)
PROFILE = roofline(1e11, 1e10, step=1)
Clock = Callable[[float], float]
"""From the seconds that the profile predicts to those that the device takes."""


class Pretended:
    """A runner that says how long its network takes on a device that is not the profile's."""

    def __init__(self, model: nn.Module, clock: Clock) -> None:
        self.seconds = clock(predict(PROFILE, model, IMAGE))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[[Clock], None]:
    def become(clock: Clock) -> None:
        def loaded(model: nn.Module, *_: Any) -> Any:
            return nullcontext([Pretended(model, clock)])

        def medians(networks: Mapping[str, list[Pretended]], *_: Any) -> dict[str, list[float]]:
            return {name: [run.seconds for run in runs] for name, runs in networks.items()}

        monkeypatch.setattr(calibrating, "sessions", loaded)
        monkeypatch.setattr(runtimes, "session_medians", medians)
        monkeypatch.setattr(calibrating, "session_medians", medians)

    return become


def found(latency: Any, **options: Any) -> Calibrated:
    return calibrate(resnet20(), IMAGE, latency, device_profile=PROFILE, **options)


CLOCKS: dict[str, Clock] = {
    "as predicted": lambda s: s,
    "twice as slow": lambda s: 2 * s,
    "a time of its own": lambda s: s + 2e-4,
    "small ones are slow": lambda s: s**0.8,
    "small ones are fast": lambda s: s**1.3,
}


@pytest.mark.parametrize("name", CLOCKS)
@pytest.mark.parametrize("share", [0.7, 0.5])
def test_the_asked_time_is_met_from_below(
    device: Callable[[Clock], None], name: str, share: float
) -> None:
    device(CLOCKS[name])
    result = found(share)
    assert 1 <= len(result.attempts) <= MOST_ROUNDS
    dense = CLOCKS[name](predict(PROFILE, resnet20(), IMAGE))
    built = CLOCKS[name](predict(PROFILE, result.plan.build(resnet20()), IMAGE))
    assert result.met
    assert 0.88 * share <= built / dense <= share
    record = result.plan.options["calibrated"]
    assert record["share_of_limit"] == pytest.approx(built / dense / share)
    assert precrop.Plan.from_json(result.plan.to_json()) == result.plan


def test_a_session_that_is_slow_all_its_life_does_not_decide(
    device: Callable[[Clock], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(model: nn.Module, *_: Any) -> Any:
        return nullcontext([Pretended(model, float(slower).__mul__) for slower in (4, 1, 1)])

    device(lambda s: s)
    steady = found(0.6)
    monkeypatch.setattr(calibrating, "sessions", loaded)
    assert found(0.6).attempts == steady.attempts


def test_milliseconds(device: Callable[[Clock], None]) -> None:
    device(lambda s: 3 * s)
    dense = 3 * predict(PROFILE, resnet20(), IMAGE)
    result = found(f"{dense * 600:.6f}ms")
    assert result.met
    assert all(a.limit == pytest.approx(0.6 * dense, rel=1e-4) for a in result.attempts)
    assert result.attempts[0].asked == pytest.approx(0.6, rel=1e-4)


def test_a_device_that_never_gets_there(device: Callable[[Clock], None]) -> None:
    # Nothing that is cropped is any faster.
    device(lambda s: 1e-3)
    result = found(0.5)
    assert not result.met
    assert min(a.used for a in result.attempts) == 2.0


def test_the_narrowest_is_tried_before_giving_up(device: Callable[[Clock], None]) -> None:
    # What is asked after the second plan is less than the narrowest widths take.
    device(lambda s: 5e-4 + s)
    result = found(0.5, min_width=11)
    asked = [attempt.asked for attempt in result.attempts]
    assert 2 < len(asked) <= MOST_ROUNDS
    assert asked == sorted(asked, reverse=True)
    with pytest.raises(BudgetError):
        found(0.95 * asked[-1], min_width=11)


def test_plans_on_both_sides_are_interpolated(device: Callable[[Clock], None]) -> None:
    # A step in the times: too slow above it, much too fast below it, what is asked in between.
    whole = predict(PROFILE, resnet20(), IMAGE)
    device(lambda s: s * (1 if s > 0.9 * whole else 1.2 if s > 0.42 * whole else 0.8))
    result = found(0.5)
    asked = [attempt.asked for attempt in result.attempts]
    assert result.met
    assert len(asked) > 2
    assert all(min(asked[:2]) < later < max(asked[:2]) for later in asked[2:])
    assert len({attempt.seconds for attempt in result.attempts}) == len(asked)


def test_an_unreachable_time(device: Callable[[Clock], None]) -> None:
    device(lambda s: s)
    message = "latency='0.001us', as it is predicted: .* cannot be met: the least possible"
    with pytest.raises(BudgetError, match=message):
        found("0.001us")


def test_budgets_beside_it_hold(device: Callable[[Clock], None]) -> None:
    device(lambda s: 1.2 * s)
    plan = found(0.6, params=0.3, divisor=2).plan
    assert plan.params <= 0.3 * plan.base_params
    assert plan.options["divisor"] == 2


def test_no_threads() -> None:
    with pytest.raises(PrecropError, match="on 0 threads"):
        calibrate(resnet20(), IMAGE, 0.5, device_profile=PROFILE, threads=0)


def test_a_profile_of_another_device(device: Callable[[Clock], None]) -> None:
    device(lambda s: s)
    rates = PROFILE.coefficients
    other = DeviceProfile("x", "cpu", "ort", 1, rates, machine={"cpu": "Abacus 3000"})
    with pytest.raises(PrecropError, match="of another device"):
        calibrate(resnet20(), IMAGE, 0.5, device_profile=other)


@pytest.mark.parametrize("runtime", ["eager", "ort"])
def test_on_this_device(runtime: str) -> None:
    profile = roofline(1e11, 1e10, runtime=runtime)
    model = CifarResNet(1)  # resnet8
    result = calibrate(model, IMAGE, 0.6, device_profile=profile, threads=1, rounds=3)
    assert result.attempts
    assert all(a.seconds > 0 and a.dense > 0 for a in result.attempts)
    chosen = result.plan.options["calibrated"]
    assert chosen["seconds"] in [a.seconds for a in result.attempts]


def test_the_command(
    device: Callable[[Clock], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device(lambda s: 1.5 * s)
    profile = tmp_path / "cpu.json"
    PROFILE.save(profile)
    words = ["plan", "resnet20", "--profile", str(profile), "--calibrate", "--json"]
    assert main([*words, "--latency", "60%"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["options"]["calibrated"]["asked"] == "60%"
    assert "of the asked" in output.err
    assert main(words) == 2
    assert "give --latency" in capsys.readouterr().err
