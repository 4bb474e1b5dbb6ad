"""Every claim of the studies here is judged by the runs that it is about, and by nothing else."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from precrop.errors import PrecropError
from precrop.report.claims import Claim, Claims
from precrop.report.families import density_distance, granularities
from precrop.report.frames import ResultFrame
from precrop.report.grouping import frame_of
from precrop.report.verdicts import Verdict, verdict, verdicts
from precrop.study.rows import Row
from precrop.study.spec import Part
from tests.report.made_study import CLAIMS, PARTS, made_study
from tests.study.made_rows import LAYERS, made_row

LAYER_NAMES = (*LAYERS, "classifier")
MASK = {
    "kind": "masked",
    "granularity": "weight",
    "densities": dict.fromkeys(LAYER_NAMES, 0.6),  # not those of the cropped networks
}
COARSER = ("kernel", "filter", "channel", "cropped")
DENSE = {
    "variant": "original",
    "kind": "dense",
    "method": "",
    "granularity": "",
    "asked_params": None,
    "asked_macs": None,
}
WHOLE = {**DENSE, "params": 270_000, "macs": 40_000_000}
WIDER = {"asked_params": 0.8, "asked_macs": 1.0}
IMAGENET = {"data": "imagenet", "data_digest": "i" * 64}
PRECROP: dict[str, Any] = {"variant": "PreCrop"}

RIVALS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("synflow-weights", PRECROP, {"variant": "synflow weights", "method": "synflow", **MASK}),
    ("synflow-channels", PRECROP, {"variant": "synflow channels"}),
    ("other-methods", PRECROP, {"variant": "snip weights", **MASK}),
    ("other-methods", PRECROP, {"variant": "erk weights", **MASK}),
    ("uniform-width", PRECROP, {"variant": "uniform width"}),
    ("torch-pruning", PRECROP, {"variant": "torch-pruning"}),
    ("defaults", PRECROP, {"variant": "other widths"}),
    (
        "preconfig",
        {"variant": "PreConfig", "params": 216_000, **WIDER},
        {"params": 270_000, **DENSE},
    ),
    (
        "preconfig-mobilenet",
        {"variant": "PreConfig", "network": "mobilenet_v2", "params": 216_000, **WIDER},
        {"network": "mobilenet_v2", "params": 270_000, **DENSE},
    ),
    ("preconfig-uniform", {"variant": "PreConfig", **WIDER}, {"variant": "uniform width", **WIDER}),
    (
        "mobilenet-imagenet",
        {**PRECROP, "network": "mobilenet_v2", **IMAGENET},
        {
            "network": "mobilenet_v2",
            "variant": "synflow weights",
            "method": "synflow",
            **MASK,
            **IMAGENET,
        },
    ),
    (
        "efficientnet-imagenet",
        {**PRECROP, "network": "efficientnet_b0", **IMAGENET},
        {
            "network": "efficientnet_b0",
            "variant": "synflow weights",
            "method": "synflow",
            **MASK,
            **IMAGENET,
        },
    ),
]
"""Which two kinds of networks a claim compares."""


def runs(percent: float, **changes: Any) -> Iterator[Row]:
    """Three seeds around an accuracy."""
    changes.setdefault("variant", "another")
    chance = random.Random(repr(changes))
    for seed in range(3):
        yield made_row(seed=seed, accuracy=(percent + chance.gauss(0, 0.05)) / 100, **changes)


def framed(rows: list[Row]) -> ResultFrame:
    """With the roles of the made study, whose variants are mostly called by their roles."""
    return frame_of(rows, PARTS)


def judge(name: str, rows: list[Row], margin: float = 0.5) -> Verdict:
    return verdict(CLAIMS[name], framed(rows), margin)


def judged(name: str, *rows: Iterator[Row]) -> Verdict:
    return judge(name, [row for some in rows for row in some])


@pytest.mark.parametrize(("name", "one", "other"), RIVALS)
@pytest.mark.parametrize(("lead", "answer"), [(2.0, "holds"), (-2.0, "does not hold")])
def test_a_lead_decides(name: str, one: dict, other: dict, lead: float, answer: str) -> None:
    found = judged(name, runs(80 + lead, **one), runs(80, **other))
    assert found.answer == answer
    assert f"{found.judged[0].comparison.difference:+.2f} points" in found.text
    assert "n = 3" in found.text
    assert len(found.runs) == 6
    both = framed([*runs(80 + lead, **one), *runs(80, **other)])
    others = verdicts(both, Claims(tuple(CLAIMS.values())))
    about = {"synflow-weights"} if "imagenet" in name else set()
    about |= {"preconfig"} if name == "preconfig-mobilenet" else set()
    measured = {key for key, each in others.items() if each.answer != "not measured"}
    assert measured == {name} | about


def test_every_claim_is_tried_here() -> None:
    tried = {name for name, _, _ in RIVALS}
    assert set(CLAIMS) - tried == {"granularity", "resnet50-imagenet", "sparse-kernels"}


@pytest.mark.parametrize("name", CLAIMS)
def test_without_runs_nothing_is_measured(name: str) -> None:
    found = judged(name, runs(80.0))
    assert found.answer == "not measured"
    assert found.text
    assert not found.runs


def test_a_network_of_the_others_size_speaks_for_precrop() -> None:
    small = {"params": 30_000, "macs": 12_000_000}
    synflow = {"variant": "synflow channels", "method": "synflow", **small}
    found = judged(
        "synflow-channels",
        runs(90, **PRECROP),  # larger: its lead shows nothing
        runs(78, variant="PreCrop as synflow channels", **small),
        runs(80, **synflow),
    )
    assert found.answer == "does not hold"
    assert [j.comparison.one.variant for j in found.judged] == ["PreCrop as synflow channels"]
    rows = [*runs(90, **PRECROP), *runs(78, variant="PreCrop as synflow channels", **small)]
    assert judge("defaults", rows, 0.5).answer == "not measured"


def test_one_seed_decides_nothing() -> None:
    rows = [made_row(accuracy=0.9), made_row(variant="uniform width", accuracy=0.5)]
    found = judge("uniform-width", rows, 0.5)
    assert found.answer == "undecided"
    assert "+40.00 points" in found.text
    assert "no interval" in found.text


def test_a_lead_at_one_budget_only_holds_partly() -> None:
    found = judged(
        "uniform-width",
        runs(82, **PRECROP),
        runs(80, variant="uniform width"),
        runs(80.02, **PRECROP, asked_params=0.1),
        runs(80, variant="uniform width", asked_params=0.1),
    )
    assert found.answer == "holds partly"
    assert "1 better, 1 equal within the margin" in found.text


def test_equal_accuracy_is_no_lead() -> None:
    found = judged("uniform-width", runs(80.01, **PRECROP), runs(80, variant="uniform width"))
    assert found.answer == "does not hold"
    assert "equal within the margin" in found.text


def test_wide_spread_leaves_it_open() -> None:
    wide = [made_row(seed=n, accuracy=a) for n, a in enumerate((0.82, 0.78, 0.81))]
    found = judged("uniform-width", iter(wide), runs(80, variant="uniform width"))
    assert found.answer == "undecided"
    assert "undecided" in found.text
    assert "cannot be told from chance" in found.text


def test_many_undecided_leads_decide_together() -> None:
    rows: list[Row] = []
    for network, lead in zip("abcd", (0.9, 1.1, 1.0, 1.2), strict=True):
        for seed, wild in enumerate((0.9, -0.9, 0.0)):
            asked = {"seed": seed, "network": network}
            rows.append(made_row(**asked, accuracy=(80 + lead + wild) / 100))
            rows.append(made_row(**asked, variant="uniform width", accuracy=0.8))
    found = judge("uniform-width", rows, 0.5)
    assert {j.outcome for j in found.judged} == {"unclear"}
    assert found.answer == "holds"
    assert "The 4 networks compared at one size together: +1.05 points" in found.text


def test_smaller_networks_do_not_count_where_they_win_alone() -> None:
    rows: list[Row] = []
    for network, lead in zip("abcdef", (1.0, 1.1, -3.0, -3.1, -2.9, -3.2), strict=True):
        rows += runs(80 + lead, **PRECROP, network=network, params=73_000)
        rows += runs(80, variant="uniform width", network=network, params=81_000)
    found = judge("uniform-width", rows, 0.5)
    assert Counter(j.outcome for j in found.judged) == {"better": 2, "smaller": 4}
    assert found.answer == "holds partly"
    assert "together" not in found.text


def test_a_network_that_happens_to_be_of_the_size_speaks_for_precrop() -> None:
    small = {"params": 30_000, "macs": 12_000_000}
    found = judged(
        "synflow-weights",
        runs(90, **PRECROP),  # larger: its lead shows nothing
        runs(78, variant="PreCrop as synflow channels", **small),
        runs(80, **MASK, variant="synflow weights", method="synflow", **small),
    )
    assert found.answer == "does not hold"
    assert [j.comparison.one.variant for j in found.judged] == ["PreCrop as synflow channels"]


@pytest.mark.parametrize("size", [{"params": 267_000}, {"params": 216_000, "macs": 60_000_000}])
def test_preconfig_is_judged_at_its_size_alone(size: dict[str, int]) -> None:
    one = {"variant": "PreConfig", **WIDER, **size}
    found = judged("preconfig", runs(82, **one), runs(80, **DENSE, params=270_000))
    assert found.answer == "not measured"


def test_a_margin_beyond_the_bound_does_not_hide_a_loss() -> None:
    on = {"network": "resnet50", **IMAGENET}
    smaller = {**on, **PRECROP, "asked_params": None, "asked_macs": 0.72, "macs": 28_800_000}
    rows = [*runs(78.5, **smaller), *runs(80, **on, **WHOLE)]
    assert judge("resnet50-imagenet", rows, 2.0).answer == "does not hold"


def test_a_larger_networks_lead_is_none() -> None:
    found = judged(
        "uniform-width", runs(82, **PRECROP, macs=24_000_000), runs(80, variant="uniform width")
    )
    assert found.answer == "undecided"
    assert "not worse, but larger" in found.text


def test_roles_and_not_names_are_compared() -> None:
    """Variants of any name, method and kind: what the study's file says of them counts."""
    parts = {("made", "a"): Part("ours"), ("made", "b"): Part("theirs")}
    rows = [*runs(82, variant="a", method="uniform"), *runs(80, variant="b", **MASK)]
    rows += runs(90, variant="PreCrop")
    claim = Claim.model_validate(
        {
            "claim": "c",
            "text": "ours is better",
            "source": "us",
            "compare": "ours",
            "with": "theirs",
            "shows": "better",
        }
    )
    found = verdict(claim, frame_of(rows, parts))
    assert found.answer == "holds"
    (pair,) = found.judged
    assert (pair.comparison.one.variant, pair.comparison.other.variant) == ("a", "b")
    assert verdict(claim, frame_of(rows)).answer == "not measured"


