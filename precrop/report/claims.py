"""The paper's claims and the study's questions, each judged by the runs that a store holds.

A claim is a function from a frame and a margin to a `Verdict`, and a line in `CLAIMS`. What the
paper claims is taken from its public abstracts and reviews ("Structured Pruning of CNNs at
Initialization", arXiv 2203.02549); its tables were not at hand.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Literal

from precrop.report.comparisons import (
    LARGER,
    Comparison,
    Judged,
    Outcome,
    compare,
    compare_looser,
    judge,
    judge_equal,
    judge_matched,
    together,
)
from precrop.report.frames import Frame, Group
from precrop.solve.program import OBJECTIVES, RETIRED
from precrop.strategies.exact import EXACT

MARGIN = 0.5
"""Percentage points of accuracy that count as no difference, unless said otherwise."""

PRECROP, PRECONFIG = "PreCrop", "PreConfig"
"""Variants that speak for a method where a study tries its options under further names."""
PRECONFIG_PARAMS = 0.85
"""Most parameters, as a share of the original's, of a network that the claim on 80% is about."""
MATCHED = f"{PRECROP} as "
"""Begins the name of a variant that is made as large as another, whose name follows."""
SAME_DENSITIES = 0.1
"""Networks no further apart (`density_distance`) have the same densities, but for rounding."""
UNITS = ("weight", "kernel", "filter", "channel")
"""Granularities, from fine to coarse."""
OUTCOMES: dict[Outcome, str] = {
    "better": "better",
    "worse": "worse",
    "equal": "equal within the margin",
    "larger": "not worse, but larger",
    "smaller": "not better, but smaller",
    "unclear": "undecided",
}
"""A comparison's outcome, in words."""

Answer = Literal["holds", "holds partly", "does not hold", "not measured"]


@dataclass(frozen=True)
class Verdict:
    """What the runs say of a claim.

    Attributes:
        claim: one sentence.
        source: who claims it, or asks.
        answer: ``not measured`` where there are no runs for it, or too few to tell.
        text: why, with figures.
        judged: the comparisons that it rests on.
    """

    claim: str
    source: str
    answer: Answer
    text: str
    judged: tuple[Judged, ...] = ()

    @property
    def runs(self) -> tuple[str, ...]:
        """What was trained for it."""
        return tuple(dict.fromkeys(run for j in self.judged for run in j.comparison.runs))

    def to_json(self) -> dict[str, Any]:
        """All of it, in JSON's types."""
        return {
            "claim": self.claim,
            "source": self.source,
            "verdict": self.answer,
            "text": self.text,
            "comparisons": [judged.to_json() for judged in self.judged],
            "runs": list(self.runs),
        }


Claim = Callable[[Frame, float], Verdict]


def beats_synflow_weights(frame: Frame, margin: float) -> Verdict:
    """The paper's main comparison."""
    masks = frame.where(lambda group: _masked(group, "synflow"))
    return _superior(
        "PreCrop is more accurate than SynFlow's sparse network, with no more parameters and MACs.",
        "Claimed by the paper",
        judge_matched(_against(frame, masks), margin),
    )


def beats_synflow_channels(frame: Frame, margin: float) -> Verdict:
    """Whether the densities matter, once both networks are dense ones of fewer channels."""
    cropped = frame.where(lambda group: _cropped(group, "synflow"))
    return _superior(
        "PreCrop is more accurate than channels that follow SynFlow's layer densities.",
        "Asked by this study",
        judge_matched(_against(frame, cropped), margin),
    )


def beats_other_methods(frame: Frame, margin: float) -> Verdict:
    """The paper's other baselines, as the sparse networks that they were made for."""
    methods = ("snip", "grasp", "erk")
    masks = frame.where(lambda group: _masked(group, *methods))
    return _superior(
        "PreCrop is more accurate than SNIP, GraSP and ERK, with no more parameters and MACs.",
        "Claimed by the paper",
        judge_matched(_against(frame, masks), margin),
    )


def beats_uniform_width(frame: Frame, margin: float) -> Verdict:
    """The control that needs no method."""
    uniform = frame.where(lambda group: _cropped(group, "uniform"))
    return _superior(
        "PreCrop is more accurate than making every layer narrower by one factor.",
        "Asked by this study",
        judge_matched(compare(_precrop(frame), uniform), margin),
    )


def beats_torch_pruning(frame: Frame, margin: float) -> Verdict:
    """A structured competitor, used at initialization."""
    other = frame.where(lambda group: _cropped(group, "torch-pruning"))
    return _superior(
        "PreCrop is more accurate than Torch-Pruning at initialization within the same budgets.",
        "Asked by this study",
        judge_matched(_against(frame, other), margin),
    )


