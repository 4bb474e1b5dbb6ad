"""A study's file: networks, variants, budgets and seeds, read and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from precrop.errors import PrecropError, suggestion
from precrop.model_spec import ModelSpec
from precrop.solve.budgets import Budget, parse_budget
from precrop.study.entries import Entry, brief, within
from precrop.study.variants import WORDS, Variant, read_variant
from precrop.training.recipes import Recipe, find_recipe
from precrop.trust import Trust, check_code

_COSTS = ("params", "macs")
_LONGEST_NAME = 100
"""Bytes of a study's name: its store is a folder of that name."""
_MOST_CELLS = 100_000
_LARGE = 10**12
"""Stands for a network's cost where only the sense of a budget is checked."""


@dataclass(frozen=True)
class Limits:
    """The budgets of one cell, as they are written; None is no budget."""

    params: Budget | None = None
    macs: Budget | None = None

    def given(self) -> dict[str, Budget]:
        """Those that there are, by cost."""
        both = {"params": self.params, "macs": self.macs}
        return {name: budget for name, budget in both.items() if budget is not None}

    def only(self, part: str) -> "Limits":
        """The budget of one cost.

        Raises:
            PrecropError: there is none.
        """
        if part not in self.given():
            raise PrecropError(f"budget: {part}, but not all of the study's budgets have {part}")
        return Limits(**{part: self.given()[part]})


@dataclass(frozen=True)
class StudyNetwork:
    """A network and the recipe that it is trained by."""

    model: ModelSpec
    recipe: Recipe