def test_a_claim_may_have_a_margin_of_its_own() -> None:
    rows = [*runs(80, **PRECROP), *runs(80.4, variant="other widths")]
    small, large = (
        CLAIMS["defaults"].model_copy(update={"margin": margin}) for margin in (0.1, 1.0)
    )
    assert verdict(small, framed(rows), 1.0).answer == "does not hold"
    assert verdict(large, framed(rows), 0.1).answer == "holds"
    assert "more than 1 points more accurate" in verdict(large, framed(rows)).claim


def test_two_studies_must_agree_on_a_role() -> None:
    rows = [*runs(80, **PRECROP), *runs(80, **PRECROP, study="other")]
    rows[3:] = [replace(row, seed=row.seed + 3) for row in rows[3:]]
    parts = {("made", "PreCrop"): Part("precrop"), ("other", "PreCrop"): Part("control")}
    with pytest.raises(PrecropError, match="PreCrop is precrop in the study made and control in"):
        frame_of(rows, parts)
    (group,) = frame_of(rows, {("other", "PreCrop"): Part("control")}).groups
    assert (group.role, group.accuracy.count) == ("control", 6)


def test_a_variant_made_as_large_as_another_is_none_of_its_budget() -> None:
    rows = [*runs(82, variant="PreCrop as synflow channels"), *runs(80, variant="uniform width")]
    assert judge("uniform-width", rows).answer == "not measured"


