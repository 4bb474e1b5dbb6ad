"""Every claim is judged by the runs that it is about, and by nothing else."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from precrop.report.claims import CLAIMS, Verdict, density_distance, granularities, verdicts
from precrop.report.frames import frame_of
from precrop.study.rows import Row
from tests.report.made_study import made_study
from tests.study.made_rows import LAYERS, made_row

LAYER_NAMES = (*LAYERS, "classifier")
MASK = {
    "kind": "masked",
    "granularity": "weight",
    "densities": dict.fromkeys(LAYER_NAMES, 0.6),  # not those of the cropped networks
}
COARSER = ("kernel", "filter", "channel", "cropped")
DENSE = {"kind": "dense", "method": "", "granularity": "", "asked_params": None, "asked_macs": None}
WIDER = {"asked_params": 0.8, "asked_macs": 1.0}
IMAGENET = {"data": "imagenet", "data_digest": "i" * 64}
PRECROP: dict[str, Any] = {"variant": "PreCrop"}

RIVALS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("synflow-weights", PRECROP, {"method": "synflow", **MASK}),
    ("synflow-channels", PRECROP, {"method": "synflow"}),
    ("other-methods", PRECROP, {"method": "snip", **MASK}),
    ("other-methods", PRECROP, {"method": "erk", **MASK}),
    ("uniform-width", PRECROP, {"method": "uniform"}),
    ("torch-pruning", PRECROP, {"method": "torch-pruning"}),
    ("defaults", PRECROP, {"variant": "balance 0"}),
    ("defaults", PRECROP, {"method": "exact"}),
    ("defaults", PRECROP, {"method": "root-macs"}),
    (
        "preconfig",
        {"variant": "PreConfig", "params": 216_000, **WIDER},
        {"params": 270_000, **DENSE},
    ),
    ("preconfig-uniform", {"variant": "PreConfig", **WIDER}, {"method": "uniform", **WIDER}),
    (
        "mobilenet-imagenet",
        {**PRECROP, "network": "mobilenet_v2", **IMAGENET},
        {"network": "mobilenet_v2", "method": "synflow", **MASK, **IMAGENET},
    ),
    (
        "efficientnet-imagenet",
        {**PRECROP, "network": "efficientnet_b0", **IMAGENET},
        {"network": "efficientnet_b0", "method": "synflow", **MASK, **IMAGENET},
    ),
]
"""Which two kinds of networks a claim compares."""


def runs(percent: float, **changes: Any) -> Iterator[Row]:
    """Three seeds around an accuracy."""
    changes.setdefault("variant", "another")
    chance = random.Random(repr(changes))
    for seed in range(3):
        yield made_row(seed=seed, accuracy=(percent + chance.gauss(0, 0.05)) / 100, **changes)


def judged(name: str, *rows: Iterator[Row]) -> Verdict:
    return CLAIMS[name](frame_of([row for some in rows for row in some]), 0.5)


@pytest.mark.parametrize(("name", "one", "other"), RIVALS)
@pytest.mark.parametrize(("lead", "answer"), [(2.0, "holds"), (-2.0, "does not hold")])
def test_a_lead_decides(name: str, one: dict, other: dict, lead: float, answer: str) -> None:
    verdict = judged(name, runs(80 + lead, **one), runs(80, **other))
    assert verdict.answer == answer
    assert f"{verdict.judged[0].comparison.difference:+.2f} points" in verdict.text
    assert "n = 3" in verdict.text
    assert len(verdict.runs) == 6
    others = verdicts(frame_of([*runs(80 + lead, **one), *runs(80, **other)]))
    about = {"synflow-weights"} if "imagenet" in name else set()
    measured = {key for key, found in others.items() if found.answer != "not measured"}
    assert measured == {name} | about


def test_every_claim_is_tried_here() -> None:
    tried = {name for name, _, _ in RIVALS}
    assert set(CLAIMS) - tried == {"granularity", "resnet50-imagenet", "sparse-kernels"}


@pytest.mark.parametrize("name", CLAIMS)
def test_without_runs_nothing_is_measured(name: str) -> None:
    verdict = judged(name, runs(80.0))
    assert verdict.answer == "not measured"
    assert verdict.text
    assert not verdict.runs


def test_a_network_of_the_others_size_speaks_for_precrop() -> None:
    small = {"params": 30_000, "macs": 12_000_000}
    synflow = {"variant": "SynFlow channels", "method": "synflow", **small}
    verdict = judged(
        "synflow-channels",
        runs(90, **PRECROP),  # larger: its lead shows nothing
        runs(78, variant="PreCrop as SynFlow channels", **small),
        runs(80, **synflow),
    )
    assert verdict.answer == "does not hold"
    assert [j.comparison.one.variant for j in verdict.judged] == ["PreCrop as SynFlow channels"]
    rows = [*runs(90, **PRECROP), *runs(78, variant="PreCrop as SynFlow channels", **small)]
    assert CLAIMS["defaults"](frame_of(rows), 0.5).answer == "not measured"


def test_one_seed_decides_nothing() -> None:
    rows = [made_row(accuracy=0.9), made_row(variant="u", method="uniform", accuracy=0.5)]
    verdict = CLAIMS["uniform-width"](frame_of(rows), 0.5)
    assert verdict.answer == "not measured"
    assert "+40.00 points" in verdict.text
    assert "no interval" in verdict.text


def test_a_lead_at_one_budget_only_holds_partly() -> None:
    verdict = judged(
        "uniform-width",
        runs(82, **PRECROP),
        runs(80, method="uniform"),
        runs(80.02, **PRECROP, asked_params=0.1),
        runs(80, method="uniform", asked_params=0.1),
    )
    assert verdict.answer == "holds partly"
    assert "1 better, 1 equal within the margin" in verdict.text


def test_equal_accuracy_is_no_lead() -> None:
    verdict = judged("uniform-width", runs(80.01, **PRECROP), runs(80, method="uniform"))
    assert verdict.answer == "does not hold"
    assert "equal within the margin" in verdict.text


def test_wide_spread_leaves_it_open() -> None:
    wide = [made_row(seed=n, accuracy=a) for n, a in enumerate((0.82, 0.78, 0.81))]
    verdict = judged("uniform-width", iter(wide), runs(80, method="uniform"))
    assert verdict.answer == "not measured"
    assert "undecided" in verdict.text
    assert "cannot be told from chance" in verdict.text


def test_many_undecided_leads_decide_together() -> None:
    rows: list[Row] = []
    for network, lead in zip("abcd", (0.9, 1.1, 1.0, 1.2), strict=True):
        for seed, wild in enumerate((0.9, -0.9, 0.0)):
            asked = {"seed": seed, "network": network}
            rows.append(made_row(**asked, accuracy=(80 + lead + wild) / 100))
            rows.append(made_row(**asked, variant="u", method="uniform", accuracy=0.8))
    verdict = CLAIMS["uniform-width"](frame_of(rows), 0.5)
    assert {j.outcome for j in verdict.judged} == {"unclear"}
    assert verdict.answer == "holds"
    assert "The 4 networks compared at one size together: +1.05 points" in verdict.text


def test_smaller_networks_do_not_count_where_they_win_alone() -> None:
    rows: list[Row] = []
    for network, lead in zip("abcdef", (1.0, 1.1, -3.0, -3.1, -2.9, -3.2), strict=True):
        rows += runs(80 + lead, **PRECROP, network=network, params=73_000)
        rows += runs(80, method="uniform", network=network, params=81_000)
    verdict = CLAIMS["uniform-width"](frame_of(rows), 0.5)
    assert Counter(j.outcome for j in verdict.judged) == {"better": 2, "smaller": 4}
    assert verdict.answer == "holds partly"
    assert "together" not in verdict.text


def test_a_network_that_happens_to_be_of_the_size_speaks_for_precrop() -> None:
    small = {"params": 30_000, "macs": 12_000_000}
    verdict = judged(
        "synflow-weights",
        runs(90, **PRECROP),  # larger: its lead shows nothing
        runs(78, variant="PreCrop as SynFlow channels", **small),
        runs(80, **MASK, variant="SynFlow weights", method="synflow", **small),
    )
    assert verdict.answer == "does not hold"
    assert [j.comparison.one.variant for j in verdict.judged] == ["PreCrop as SynFlow channels"]


@pytest.mark.parametrize("size", [{"params": 267_000}, {"params": 216_000, "macs": 60_000_000}])
def test_preconfig_is_judged_at_its_size_alone(size: dict[str, int]) -> None:
    one = {"variant": "PreConfig", **WIDER, **size}
    verdict = judged("preconfig", runs(82, **one), runs(80, **DENSE, params=270_000))
    assert verdict.answer == "not measured"


def test_a_margin_beyond_the_bound_does_not_hide_a_loss() -> None:
    on = {"network": "resnet50", **IMAGENET}
    smaller = {**on, "asked_params": None, "asked_macs": 0.72, "macs": 28_800_000}
    rows = [*runs(78.5, **smaller), *runs(80, **on, **DENSE)]
    assert CLAIMS["resnet50-imagenet"](frame_of(rows), 2.0).answer != "holds"


def test_a_larger_networks_lead_is_none() -> None:
    verdict = judged(
        "uniform-width", runs(82, **PRECROP, macs=24_000_000), runs(80, method="uniform")
    )
    assert verdict.answer == "not measured"
    assert "not worse, but larger" in verdict.text


def test_the_named_variant_speaks_for_the_method() -> None:
    verdict = judged(
        "uniform-width",
        runs(79, **PRECROP),
        runs(82, variant="PreCrop, balance 3"),
        runs(80, method="uniform"),
    )
    assert [j.comparison.one.variant for j in verdict.judged] == ["PreCrop"]


@pytest.mark.parametrize(("drop", "answer"), [(0.6, "holds"), (2.5, "does not hold")])
def test_resnet50_may_lose_what_the_paper_says(drop: float, answer: str) -> None:
    on = {"network": "resnet50", **IMAGENET}
    smaller = {**on, "asked_params": None, "asked_macs": 0.72, "macs": 28_800_000}
    verdict = judged("resnet50-imagenet", runs(80 - drop, **smaller), runs(80, **on, **DENSE))
    assert verdict.answer == answer


@pytest.mark.parametrize("lead", [0.0, -0.3, -3.0])
def test_defaults_may_be_a_little_worse(lead: float) -> None:
    verdict = judged("defaults", runs(80 + lead, **PRECROP), runs(80, variant="balance 0"))
    assert verdict.answer == ("does not hold" if lead < -1 else "holds")


def test_a_default_that_may_lose_less_than_the_margin_is_not_refuted() -> None:
    rival = [
        made_row(seed=seed, accuracy=accuracy, variant="balance 0")
        for seed, accuracy in enumerate((0.806, 0.807, 0.811))
    ]
    verdict = judged("defaults", runs(80, **PRECROP), iter(rival))
    interval = verdict.judged[0].comparison.pooled.interval()
    assert interval is not None
    assert interval[0] < -0.5 < interval[1] < 0, "worse, but by how much is open"
    assert verdict.answer == "not measured"


def test_a_larger_default_shows_nothing() -> None:
    small = {"params": 30_000, "macs": 12_000_000, "variant": "narrow"}
    verdict = judged("defaults", runs(90, **PRECROP), runs(80, **small))
    assert (verdict.answer, verdict.judged[0].outcome) == ("not measured", "larger")


def family(levels: Mapping[str, float], density: float = 0.3) -> list[Row]:
    """Masks of the same layer densities, and the cropped network."""
    rows = [*runs(levels.get("cropped", 80), **PRECROP, densities=shares(density))]
    for unit in ("weight", "kernel", "filter", "channel"):
        what = {"kind": "masked", "granularity": unit, "variant": unit}
        rows += runs(levels.get(unit, 80), **what, densities=shares(0.3))
    return rows


def shares(density: float) -> dict[str, float]:
    return dict.fromkeys(LAYER_NAMES, density)


def test_granularities_are_found_by_their_densities() -> None:
    (found,) = granularities(frame_of(family({})))
    units = [(group.kind, group.granularity) for group in found]
    assert [unit for _, unit in units] == ["weight", "kernel", "filter", "channel", "channel"]
    assert units[-1][0] == "cropped"
    (others,) = granularities(frame_of(family({}, density=0.45)))
    assert [group.kind for group in others] == ["masked"] * 4


def test_the_distance_of_densities_is_that_of_their_logarithms() -> None:
    rows = [*runs(80, densities=shares(0.3)), *runs(80, variant="o", densities=shares(0.33))]
    one, other = frame_of(rows).groups
    assert density_distance(one, other) == pytest.approx(0.0953, abs=1e-3)


@pytest.mark.parametrize(
    ("levels", "answer"),
    [
        ({}, "holds"),
        ({"filter": 77.0}, "holds partly"),
        (dict.fromkeys(COARSER, 77.0), "does not hold"),
    ],
)
def test_equal_accuracy_at_every_granularity(levels: Mapping[str, float], answer: str) -> None:
    verdict = CLAIMS["granularity"](frame_of(family(levels)), 0.5)
    assert verdict.answer == answer
    assert len(verdict.judged) == 4


def test_the_margin_is_what_counts_as_no_difference() -> None:
    frame = frame_of(family(dict.fromkeys(COARSER, 79.6)))
    answers = [CLAIMS["granularity"](frame, margin).answer for margin in (0.3, 0.6)]
    assert answers == ["does not hold", "holds"]


def test_verdicts_as_json() -> None:
    frame = frame_of(made_study())
    found = verdicts(frame)["uniform-width"].to_json()
    known = {row.run for row in frame.rows}
    assert set(found["runs"]) <= known
    assert len(found["comparisons"]) == 4
    first = found["comparisons"][0]
    assert first["n"] == 3
    low, high = first["interval"]
    assert low < first["difference"] < high
