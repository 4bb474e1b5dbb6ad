"""Sorting the rows of stores into groups: which runs are of one variant, and which are old."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from precrop.errors import PrecropError, printable
from precrop.report.frames import BudgetShares, ResultFrame, RunGroup, RunSetting, Scatter, percent
from precrop.study.rows import FIELDS, Row
from precrop.study.spec import Part
from precrop.training.recipes import RECIPES

_DERIVED = ("num_classes",)
"""Builder arguments that follow from the data."""
_LONGEST_NAME = 130
"""Characters of a name that a figure has room for."""


def frame_of(
    rows: Iterable[Row], parts: Mapping[tuple[str, str], Part] | None = None
) -> ResultFrame:
    """Sort rows into groups; ``parts`` are the roles by study and variant.

    Raises:
        PrecropError: no run is finished, or two studies give one variant two roles.
    """
    parts = {(_name(study), _name(name)): part for (study, name), part in (parts or {}).items()}
    rows = list(map(_printable, rows))
    done = [row for row in rows if row.status == "done"]
    failed = tuple(row for row in rows if row.status != "done")
    if not done:
        why = f"all of its {len(failed)} failed" if failed else "it is empty"
        raise PrecropError(f"the store has no finished run, {why}: `precrop study run` trains them")
    kept = {key: _latest(members) for key, members in _by_study(_groups(done)).items()}
    by_seed = attrgetter("seed")
    groups = [replace(key, rows=tuple(sorted(rows, key=by_seed))) for key, rows in kept.items()]
    groups = [_with_role(group, parts) for group in groups]
    groups = _pooled(sorted(groups, key=attrgetter("order")))
    current = {id(row) for group in groups for row in group.rows}
    return ResultFrame(
        groups=tuple(groups),
        failed=failed,
        replaced=tuple(row for row in done if id(row) not in current),
    )


def _with_role(group: RunGroup, parts: Mapping[tuple[str, str], Part]) -> RunGroup:
    """Give a group the role that its runs' studies name; studies that name none do not count."""
    keys = ((row.study, row.variant) for row in group.rows)
    said = {key: parts[key] for key in keys if key in parts}
    if not said:
        return group
    (first, part), *others = said.items()
    for other, another in others:
        if another != part:
            raise PrecropError(
                f"{group.variant} is {_described(part)} in the study {first[0]} and "
                f"{_described(another)} in {other[0]}: give it one role, or two names"
            )
    return replace(group, role=part.role, match=_name(part.match or ""))


def _described(part: Part) -> str:
    return part.role if part.match is None else f"{part.role} (match: {part.match})"


def _pooled(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """Return the groups with their pooled scatter; variants with the same runs count once."""
    samples: dict[Any, dict[tuple[str, ...], list[float]]] = defaultdict(dict)
    for group in groups:
        accuracies = [percent(row) for row in group.rows]
        samples[group.setting, group.budget][group.runs] = accuracies
    pools = {key: Scatter.of(found.values()) for key, found in samples.items()}
    return [replace(group, scatter=pools[group.setting, group.budget]) for group in groups]


def _printable(row: Row) -> Row:
    """Return a row whose names are safe to show; each format adds its own escapes."""
    texts = ((name, value) for name in FIELDS if isinstance(value := getattr(row, name), str))
    shown: dict[str, Any] = {name: _name(text) for name, text in texts}
    return replace(row, **shown)


def _name(text: str) -> str:
    """Return a name without control characters; a very long one is cut and gets a digest."""
    shown = printable(text)
    if len(shown) <= _LONGEST_NAME:
        return shown
    return f"{shown[: _LONGEST_NAME // 2]}… {hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _groups(rows: Sequence[Row]) -> dict[RunGroup, list[Row]]:
    """Return rows by group, which has none itself yet; only ambiguous data names get a digest."""
    # The same images may go by several names: the longest says the most.
    names: dict[str, str] = {}
    for row in rows:
        known = names.get(row.data_digest, "")
        names[row.data_digest] = max(known, row.data, key=lambda name: (len(name), name))
    often = Counter(names.values())
    found: dict[RunGroup, list[Row]] = defaultdict(list)
    for row in rows:
        data = names[row.data_digest]
        data = f"{data} ({row.data_digest[:8]})" if often[data] > 1 else data
        setting = RunSetting(_network(row), data, recipe_name(row.recipe))
        budget = BudgetShares(row.asked_params, row.asked_macs)
        group = RunGroup(setting, budget, row.variant, row.kind, row.method, row.granularity, ())
        found[group].append(row)
    return found


def _network(row: Row) -> str:
    said = (f"{name}={value}" for name, value in sorted(row.args.items()) if name not in _DERIVED)
    args = ", ".join(said)
    return _name(f"{row.network} ({args})" if args else row.network)


def recipe_name(recipe: Mapping[str, Any]) -> str:
    """Return the name of the most similar known recipe, with the values that differ from it."""
    near, changes = min(
        ((name, _differences(recipe, known.to_json())) for name, known in RECIPES.items()),
        key=lambda pair: len(pair[1]),
    )
    return _name(", ".join([near, *(f"{name}={value}" for name, value in changes.items())]))


def _differences(given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    names = dict.fromkeys((*sorted(known), *sorted(given)))
    return {name: given.get(name) for name in names if given.get(name) != known.get(name)}


def _by_study(found: Mapping[RunGroup, list[Row]]) -> dict[RunGroup, list[Row]]:
    """Split a group if studies use its variant's name for different things."""
    parts: dict[RunGroup, list[Row]] = defaultdict(list)
    for key, rows in found.items():
        apart = _clash(rows, within_study=False)
        for row in rows:
            variant = f"{key.variant} ({row.study})" if apart else key.variant
            parts[replace(key, variant=variant)].append(row)
    return parts


def _clash(rows: Sequence[Row], within_study: bool) -> bool:
    """Whether two rows with one seed are of different cells, of one study or of two."""
    seen: dict[int, Row] = {}
    for row in rows:
        other = seen.setdefault(row.seed, row)
        if row.cell != other.cell and (row.study == other.study) == within_study:
            return True
    return False


def _latest(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of a variant's newest options; older rows of a seed belong to older options.

    Rows between the last such older row and the first newer one count as new if their networks are
    like those of newer rows: seeds do not run in order if some were asked for alone.
    """
    if not _clash(rows, within_study=True):
        return list({row.seed: row for row in rows}.values())
    newest: dict[int, Row] = {}
    askings: dict[int, set[str]] = defaultdict(set)
    for row in sorted(rows, key=lambda row: row.started):
        newest[row.seed] = row
        askings[row.seed].add(row.cell)
    since = min(newest[seed].started for seed, cells in askings.items() if len(cells) > 1)
    until = max(row.started for row in rows if row is not newest[row.seed])
    alike = {_sizes(row) for row in newest.values() if row.started >= since}
    return [row for row in newest.values() if row.started > until and _sizes(row) in alike]


def _sizes(row: Row) -> Any:
    return row.params, row.macs, tuple(row.densities.items()), tuple(row.widths.items())