@pytest.mark.parametrize(("drop", "answer"), [(0.6, "holds"), (2.5, "does not hold")])
def test_resnet50_may_lose_what_the_paper_says(drop: float, answer: str) -> None:
    on = {"network": "resnet50", **IMAGENET}
    smaller = {**on, **PRECROP, "asked_params": None, "asked_macs": 0.72, "macs": 28_800_000}
    found = judged("resnet50-imagenet", runs(80 - drop, **smaller), runs(80, **on, **WHOLE))
    assert found.answer == answer


@pytest.mark.parametrize("lead", [0.0, -0.3, -3.0])
def test_defaults_may_be_a_little_worse(lead: float) -> None:
    found = judged("defaults", runs(80 + lead, **PRECROP), runs(80, variant="other widths"))
    assert found.answer == ("does not hold" if lead < -1 else "holds")


def test_a_default_that_may_lose_less_than_the_margin_is_not_refuted() -> None:
    rival = [
        made_row(seed=seed, accuracy=accuracy, variant="other widths")
        for seed, accuracy in enumerate((0.806, 0.807, 0.811))
    ]
    found = judged("defaults", runs(80, **PRECROP), iter(rival))
    interval = found.judged[0].comparison.pooled.interval()
    assert interval is not None
    assert interval[0] < -0.5 < interval[1] < 0, "worse, but by how much is open"
    assert found.answer == "undecided"