def granularity_is_free(frame: Frame, margin: float) -> Verdict:
    """Equal layer densities, coarser and coarser units: equal accuracy within the margin."""
    pairs = [comparison for family in granularities(frame) for comparison in against_first(family)]
    return _equal(
        "Networks of the same layer densities are equally accurate, whether weights, kernels, "
        "filters or channels are removed.",
        "Claimed by the paper",
        judge_equal(pairs, margin),
    )


def defaults_suffice(frame: Frame, margin: float) -> Verdict:
    """SynExp leaves the balance of widths open: whether another choice trains better."""
    tried = frame.where(lambda group: _cropped(group, *OBJECTIVES, *RETIRED, *EXACT, "given"))
    others = [g for g in tried if g.variant != PRECROP and not _is_matched(g)]
    found = [c for c in compare(_precrop(frame), others) if c.one.variant == PRECROP]
    return _no_worse(
        f"No other balance, objective or choice of widths is more than {margin:g} points more "
        "accurate than PreCrop's defaults.",
        "Asked by this study",
        judge_matched(found, margin, bound=-margin),
    )


def preconfig_gains(frame: Frame, margin: float) -> Verdict:
    """Fewer parameters at the same MACs, and more accurate."""
    dense = _against_dense(_preconfig(frame), frame)
    found = [c for c in dense if c.params <= PRECONFIG_PARAMS and c.macs <= LARGER]
    return _superior(
        "PreConfig is more accurate than the original with 80% of its parameters and equal MACs.",
        "Claimed by the paper (ICLR 2023: EfficientNet-B0 +0.3 points on ImageNet)",
        judge(found, margin),
    )


def preconfig_beats_uniform_width(frame: Frame, margin: float) -> Verdict:
    """The control of PreConfig: the original made wider or narrower as a whole."""
    uniform = frame.where(lambda group: group.kind == "cropped" and group.method == "uniform")
    return _superior(
        "PreConfig is more accurate than uniform width within the same budgets.",
        "Asked by this study",
        judge_matched(compare(_preconfig(frame), uniform), margin),
    )


def mobilenet_on_imagenet(frame: Frame, margin: float) -> Verdict:
    """The abstract's first figure."""
    return _superior(
        "MobileNetV2 on ImageNet: up to 1.9 points more accurate than SynFlow's sparse network, "
        "with fewer parameters and MACs.",
        "Claimed by the paper (ICLR 2024; 2.7 points in ICLR 2023)",
        judge_matched(_on_imagenet(beats_synflow_weights(frame, margin), "mobilenet"), margin),
    )


def efficientnet_on_imagenet(frame: Frame, margin: float) -> Verdict:
    """The abstract's second figure."""
    return _superior(
        "EfficientNet on ImageNet: 0.9 points more accurate than SynFlow's sparse network, with "
        "fewer parameters and MACs.",
        "Claimed by the paper (ICLR 2023)",
        judge_matched(_on_imagenet(beats_synflow_weights(frame, margin), "efficientnet"), margin),
    )


def resnet50_on_imagenet(frame: Frame, margin: float) -> Verdict:
    """A drop that is no larger than the paper's, at its share of MACs or fewer."""
    found = [
        comparison
        for comparison in _against_dense(frame.where(_is_precrop), frame)
        if _is_imagenet(comparison, "resnet50") and comparison.one.macs_share <= 0.73
    ]
    return _no_worse(
        "ResNet-50 on ImageNet loses no more than 1.1 points at 28% fewer MACs.",
        "Claimed by the paper (ICLR 2024, through a review)",
        judge(found, margin, bound=-1.1),
    )


def sparse_kernels_are_slow(frame: Frame, margin: float) -> Verdict:
    """What the paper motivates structured pruning by; a study trains masks with dense kernels."""
    del frame, margin
    return Verdict(
        "Sparse kernels (cuSPARSE) are faster than dense ones above 98% sparsity only.",
        "Claimed by the paper (ICLR 2023, motivation)",
        "not measured",
        "A study trains masked networks with dense kernels, so its times say nothing of sparse "
        "ones.",
    )


CLAIMS: dict[str, Claim] = {
    "synflow-weights": beats_synflow_weights,
    "synflow-channels": beats_synflow_channels,
    "other-methods": beats_other_methods,
    "uniform-width": beats_uniform_width,
    "torch-pruning": beats_torch_pruning,
    "granularity": granularity_is_free,
    "defaults": defaults_suffice,
    "preconfig": preconfig_gains,
    "preconfig-uniform": preconfig_beats_uniform_width,
    "mobilenet-imagenet": mobilenet_on_imagenet,
    "efficientnet-imagenet": efficientnet_on_imagenet,
    "resnet50-imagenet": resnet50_on_imagenet,
    "sparse-kernels": sparse_kernels_are_slow,
}
"""Claims by name; adding one is a function and a line here."""


