"""Comparisons give what scipy's own tests give."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from precrop.report.comparisons import (
    Comparison,
    as_equal,
    at_any_size,
    at_one_size,
    compare,
    compare_looser,
    holm,
    judge,
    together,
)
from precrop.report.frames import RunGroup
from precrop.report.grouping import frame_of
from tests.study.made_rows import made_row

ONE, OTHER = [81.2, 80.7, 81.9, 80.1], [80.0, 80.2, 80.9, 80.4]


def group(variant: str, percents: Sequence[float], **changes: Any) -> RunGroup:
    rows = [
        made_row(variant=variant, seed=seed, accuracy=percent / 100, **changes)
        for seed, percent in enumerate(percents)
    ]
    (found,) = frame_of(rows).groups
    return found


def groups(samples: Mapping[str, Sequence[float]]) -> list[RunGroup]:
    """Variants of one setting and budget, in the order of the samples."""
    rows = [
        made_row(variant=name, seed=seed, accuracy=percent / 100)
        for name, sample in samples.items()
        for seed, percent in enumerate(sample)
    ]
    found = {group.variant: group for group in frame_of(rows).groups}
    return [found[name] for name in samples]


def comparison(one: Sequence[float], other: Sequence[float], **changes: Any) -> Comparison:
    rows = [
        made_row(variant=name, seed=seed, accuracy=percent / 100, **extra)
        for name, sample, extra in (("one", one, changes), ("other", other, {}))
        for seed, percent in enumerate(sample)
    ]
    found = {group.variant: group for group in frame_of(rows).groups}
    return Comparison(found["one"], found["other"])


def test_pairs_alone_give_scipys_paired_test() -> None:
    found = comparison(ONE, OTHER).paired
    oracle = stats.ttest_rel(ONE, OTHER)
    assert found.difference == pytest.approx(0.6)
    assert found.p() == pytest.approx(oracle.pvalue)
    assert found.interval() == pytest.approx(tuple(oracle.confidence_interval(0.95)))
    assert found.p(bound=-1.0) == pytest.approx(stats.ttest_rel([x + 1 for x in ONE], OTHER).pvalue)


def test_two_variants_pooled_give_scipys_test_of_equal_variances() -> None:
    found = comparison(ONE, OTHER).pooled
    oracle = stats.ttest_ind(ONE, OTHER)
    assert found.freedom == 6
    assert found.p() == pytest.approx(oracle.pvalue)
    assert found.interval() == pytest.approx(tuple(oracle.confidence_interval(0.95)))


def test_the_pool_is_of_all_variants_of_the_budget() -> None:
    samples = {"one": ONE, "other": OTHER, "third": [70.0, 72.0, 71.0], "single": [60.0]}
    one, other, *_ = groups(samples)
    squares = sum(np.var(s) * len(s) for s in samples.values())
    assert one.scatter == other.scatter
    assert one.scatter.squares == pytest.approx(squares)
    assert one.scatter.freedom == 3 + 3 + 2
    error = np.sqrt(squares / 8 * 2 / 4)
    found = Comparison(one, other).pooled
    low, high = stats.t.interval(0.95, 8, found.difference, error)
    assert found.interval() == pytest.approx((low, high))
    assert found.p(bound=0.2) == pytest.approx(2 * stats.t.sf(abs(0.6 - 0.2) / error, 8))


def test_it_agrees_with_the_analysis_of_variance() -> None:
    """The mean square within groups of a one-way analysis is the pooled variance."""
    samples = {"one": ONE, "other": OTHER, "third": [70.0, 72.0, 71.0]}
    scatter = groups(samples)[0].scatter
    every = np.concatenate(list(samples.values()))
    between = sum(len(s) * (np.mean(s) - every.mean()) ** 2 for s in samples.values()) / 2
    oracle = stats.f_oneway(*samples.values()).statistic
    assert between / (scatter.deviation or math.nan) ** 2 == pytest.approx(oracle)


def test_other_networks_and_budgets_have_pools_of_their_own() -> None:
    rows = [
        made_row(variant=variant, seed=seed, accuracy=(80 + seed * size) / 100, **changes)
        for size, changes in ((1, {}), (3, {"asked_params": 0.1}), (7, {"network": "vgg16_bn"}))
        for variant in ("one", "other")
        for seed in range(3)
    ]
    found = frame_of(rows).groups
    assert {round(g.scatter.deviation or 0, 9) for g in found} == {1, 3, 7}
    wide, narrow = (next(g for g in found if g.budget.params == p) for p in (0.3, 0.1))
    both = Comparison(wide, narrow).pooled
    assert both.freedom == 8
    assert both.error == pytest.approx(np.sqrt((1 + 9) / 2 * 2 / 3))


def test_variants_that_came_to_the_same_runs_are_pooled_once() -> None:
    rows = [
        made_row(variant=variant, seed=seed, run=f"{seed:012x}", accuracy=0.8 + seed / 100)
        for variant in ("one", "other")
        for seed in range(3)
    ]
    assert [g.scatter.freedom for g in frame_of(rows).groups] == [2, 2]


def test_a_pool_narrows_the_interval_of_few_runs() -> None:
    """What the pilot has: a deviation of half a point, three seeds, seven variants."""
    rng = np.random.default_rng(0)
    reaches = []
    for _ in range(200):
        samples = {str(i): 80 + rng.normal(0, 0.5, 3) for i in range(7)}
        one, other, *_ = groups({k: v.tolist() for k, v in samples.items()})
        found = Comparison(one, other)
        ends = [e.interval() or (0.0, 0.0) for e in (found.pooled, found.paired)]
        reaches.append([high - low for low, high in ends])
    pooled, paired = np.median(reaches, 0)
    assert pooled < 0.65 * paired


@pytest.mark.parametrize("margin", [0.5, 1.5])
def test_equality_is_two_one_sided_tests(margin: float) -> None:
    found = comparison(ONE, OTHER)
    for estimate, test in ((found.paired, stats.ttest_rel), (found.pooled, stats.ttest_ind)):
        low = test([x + margin for x in ONE], OTHER, alternative="greater").pvalue
        high = test([x - margin for x in ONE], OTHER, alternative="less").pvalue
        assert estimate.p_equal(margin) == pytest.approx(max(low, high))


def test_equality_is_the_90_percent_interval_within_the_margin() -> None:
    found = comparison(ONE, OTHER).pooled
    low, high = found.interval(0.90) or (0.0, 0.0)
    edge = max(-low, high)
    assert (found.p_equal(edge * 1.01) or 1) < 0.05 < (found.p_equal(edge * 0.99) or 0)


def test_only_common_seeds_are_compared() -> None:
    one, other = groups({"one": [80.0, 81.0, 82.0], "other": [79.0]})
    found = Comparison(one, other)
    assert found.seeds == (0,)
    assert found.differences == pytest.approx((1.0,))
    assert found.paired.interval() is None
    assert found.paired.p() is None
    assert found.paired.p_equal(1.0) is None
    assert found.pooled.error == pytest.approx(math.sqrt(2))
    alone = Comparison(*groups({"one": [80.0], "other": [79.0]})).pooled
    assert alone.interval() is None
    assert alone.p() is None
    assert alone.p_equal(1.0) is None


def test_no_scatter_proves_nothing() -> None:
    assert comparison([81.0, 82.0], [80.0, 81.0]).paired.interval() is None
    found = comparison([81.0, 81.0], [80.0, 80.0])
    assert found.pooled.interval() is None
    assert found.pooled.p() is None
    assert [j.outcome for j in judge([found], 0.5, at_any_size)] == ["unclear"]


def test_the_same_networks_are_equal() -> None:
    same = {"run": "0" * 12}
    one, other = group("one", [80.0], **same), group("other", [80.0], **same)
    assert [j.outcome for j in judge([Comparison(one, other)], 0.5, at_any_size)] == ["equal"]


@pytest.mark.parametrize(
    ("differences", "outcome"),
    [
        ([1.0, 1.1, 1.2], "better"),
        ([-1.0, -1.1, -1.2], "worse"),
        ([0.05, -0.04, 0.01], "equal"),
        ([2.0, -1.0, 0.5], "unclear"),
    ],
)
def test_outcomes(differences: list[float], outcome: str) -> None:
    found = comparison([80 + d for d in differences], [80.0, 80.0, 80.0])
    assert [j.outcome for j in judge([found], 0.5, at_any_size)] == [outcome]


def test_a_small_but_sure_difference_is_equal_where_equality_is_claimed() -> None:
    found = comparison([80.10, 80.11, 80.12], [80.0, 80.0, 80.0])
    assert [j.outcome for j in judge([found], 0.5, at_any_size)] == ["better"]
    assert [j.outcome for j in judge([found], 0.5, as_equal)] == ["equal"]


@pytest.mark.parametrize(
    ("difference", "macs", "outcome"),
    [
        (1.0, 2.0, "larger"),
        (-1.0, 2.0, "worse"),
        (1.0, 0.5, "better"),
        (-1.0, 0.5, "smaller"),
        (1.0, 1.04, "better"),
        (-1.0, 0.96, "worse"),
    ],
)
def test_a_network_of_another_size_shows_nothing(
    difference: float, macs: float, outcome: str
) -> None:
    accuracies = [80 + difference + noise for noise in (0.0, 0.1, -0.1)]
    found = comparison(accuracies, [80.0, 80.0, 80.0], macs=round(12_000_000 * macs))
    assert [j.outcome for j in judge([found], 0.5, at_one_size)] == [outcome]


def test_many_comparisons_need_more() -> None:
    found = comparison(ONE, OTHER)
    p = found.pooled.p() or math.nan
    corrected = [j.p for j in judge([found] * 3, 0.5, at_any_size)]
    assert corrected == pytest.approx([min(1.0, 3 * p)] * 3)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rises_with_p_and_stays_a_probability(ps: list[float]) -> None:
    corrected = [p for p in holm(ps) if p is not None]
    ranked = [c for _, c in sorted(zip(ps, corrected, strict=True))]
    assert ranked == sorted(ranked)
    assert all(p <= c <= 1 for p, c in zip(ps, corrected, strict=True))
    assert min(corrected) == min(1.0, min(ps) * len(ps))


def test_holm_of_an_example() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_groups_are_compared_within_a_setting_and_a_budget() -> None:
    ones = [group("one", [80.0]), group("one", [80.0], asked_params=0.1)]
    others = [group("other", [79.0]), group("other", [79.0], network="vgg16_bn")]
    (found,) = compare(ones, others)
    assert found.one is ones[0]
    assert found.other is others[0]


@pytest.mark.parametrize(
    ("asked", "count"),
    [((0.3, 0.3), 1), ((0.3, None), 1), ((None, 0.3), 1), ((None, None), 0), ((0.1, None), 0)],
)
def test_a_part_of_the_budget_is_looser(asked: tuple, count: int) -> None:
    other = group("other", [79.0], asked_params=asked[0], asked_macs=asked[1])
    assert len(compare_looser([group("one", [80.0])], [other])) == count
    assert len(compare_looser([other], [group("one", [80.0])])) == (asked == (0.3, 0.3))


def test_together_averages_what_is_of_one_network_first() -> None:
    means = []
    found = []
    for share, above in ((0.3, 1.0), (0.2, 1.2), (0.1, 0.8)):
        one = group("one", [80 + above, 80 + above], network=f"{share}")
        for extra in (0.0, 0.5):
            other = group(f"{extra}", [80 - extra, 80 - extra], network=f"{share}")
            found.append(Comparison(one, other))
        means.append(above + 0.25)
    whole = together(found)
    assert whole is not None
    assert whole.freedom == 2
    oracle = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert whole.interval() == pytest.approx(tuple(oracle))
    assert together(found[:2]) is None