def test_a_larger_default_shows_nothing() -> None:
    small = {"params": 30_000, "macs": 12_000_000, "variant": "other widths"}
    found = judged("defaults", runs(90, **PRECROP), runs(80, **small))
    assert (found.answer, found.judged[0].outcome) == ("undecided", "larger")


def test_a_loss_beyond_what_a_claim_allows_counts_within_the_margin() -> None:
    claim = CLAIMS["defaults"].model_copy(update={"loss": 0.2})
    rows = [*runs(79.65, **PRECROP), *runs(80, variant="other widths")]
    assert [verdict(claim, framed(rows), margin).answer for margin in (0.2, 0.5)] == [
        "does not hold",
        "does not hold",
    ]
    assert verdict(claim.model_copy(update={"loss": 0.5}), framed(rows)).answer == "holds"


def test_a_larger_network_that_is_level_shows_that_there_is_no_lead() -> None:
    large = {**PRECROP, "params": 130_000}
    found = judged("uniform-width", runs(80, **large), runs(80, variant="uniform width"))
    assert (found.answer, found.judged[0].outcome) == ("does not hold", "larger")
    mixed = {**large, "macs": 6_000_000}  # fewer MACs may be why it does not lead
    found = judged("uniform-width", runs(80, **mixed), runs(80, variant="uniform width"))
    assert found.answer == "undecided"


@pytest.mark.parametrize(
    ("about", "answer"),
    [
        ({"networks": ["*NET20"]}, "holds"),
        ({"networks": ["*net56"]}, "not measured"),
        ({"data": ["CIFAR*"]}, "holds"),
        ({"data": ["cifar10 other"]}, "holds"),
        ({"data": ["cifar10"]}, "not measured"),
    ],
)
def test_patterns_are_about_whole_names_in_any_case(about: dict[str, Any], answer: str) -> None:
    data = {"data": "cifar10 Other 16x16"}
    rows = [*runs(82, **PRECROP, **data), *runs(80, variant="uniform width", **data)]
    claim = CLAIMS["uniform-width"].model_copy(update=about)
    assert verdict(claim, framed(rows)).answer == answer


UNITS = {
    "weight": "precrop weights",
    "kernel": "precrop kernels",
    "filter": "precrop filters",
    "channel": "precrop input channels",
}


def family(levels: Mapping[str, float], density: float = 0.3) -> list[Row]:
    """Masks of the same layer densities, and the cropped network."""
    rows = [*runs(levels.get("cropped", 80), **PRECROP, densities=shares(density))]
    for unit in ("weight", "kernel", "filter", "channel"):
        what = {"kind": "masked", "granularity": unit, "variant": UNITS[unit]}
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


def test_a_layer_without_weights_is_like_itself_alone() -> None:
    gone = {**shares(0.3), LAYER_NAMES[0]: 0.0}
    rows = [*runs(80, densities=gone), *runs(80, variant="o", densities=gone)]
    one, other = frame_of(rows).groups
    assert density_distance(one, other) == 0
    rows[3:] = runs(80, variant="o", densities=shares(0.3))
    one, other = frame_of(rows).groups
    assert density_distance(one, other) == density_distance(other, one) == float("inf")


@pytest.mark.parametrize(
    ("levels", "answer"),
    [
        ({}, "holds"),
        ({"filter": 77.0}, "holds partly"),
        (dict.fromkeys(COARSER, 77.0), "does not hold"),
    ],
)
def test_equal_accuracy_at_every_granularity(levels: Mapping[str, float], answer: str) -> None:
    found = judge("granularity", family(levels), 0.5)
    assert found.answer == answer
    assert len(found.judged) == 4


def test_the_margin_is_what_counts_as_no_difference() -> None:
    rows = family(dict.fromkeys(COARSER, 79.6))
    answers = [judge("granularity", rows, margin).answer for margin in (0.3, 0.6)]
    assert answers == ["does not hold", "holds"]


def test_verdicts_as_json() -> None:
    found = judge("uniform-width", made_study()).to_json()
    known = {row.run for row in made_study()}
    assert set(found["runs"]) <= known
    assert len(found["comparisons"]) == 4
    first = found["comparisons"][0]
    assert first["n"] == 3
    low, high = first["interval"]
    assert low < first["difference"] < high