def verdicts(frame: Frame, margin: float = MARGIN) -> dict[str, Verdict]:
    """The verdict on every claim."""
    return {name: claim(frame, margin) for name, claim in CLAIMS.items()}


def granularities(frame: Frame) -> list[tuple[Group, ...]]:
    """Families of groups with the same layer densities, each begun by a mask of single weights."""
    return [
        family
        for first in frame.where(lambda group: group.kind == "masked")
        if first.granularity == "weight" and len(family := _family(frame, first)) > 1
    ]


def against_first(groups: Sequence[Group]) -> list[Comparison]:
    """Every group against the first one, where they have a seed in common."""
    found = [Comparison(group, groups[0]) for group in groups[1:]]
    return [comparison for comparison in found if comparison.seeds]


def density_distance(one: Group, other: Group) -> float:
    """How far the layers' densities are apart: 0.1 is about 10%, larger layers counting more.

    Whole channels come near a density but seldom meet it.
    """
    layers = [name for name in one.densities if name in other.densities]
    sizes = [math.prod(one.rows[0].widths.get(name, (1, 1))) for name in layers]
    logs = [abs(math.log(one.densities[name] / other.densities[name])) for name in layers]
    return sum(size * log for size, log in zip(sizes, logs, strict=True)) / max(1, sum(sizes))


def _family(frame: Frame, first: Group) -> tuple[Group, ...]:
    near = [
        group
        for group in frame.within(first.setting)
        if group.kind != "dense"
        and group.method == first.method
        and (group.kind, group.granularity) != (first.kind, first.granularity)
        and density_distance(first, group) <= SAME_DENSITIES
    ]
    return (first, *sorted(near, key=_coarseness))


def _coarseness(group: Group) -> tuple[bool, int]:
    return (group.kind == "cropped", UNITS.index(group.granularity))


def _masked(group: Group, *methods: str) -> bool:
    return group.kind == "masked" and group.granularity == "weight" and group.method in methods


def _cropped(group: Group, *methods: str) -> bool:
    return group.kind == "cropped" and group.method in methods and not _may_widen(group)


def _is_precrop(group: Group) -> bool:
    return _cropped(group, "synexp") and not _is_matched(group)


def _is_matched(group: Group) -> bool:
    """Its size is another variant's, not what the budget allows."""
    return group.variant.startswith(MATCHED)


def _is_preconfig(group: Group) -> bool:
    return group.kind == "cropped" and group.method == "synexp" and _may_widen(group)


def _may_widen(group: Group) -> bool:
    """Some budget leaves all that the original has, or the variant's name says so."""
    asked = (group.budget.params, group.budget.macs)
    whole = any(share is not None and share >= 1 for share in asked)
    return whole or group.variant.startswith(PRECONFIG)


def _precrop(frame: Frame) -> list[Group]:
    return _named(frame.where(_is_precrop), PRECROP)


def _against(frame: Frame, others: Sequence[Group]) -> list[Comparison]:
    """PreCrop with each of the others: where the study has such runs at that one's very size.

    Else made as large as a third one that happens to be of that size.
    """
    found: list[Comparison] = []
    for other in others:
        name = MATCHED + other.variant
        matched = compare([g for g in frame.within(other.setting) if g.variant == name], [other])
        near = [c for c in compare(frame.where(_is_matched), [other]) if c.of_one_size]
        found += matched or near or compare_looser(_precrop(frame), [other])
    return found


def _preconfig(frame: Frame) -> list[Group]:
    return _named(frame.where(_is_preconfig), PRECONFIG)


def _named(groups: Sequence[Group], name: str) -> list[Group]:
    """At every budget the variant of this name, where others try its options too."""
    named = {(group.setting, group.budget) for group in groups if group.variant == name}
    return [g for g in groups if g.variant == name or (g.setting, g.budget) not in named]


def _against_dense(groups: Sequence[Group], frame: Frame) -> list[Comparison]:
    found = [
        Comparison(group, dense)
        for group in groups
        for dense in frame.within(group.setting)
        if dense.kind == "dense"
    ]
    return [comparison for comparison in found if comparison.seeds]


def _on_imagenet(verdict: Verdict, network: str) -> list[Comparison]:
    found = [judged.comparison for judged in verdict.judged]
    return [comparison for comparison in found if _is_imagenet(comparison, network)]


def _is_imagenet(comparison: Comparison, network: str) -> bool:
    setting = comparison.one.setting
    name = setting.data.partition(" ")[0].lower()
    return name in ("imagenet", "imagenet1k", "imagenet-1k") and network in setting.network


