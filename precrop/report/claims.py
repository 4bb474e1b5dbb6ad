"""Claims as data: what a study's file says that its runs are judged by.

A claim compares roles, which variants have in the study's file; nothing here knows a method, a
network or a variant by name.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from precrop.errors import PrecropError, suggestion
from precrop.study.entries import Entry, brief, within
from precrop.study.reading import read_yaml
from precrop.study.spec import Asked, Part, read_asked

Shows = Literal["better", "no worse", "equal"]
At = Literal["budget", "size", "densities"]
METRICS = ("accuracy",)
_CLAIM = ("claim", "text", "source", "untestable")
_COMPARED = (
    "compare",
    "with",
    "shows",
    "metric",
    "loss",
    "margin",
    "at",
    "network",
    "data",
    "params",
    "macs",
)


@dataclass(frozen=True)
class Claim:
    """What the runs of some variants are said to show against those of others.

    Attributes:
        name: unique among the claims.
        text: one sentence; ``{margin}`` stands for the margin.
        source: who claims it, or asks.
        compare: roles of the variants that it is about.
        against: roles of the variants that these are compared with.
        shows: what is claimed of the accuracy of the first.
        loss: percentage points that ``no worse`` may be worse by; None is the margin.
        margin: percentage points that count as no difference; None is the report's.
        at: pairs are of one ``budget``, of one ``size`` where the study has a variant made as large
            as the other (`match`), or of the same layer ``densities``.
        networks: patterns of which the network's name fits one; empty is any.
        data: patterns of which the data's name fits one; empty is any.
        params: most parameters of the first, as a share of the other's.
        macs: most multiply-accumulates of the first, as a share of the other's.
        untestable: why no study's runs can tell; then nothing is compared.
    """

    name: str
    text: str
    source: str
    compare: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    shows: Shows = "better"
    loss: float | None = None
    margin: float | None = None
    at: At = "budget"
    networks: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    params: float | None = None
    macs: float | None = None
    untestable: str | None = None


@dataclass(frozen=True)
class Claims:
    """The claims that studies name, and what their variants are to them.

    Attributes:
        claims: each once.
        parts: by study and variant.
    """

    claims: tuple[Claim, ...] = ()
    parts: Mapping[tuple[str, str], Part] = field(default_factory=dict)


def read_claims(paths: Iterable[Path], studies: Iterable[str]) -> Claims:
    """The claims of some studies.

    Args:
        paths: studies' files, and folders of such; what is no study in a folder is passed over.
        studies: names of the studies whose runs are judged.

    Raises:
        PrecropError: one line with the file, the entry and what is wrong there.
    """
    wanted = set(studies)
    claims: dict[str, Claim] = {}
    parts: dict[tuple[str, str], Part] = {}
    for path, asked in _studies(paths):
        if asked.study in wanted:
            parts |= {(asked.study, name): part for name, part in asked.parts.items()}
            for claim in _claims(path, asked.claims):
                known = claims.setdefault(claim.name, claim)
                if known != claim:
                    raise PrecropError(f"{path}: claims, {claim.name}: another study means another")
    return Claims(tuple(claims.values()), parts)


def _studies(paths: Iterable[Path]) -> Iterator[tuple[Path, Asked]]:
    for path in paths:
        if not path.is_dir():
            yield path, read_asked(path)
            continue
        for file in sorted(path.glob("*.yaml")):
            content = read_yaml(file)
            if isinstance(content, Mapping) and "study" in content:
                yield file, read_asked(file)


def _claims(path: Path, given: str | Sequence[Any] | None) -> list[Claim]:
    if given is None:
        return []
    if isinstance(given, str):
        path = path.with_name(given)
        given = read_yaml(path)
    with within(str(path)):
        if not isinstance(given, list):
            raise PrecropError(f"{brief(given)} is not a list of claims")
        found = []
        for number, item in enumerate(given, start=1):
            name = item.get("claim") if isinstance(item, Mapping) else None
            with within(f"claims, {name or f'entry {number}'}"):
                found.append(_claim(item))
        names = [claim.name for claim in found]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise PrecropError(f"claims has {twice} twice")
    return found


def _claim(value: Any) -> Claim:
    entry = Entry.of(value, (*_CLAIM, *_COMPARED), "a claim")
    text, source = (" ".join(str(entry.needed(key)).split()) for key in ("text", "source"))
    if "untestable" in entry.content:
        odd = next((key for key in _COMPARED if key in entry.content), None)
        if odd is not None:
            raise PrecropError(f"{odd} and untestable exclude one another: drop one of them")
        why = " ".join(str(entry.needed("untestable")).split())
        return Claim(entry.text("claim"), text, source, untestable=why)
    _one_of(entry, "metric", METRICS, METRICS[0])
    shows = _one_of(entry, "shows", get_args(Shows))
    if shows != "no worse" and "loss" in entry.content:
        raise PrecropError(f"loss goes with shows: no worse, not with {shows}")
    return Claim(
        entry.text("claim"),
        text,
        source,
        compare=_names(entry, "compare"),
        against=_names(entry, "with"),
        shows=shows,
        loss=_number(entry, "loss"),
        margin=_number(entry, "margin"),
        at=_one_of(entry, "at", get_args(At), "budget"),
        networks=_names(entry, "network") if "network" in entry.content else (),
        data=_names(entry, "data") if "data" in entry.content else (),
        params=_number(entry, "params"),
        macs=_number(entry, "macs"),
    )


def _one_of(entry: Entry, key: str, known: Sequence[str], default: str | None = None) -> Any:
    value = entry.needed(key) if default is None else entry.content.get(key, default)
    if value not in known:
        raise PrecropError(f"{key} is {brief(value)}; {suggestion(str(value), known)}")
    return value


def _names(entry: Entry, key: str) -> tuple[str, ...]:
    """One name or several."""
    value = entry.needed(key)
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise PrecropError(f"{key} is {brief(value)}, neither a name nor a list of names")
    return tuple(names)


def _number(entry: Entry, key: str) -> float | None:
    value = entry.content.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise PrecropError(f"{key} is {brief(value)}, not a number above 0")
    return float(value)