@dataclass(frozen=True)
class Series:
    """A variant with everything that it is run for."""

    variant: Variant
    networks: tuple[StudyNetwork, ...]
    budgets: tuple[Limits, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Study:
    """What a study's file asks for; `precrop.study.cells.expand` lists its cells.

    Attributes:
        name: of the study.
        description: what it asks, for people.
        data: where the images are, as for ``precrop train --data``.
        data_name: what the file calls them; it stays where `at` says another place.
        networks: in the file's order.
        series: one per variant, in the file's order.
        image_size: pixels of a side that all images are brought to; None leaves them as they are.
    """

    name: str
    description: str
    data: str
    data_name: str
    networks: tuple[StudyNetwork, ...]
    series: tuple[Series, ...]
    image_size: int | None = None

    def at(self, data: str) -> "Study":
        """The same study, of the same cells, with its images elsewhere: in a folder, say."""
        return replace(self, data=data)


@dataclass(frozen=True)
class Part:
    """What a variant is to the claims that are judged by its runs.

    Attributes:
        role: what claims call it.
        match: the variant that it is made as large as, where it is.
    """

    role: str
    match: str | None = None


@dataclass(frozen=True)
class Asked:
    """What a study's file says for a report on its runs; none of it is part of what a cell is.

    Attributes:
        study: its name.
        parts: by variant's name, those that have a role.
        claims: themselves, or the name of the file beside it that has them; None: there are none.
    """

    study: str
    parts: Mapping[str, Part]
    claims: str | Sequence[Any] | None


def read_asked(path: Path) -> Asked:
    """Read what a study's file says for a report; networks and variants are not looked at.

    Raises:
        PrecropError: one line with the file, the entry and what is wrong there.
    """
    from precrop.study.reading import read_yaml

    content = read_yaml(path)
    with within(str(path)):
        return _asked(Entry.of(content, _STUDY, "a study"))


def read_study(path: Path, trust: Trust = False) -> Study:
    """Read a study's file (YAML). Runs no code of the file's, nor does a study that is returned.

    Args:
        path: the file.
        trust: a factory of a user's that the file may name, or True for any; then the study runs
            their code.

    Raises:
        PrecropError: one line with the file, the entry and what is wrong there.
    """
    from precrop.study.reading import read_yaml

    content = read_yaml(path)
    with within(str(path)):
        return _study(content, trust)


def _study(content: Any, trust: Trust) -> Study:
    entry = Entry.of(content, _STUDY, "a study")
    recipe = _recipe(entry.needed("recipe"))
    data, image_size = _data(entry)
    networks = entry.each("networks", lambda value: _network(value, recipe, trust))
    _refuse_repeats("networks", [_described(network) for network in networks])
    seeds = _seeds(entry)
    budgets = _budgets(entry) if "budgets" in entry.content else ()
    series = entry.each("variants", lambda value: _series(value, networks, budgets, seeds, trust))
    _refuse_repeats("variants", [one.variant.name for one in series])
    cells = sum(len(one.networks) * max(1, len(one.budgets)) * len(one.seeds) for one in series)
    if cells > _MOST_CELLS:
        raise PrecropError(f"it asks for {cells:,} runs, more than {_MOST_CELLS:,}: split it")
    named = {one.variant.name: one for one in series}
    pairs = zip(series, entry.items("variants"), strict=True)
    series = tuple(_matched(one, item, named) for one, item in pairs)
    _asked(entry)
    return Study(
        name=_file_name(entry.text("study")),
        description=" ".join(entry.text("description").split()),
        data=data,
        data_name=data,
        networks=networks,
        series=series,
        image_size=image_size,
    )


_STUDY = (
    "study",
    "description",
    "data",
    "recipe",
    "seeds",
    "networks",
    "budgets",
    "variants",
    "retired",
    "claims",
)
_DATA = ("name", "image_size")
_NETWORK = ("model", "args", "recipe")
_VARIANT = ("name", *WORDS, "match", "networks", "budgets", "budget", "seeds", "role")
_RETIRED = ("name", "role")


def _data(entry: Entry) -> tuple[str, int | None]:
    """The name of the data, and the size in a mapping of both."""
    if not isinstance(entry.content.get("data"), Mapping):
        return entry.text("data"), None
    with within("data"):
        data = Entry.of(entry.content["data"], _DATA, "data")
        size = data.content.get("image_size")
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
            raise PrecropError(f"image_size is {brief(size)}, not a number of pixels from 1 up")
        return data.text("name"), size


def _recipe(value: Any) -> Recipe:
    """A recipe's name, or a mapping of its ``name`` and the fields to change."""
    settings = dict(value) if isinstance(value, Mapping) else {"name": value}
    name = settings.pop("name", None)
    with within("recipe"):
        if not isinstance(name, str):
            raise PrecropError("it has no name: write {name: cifar-quick, epochs: 30}")
        return find_recipe(name, "").changed(settings)


def _network(value: Any, recipe: Recipe, trust: Trust) -> StudyNetwork:
    if isinstance(value, str):
        value = {"model": value}
    entry = Entry.of(value, _NETWORK, "a network")
    args = entry.content.get("args", {})
    if not isinstance(args, Mapping) or not all(isinstance(name, str) for name in args):
        raise PrecropError(f"args is {brief(args)}, not names and values")
    if not _is_json(args):
        raise PrecropError(f"args is {brief(args)}: a value is not a number, text, list or mapping")
    own = entry.content.get("recipe")
    model = ModelSpec(entry.text("model"), dict(args))
    model.check(trust, "say --trust")
    return StudyNetwork(model, recipe if own is None else _recipe(own))


def _series(
    value: Any,
    networks: tuple[StudyNetwork, ...],
    budgets: tuple[Limits, ...],
    seeds: tuple[int, ...],
    trust: Trust,
) -> Series:
    entry = Entry.of(value, _VARIANT, "a variant")
    words = {key: entry.content[key] for key in WORDS if key in entry.content}
    variant = read_variant(entry.text("name"), words)
    for _, name in variant.own_names():
        check_code(name, trust, "say --trust")
    odd = next((key for key, value in words.items() if not _is_json(value)), None)
    if odd is not None:
        raise PrecropError(f"{odd} is {brief(words[odd])}: a value is not a number, text or list")
    if "networks" in entry.content:
        networks = _chosen(entry.items("networks"), networks)
    if "seeds" in entry.content:
        seeds = _seeds(entry)
    if "budgets" in entry.content:
        budgets = _budgets(entry)
    elif not variant.budgeted:
        budgets = ()
    if variant.kind == "dense" and entry.content.keys() & {"budget", "budgets"}:
        raise PrecropError("a dense network has no budget: write plan, mask or another way")
    if variant.budgeted and not budgets:
        raise PrecropError("it has no budget: write `budgets: [{params: 0.5, macs: 0.5}]`")
    part = entry.content.get("budget", "both")
    if part not in (*_COSTS, "both"):
        raise PrecropError(f"budget is {brief(part)}: write params, macs or both")
    if part != "both" and not budgets:
        raise PrecropError(f"budget: {part}, but it has no budgets: write some, or drop it")
    if part != "both":
        budgets = tuple(limits.only(part) for limits in budgets)
    return Series(variant, networks, budgets or (Limits(),), seeds)


def _matched(one: Series, item: Mapping[str, Any], named: Mapping[str, Series]) -> Series:
    """A variant that is made as large as another one of the study's, at that one's budgets."""
    name = item.get("match")
    if name is None:
        return one
    with within(f"variants, {one.variant.name}"):
        others = [other for other in named if other != one.variant.name]
        if name not in others:
            raise PrecropError(
                f"match: no other variant is called {name!r}; {suggestion(name, others)}"
            )
        if item.keys() & {"budget", "budgets"}:
            raise PrecropError(f"match takes the budgets of {name}: drop budget and budgets")
        other = named[name]
        return replace(one, variant=one.variant.matched(other.variant), budgets=other.budgets)


def _asked(entry: Entry) -> Asked:
    parts = dict(filter(None, entry.each("variants", _part)))
    if "retired" in entry.content:
        named = [item.get("name") for item in entry.items("variants") if isinstance(item, Mapping)]
        retired = dict(entry.each("retired", _retired))
        _refuse_repeats("variants and retired", [*named, *retired])
        parts |= retired
    claims = entry.content.get("claims")
    elsewhere = isinstance(claims, str) and ("/" in claims or "\\" in claims)
    if elsewhere or not isinstance(claims, (str, list, type(None))):
        raise PrecropError(f"claims is {brief(claims)}: name a file beside this one, or list them")
    return Asked(entry.text("study"), parts, claims)


def _part(value: Any) -> tuple[str, Part] | None:
    entry = Entry.of(value, _VARIANT, "a variant")
    if "role" not in entry.content:
        return None
    match = entry.text("match") if "match" in entry.content else None
    return entry.text("name"), Part(entry.text("role"), match)


def _retired(value: Any) -> tuple[str, Part]:
    """A variant that is run no more, whose runs a store may hold."""
    entry = Entry.of(value, _RETIRED, "a retired variant")
    return entry.text("name"), Part(entry.text("role"))


def _file_name(name: str) -> str:
    """A study's name, which its store is called by."""
    if "/" in name or "\\" in name:
        raise PrecropError(f"study is {name!r}: its store is called so, write it without slashes")
    if name.startswith(".") or not name.isprintable() or len(name.encode()) > _LONGEST_NAME:
        raise PrecropError(
            f"study is {brief(name)}: its store is called so, begin with a letter and write no "
            f"more than {_LONGEST_NAME}"
        )
    return name


def _chosen(names: Sequence[Any], networks: Sequence[StudyNetwork]) -> tuple[StudyNetwork, ...]:
    """Those of the study's networks that a variant names."""
    known = [network.model.name for network in networks]
    for name in names:
        if name not in known:
            raise PrecropError(f"the study has no network {name!r}; {suggestion(name, known)}")
    return tuple(network for network in networks if network.model.name in names)


def _seeds(entry: Entry) -> tuple[int, ...]:
    seeds = entry.items("seeds")
    for seed in seeds:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
            raise PrecropError(f"seed {brief(seed)} is not a whole number from 0 up")
    _refuse_repeats("seeds", seeds)
    return tuple(seeds)


def _budgets(entry: Entry) -> tuple[Limits, ...]:
    found = entry.each("budgets", _limits)
    _refuse_repeats("budgets", [str(limits.given()) for limits in found])
    return found


def _limits(value: Any) -> Limits:
    entry = Entry.of(value, _COSTS, "a budget")
    if not entry.content:
        raise PrecropError("no budget: write {params: 0.5, macs: 0.5}, or one of them")
    for name, budget in entry.content.items():
        parse_budget(name, budget, _LARGE)
    return Limits(**entry.content)


def _refuse_repeats(what: str, names: Sequence[Any]) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise PrecropError(f"{what} has {name} twice")
        seen.add(name)


def _described(network: StudyNetwork) -> str:
    model = network.model
    return f"{model.name} {dict(model.args)}" if model.args else model.name


def _is_json(value: Any) -> bool:
    """Whether it has the types of JSON, all through; YAML has dates and sets besides."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or isinstance(value, (bool, int, float, str))