def _superior(claim: str, source: str, judged: Sequence[Judged]) -> Verdict:
    """Holds where every comparison, or all of them together, show the first variant better."""
    wins = [j for j in judged if j.outcome == "better"]
    against = [j for j in judged if j.outcome in ("worse", "equal") or _excluded(j)]
    answer, text = _answer(judged, wins, against), _text(judged)
    # By size, not by outcome: a smaller network would count where it wins and not where it loses.
    alike = [j.comparison for j in judged if j.comparison.of_one_size]
    whole = together(alike)
    if whole is not None:
        low, high = whole.interval
        bound, margin = judged[0].bound, judged[0].margin
        if low > bound and answer != "holds":
            answer = "holds partly" if against or len(alike) < len(judged) else "holds"
        elif high < bound + margin and answer == "not measured":
            answer = "does not hold"
        text += (
            f" The {whole.spread.count} networks compared at one size together: "
            f"{whole.spread.mean:+.2f} points (95% interval {low:+.2f} to {high:+.2f})."
        )
    return Verdict(claim, source, answer, text, tuple(judged))


def _no_worse(claim: str, source: str, judged: Sequence[Judged]) -> Verdict:
    """Holds where every comparison shows the first variant above the bound."""
    above = [
        j
        for j in judged
        if j.outcome == "better" or (j.outcome == "equal" and j.margin <= -j.bound)
    ]
    below = [j for j in judged if j.outcome == "worse"]
    text = _text(judged)
    return Verdict(claim, source, _answer(judged, above, below), text, tuple(judged))


def _equal(claim: str, source: str, judged: Sequence[Judged]) -> Verdict:
    """Holds where every comparison shows a difference within the margin."""
    same = [j for j in judged if j.outcome == "equal"]
    apart = [j for j in judged if j.outcome in ("better", "worse")]
    return Verdict(claim, source, _answer(judged, same, apart), _text(judged), tuple(judged))


def _excluded(judged: Judged) -> bool:
    """Nothing is sure but that there is no lead that would matter."""
    interval = judged.comparison.pooled.interval()
    return (
        judged.outcome == "unclear"
        and interval is not None
        and interval[1] < judged.bound + judged.margin
    )


def _answer(all_: Sequence[Judged], pro: Sequence[Judged], contra: Sequence[Judged]) -> Answer:
    if pro:
        return "holds" if len(pro) == len(all_) else "holds partly"
    return "does not hold" if contra else "not measured"


def _text(judged: Sequence[Judged]) -> str:
    if not judged:
        return "The store has no two runs that could be compared for it."
    parts = [_one(judged[0]) if len(judged) == 1 else _several(judged), _reach(judged)]
    return " ".join(part for part in parts if part)


def _one(judged: Judged) -> str:
    compared = judged.comparison
    return (
        f"{compared.one.variant} against {compared.other.variant}, {compared.one.setting}, "
        f"{compared.one.budget}: {figures(judged)}; {OUTCOMES[judged.outcome]}."
    )


def _several(judged: Sequence[Judged]) -> str:
    counts = Counter(j.outcome for j in judged)
    said = ", ".join(f"{counts[o]} {text}" for o, text in OUTCOMES.items() if counts[o])
    found = sorted(j.comparison.difference for j in judged)
    return (
        f"Of {len(judged)} comparisons: {said}. Differences from {found[0]:+.2f} to "
        f"{found[-1]:+.2f} points, {fmean(found):+.2f} on average."
    )


def figures(judged: Judged) -> str:
    """A comparison's difference with what stands behind it, in words."""
    compared = judged.comparison
    parts = [f"{compared.difference:+.2f} points"]
    interval = compared.pooled.interval()
    if interval is not None:
        parts.append(f"95% interval {interval[0]:+.2f} to {interval[1]:+.2f}")
    parts.append(f"n = {len(compared.seeds)}")
    if judged.p is not None:
        parts.append(f"p = {judged.p:.2g}")
    parts.append(f"{compared.params:.1%} of its parameters and {compared.macs:.1%} of its MACs")
    return f"{parts[0]} ({', '.join(parts[1:])})"


def _reach(judged: Sequence[Judged]) -> str:
    """What so few runs can show at all."""
    intervals = [i for j in judged if (i := j.comparison.pooled.interval()) is not None]
    counts = sorted({len(j.comparison.seeds) for j in judged})
    if not intervals:
        return f"With n = {_range(counts)} no interval can be given: nothing is decided by it."
    reach = median((high - low) / 2 for low, high in intervals)
    return (
        f"With n = {_range(counts)} a difference below about {reach:.2f} points cannot be told "
        "from chance."
    )


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
