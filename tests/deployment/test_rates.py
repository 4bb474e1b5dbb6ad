"""Rates from passes that were never run: what is fitted, and how well it predicts the others."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest

from precrop.costs.profiles import DeviceProfile
from precrop.costs.work import FEATURES
from precrop.deployment.operations import Sample
from precrop.deployment.rates import CountedWork, TimedPass, Total, correct, fit, profile_of

RATES = {"calls": 2e-6, "reads": 3e-11, "writes": 1e-11, "weights": 5e-11, "macs": 4e-12}
BARE = DeviceProfile("x", "cpu", "ort", 1, {"other": {}})


def sample(kind: str, random: np.random.Generator, rates: Mapping[str, float]) -> Sample:
    amounts = {name: float(10 ** random.uniform(4, 7)) for name in FEATURES}
    amounts["calls"] = 1.0
    seconds = sum(rates[name] * amounts[name] for name in FEATURES)
    return Sample(kind, amounts, seconds)


def passed(network: str, seed: int, share: float = 1.0, slow: float = 1.0) -> TimedPass:
    """A pass of forty operations on a device with these rates, all of it slower by a factor."""
    random = np.random.default_rng(seed)
    samples = tuple(sample("conv", random, RATES) for _ in range(40))
    works = tuple(CountedWork(one.kind, one.amounts) for one in samples)
    return TimedPass(network, share, slow * sum(one.seconds for one in samples), samples, works)


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


def test_whole_passes_correct_the_rates() -> None:
    totals = [
        Total(str(i), predicted, operations, 1.3 * predicted - 1e-6 * operations)
        for i, (predicted, operations) in enumerate([(1e-3, 30), (5e-3, 100), (2e-2, 40)])
    ]
    totals.append(Total("in a slow mode", 2e-3, 50, 3 * 1.3 * 2e-3))
    rates = {"other": {"calls": 5e-6, "macs": 1e-12}, "view": {}}
    found = correct(dataclasses.replace(BARE, coefficients=rates), totals)
    assert found.coefficients["other"]["macs"] == pytest.approx(1.3e-12, rel=0.03)
    assert found.coefficients["other"]["calls"] == pytest.approx(1.3 * 5e-6 - 1e-6, rel=0.1)
    assert found.coefficients["view"]["calls"] == 0.0


@pytest.mark.parametrize(("passes", "numbers"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_two_passes_for_each_number_that_they_decide(passes: int, numbers: int) -> None:
    random = np.random.default_rng(3)
    totals = [
        Total(str(i), 1e-3 * (i + 1), 10 + 7 * i, 1e-3 * (i + 1) * float(random.uniform(1.2, 2)))
        for i in range(passes)
    ]
    rates = {"other": {"calls": 5e-6, "macs": 1e-12}}
    found = correct(dataclasses.replace(BARE, coefficients=rates), totals).coefficients["other"]
    factor = found["macs"] / 1e-12
    assert (factor != 1) == (numbers > 0)
    assert (found["calls"] != pytest.approx(factor * 5e-6)) == (numbers > 1)


def test_the_error_is_that_on_what_was_not_fitted() -> None:
    # Each network is slower than its operations by a factor of its own: no rates describe that.
    passes = [passed(f"net{i}", i, slow=slow) for i, slow in enumerate((1.0, 2.0, 4.0))]
    found = profile_of(BARE, passes).fitted
    assert found["held_out"]["left_out"] == "network"
    assert found["held_out"]["median_error"] > 1.2 * found["median_error"]
    exact = profile_of(BARE, [passed(f"net{i}", i) for i in range(3)]).fitted
    assert exact["held_out"]["largest_error"] < 1e-6


def test_one_network_leaves_out_a_pass_at_a_time() -> None:
    passes = [passed("net", seed, share) for seed, share in enumerate((1.0, 0.5, 0.3))]
    assert profile_of(BARE, passes).fitted["held_out"]["left_out"] == "pass"


def test_one_pass_alone_has_no_error_to_speak_of() -> None:
    assert profile_of(BARE, [passed("net", 0)]).fitted["held_out"] is None
