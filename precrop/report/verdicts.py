"""Verdicts on claims, from comparisons of roles within each setting."""

import re
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import fmean, median
from typing import Any, Literal

from precrop.report.claims import Claim, Claims
from precrop.report.comparisons import (
    LARGER,
    Comparison,
    Judged,
    Outcome,
    as_equal,
    at_any_size,
    at_one_size,
    compare,
    compare_looser,
    judge,
    paired,
    together,
)
from precrop.report.families import granularities
from precrop.report.frames import ResultFrame, RunGroup

MARGIN = 0.5
"""Percentage points of accuracy that count as no difference by default."""
OUTCOMES: dict[Outcome, str] = {
    "better": "better",
    "worse": "worse",
    "equal": "equal within the margin",
    "larger": "not worse, but larger",
    "smaller": "not better, but smaller",
    "unclear": "undecided",
}
"""The outcomes of comparisons in words."""

Answer = Literal["holds", "holds partly", "does not hold", "undecided", "not measured"]


@dataclass(frozen=True)
class Verdict:
    """What the runs show about a claim.

    Attributes:
        claim: the claim in one sentence.
        source: who claims or asks it.
        answer: ``not measured`` if no two runs can be compared for the claim, ``undecided`` if
            some can but are too few to tell.
        text: the reasons, with figures.
        judged: the comparisons that the verdict rests on.
    """

    claim: str
    source: str
    answer: Answer
    text: str
    judged: tuple[Judged, ...] = ()

    @property
    def runs(self) -> tuple[str, ...]:
        """The ids of all runs that the verdict rests on."""
        return tuple(dict.fromkeys(run for j in self.judged for run in j.comparison.runs))

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON types."""
        return {
            "claim": self.claim,
            "source": self.source,
            "verdict": self.answer,
            "text": self.text,
            "comparisons": [judged.to_json() for judged in self.judged],
            "runs": list(self.runs),
        }


def verdicts(frame: ResultFrame, claims: Claims, margin: float = MARGIN) -> dict[str, Verdict]:
    """Return the verdict on every claim, by the claim's name."""
    return {claim.name: verdict(claim, frame, margin) for claim in claims.claims}


def verdict(claim: Claim, frame: ResultFrame, margin: float = MARGIN) -> Verdict:
    """Judge a claim by the runs."""
    margin = margin if claim.margin is None else claim.margin
    text = claim.text.replace("{margin}", f"{margin:g}")
    if claim.untestable is not None:
        return Verdict(text, claim.source, "not measured", claim.untestable)
    found = [pair for pair in _pairs(claim, frame) if _is_meant(claim, pair)]
    if claim.shows == "equal":
        judged = judge(found, margin, as_equal)
        return _counted(text, claim.source, judged, {"equal"}, {"better", "worse"})
    # A claim that limits the sizes itself is about networks of different sizes.
    rule = at_any_size if claim.params or claim.macs else at_one_size
    if claim.shows == "better":
        return _superior(text, claim.source, judge(found, margin, rule))
    loss = margin if claim.loss is None else claim.loss
    above: set[Outcome] = {"better", "equal"} if margin <= loss else {"better"}
    return _counted(text, claim.source, judge(found, margin, rule, bound=-loss), above, {"worse"})


def _pairs(claim: Claim, frame: ResultFrame) -> list[Comparison]:
    ones = [group for group in frame.groups if group.role in claim.compare]
    others = [group for group in frame.groups if group.role in claim.against]
    free = [group for group in ones if not group.match]
    match claim.at:
        case "size":
            return [pair for other in others for pair in _at_size(ones, other)]
        case "densities":
            families = [family for family in granularities(frame) if family[0] in others]
            return paired((one, first) for first, *near in families for one in near if one in ones)
        case "budget":
            # A dense network has no budget: compare it with groups of every budget.
            dense = [group for group in others if group.kind == "dense"]
            cropped = [group for group in others if group.kind != "dense"]
            return compare(free, cropped) + paired((one, whole) for one in free for whole in dense)


def _at_size(ones: Sequence[RunGroup], other: RunGroup) -> list[Comparison]:
    """Pair a group with those that the study made as large as it.

    If there are none, pair it with those made as large as a third group that happens to have its
    size; if these are missing, too, with those within the same budgets or a part of them.
    """
    made = [group for group in ones if group.match]
    named = {(row.study, row.variant) for row in other.rows}
    for_it = [g for g in made if named & {(row.study, g.match) for row in g.rows}]
    near = [pair for pair in compare(made, [other]) if pair.of_one_size]
    free = [group for group in ones if not group.match]
    return compare(for_it, [other]) or near or compare_looser(free, [other])


def _is_meant(claim: Claim, pair: Comparison) -> bool:
    """Whether a claim is about a pair's network, data and sizes."""
    setting = pair.one.setting
    return (
        _fits(setting.network, claim.networks)
        and _fits(_ADDED.sub("", setting.data), claim.data)
        and (claim.params is None or pair.params <= claim.params)
        and (claim.macs is None or pair.macs <= claim.macs)
    )


_ADDED = re.compile(r"( \d+x\d+)?( \([0-9a-f]{8}\))?$")
"""What follows the data's own name in a setting: the images' size and a digest."""


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name.lower(), each.lower()) for each in patterns)


def _superior(claim: str, source: str, judged: Sequence[Judged]) -> Verdict:
    """Judge a claim of being better; it holds if each comparison, or all together, show it."""
    wins = [j for j in judged if j.outcome == "better"]
    against = [j for j in judged if j.outcome in ("worse", "equal") or _excluded(j)]
    answer, text = _answer(judged, wins, against), _text(judged)
    # Select by size, not by outcome: else a smaller network would count only where it wins.
    alike = [j.comparison for j in judged if j.comparison.of_one_size]
    whole = together(alike)
    if whole is not None and (ends := whole.interval()) is not None:
        (low, high), networks = ends, whole.freedom + 1
        bound, margin = judged[0].bound, judged[0].margin
        if low > bound and answer != "holds":
            answer = "holds partly" if against or len(alike) < len(judged) else "holds"
        elif high < bound + margin and answer == "undecided":
            answer = "does not hold"
        text += (
            f" The {networks} networks compared at one size together: "
            f"{whole.difference:+.2f} points (95% interval {low:+.2f} to {high:+.2f})."
        )
    return Verdict(claim, source, answer, text, tuple(judged))


def _counted(
    claim: str, source: str, judged: Sequence[Judged], pro: Set[Outcome], contra: Set[Outcome]
) -> Verdict:
    """Judge a claim that holds if every comparison has an outcome in its favor (``pro``)."""
    found = [[j for j in judged if j.outcome in outcomes] for outcomes in (pro, contra)]
    return Verdict(claim, source, _answer(judged, *found), _text(judged), tuple(judged))


def _excluded(judged: Judged) -> bool:
    """Whether an unclear comparison, or one with a larger network, excludes a lead that matters."""
    compared = judged.comparison
    interval = compared.pooled.interval()
    none_smaller = min(compared.params, compared.macs) >= 1 / LARGER
    return (
        (judged.outcome == "unclear" or (judged.outcome == "larger" and none_smaller))
        and interval is not None
        and interval[1] < judged.bound + judged.margin
    )


def _answer(all_: Sequence[Judged], pro: Sequence[Judged], contra: Sequence[Judged]) -> Answer:
    if not all_:
        return "not measured"
    if pro:
        return "holds" if len(pro) == len(all_) else "holds partly"
    return "does not hold" if contra else "undecided"


def _text(judged: Sequence[Judged]) -> str:
    if not judged:
        return "The store has no two runs that could be compared for it."
    said = _one(judged[0]) if len(judged) == 1 else _several(judged)
    return f"{said} {_reach(judged)}"


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
    """Return a comparison's difference in words, with the statistics and sizes behind it."""
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
    """Return a sentence on how small a difference these runs can show at all."""
    intervals = [i for j in judged if (i := j.comparison.pooled.interval()) is not None]
    counts = [len(j.comparison.seeds) for j in judged]
    seeds = " to ".join(map(str, sorted({min(counts), max(counts)})))
    if not intervals:
        return f"With n = {seeds} no interval can be given: nothing is decided by it."
    reach = median((high - low) / 2 for low, high in intervals)
    return (
        f"With n = {seeds} a difference below about {reach:.2f} points cannot be told from chance."
    )
