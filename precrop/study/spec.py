"""A study's file: networks, variants, budgets and seeds, read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, JsonValue, PlainValidator, model_validator

from precrop.errors import PrecropError, brief, suggestion, within
from precrop.model_spec import ModelSpec
from precrop.solve.budgets import Budget, parse_budget
from precrop.study.entries import Entry, Line, Several, read_entry
from precrop.study.variants import HowEntry, Variant
from precrop.training.recipes import LARGEST_SIDE, Recipe, find_recipe
from precrop.trust import Trust, check_code

_LONGEST_NAME = 100
"""Most bytes of a study's name, which is also the name of its store's folder."""
_MOST_CELLS = 100_000
_LARGE = 10**12
"""Stands for a network's cost where only the form of a budget is checked."""


class Limits(Entry):
    """The budgets of one cell, as they are written; None is no budget."""

    params: Budget | None = None
    macs: Budget | None = None

    @model_validator(mode="after")
    def _make_sense(self) -> "Limits":
        for name, budget in self.given().items():
            parse_budget(name, budget, _LARGE)
        return self

    def given(self) -> dict[str, Budget]:
        """Return the budgets that are set, by cost."""
        return self.model_dump(exclude_none=True)

    def only(self, part: str) -> "Limits":
        """Return the budget of one cost alone, or raise `PrecropError` if it is not set."""
        if part not in self.given():
            raise PrecropError(f"budget: {part}, but not all of the study's budgets have {part}")
        return Limits(**{part: self.given()[part]})

    def __str__(self) -> str:
        return str(self.given())


@dataclass(frozen=True)
class StudyNetwork:
    """A network and the recipe to train it with."""

    model: ModelSpec
    recipe: Recipe


@dataclass(frozen=True)
class Series:
    """A variant with all networks, budgets and seeds that it is run for."""

    variant: Variant
    networks: tuple[StudyNetwork, ...]
    budgets: tuple[Limits, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Study:
    """What a study's file asks for; `precrop.study.cells.expand` lists its cells."""

    name: str
    description: str  # what it asks, for people
    data: str  # where the images are, as for ``precrop train --data``
    data_name: str  # what the file calls them; it stays where `at` says another place
    networks: tuple[StudyNetwork, ...]  # in the file's order
    series: tuple[Series, ...]  # one per variant, in the file's order
    image_size: int | None = None  # pixels of a side that images are brought to; None leaves them

    def at(self, data: str) -> "Study":
        """Return the same study, of the same cells, with its images elsewhere: in a folder, say."""
        return replace(self, data=data)


@dataclass(frozen=True)
class Part:
    """The part of a variant in the claims that are judged by its runs."""

    role: str  # what claims call it
    match: str | None = None  # the variant whose size it is made to match, if any


def _name_of_a_folder(name: str) -> str:
    if "/" in name or "\\" in name:
        raise PrecropError(f"a store is called {name!r} after it: write it without slashes")
    if name.startswith(".") or len(name.encode()) > _LONGEST_NAME:
        raise PrecropError(
            f"a store is called {brief(name)} after it: begin with a letter and write no more than "
            f"{_LONGEST_NAME}"
        )
    return name


def _beside(claims: Any) -> Any:
    if isinstance(claims, str) and ({"/", "\\"} & {*claims} or claims in ("", ".", "..")):
        raise PrecropError(f"{brief(claims)}: name a file beside this one, or list claims")
    return claims


def _recipe(value: Any) -> Recipe:
    """Return the recipe of a name, or of a mapping with its ``name`` and the fields to change."""
    settings = dict(value) if isinstance(value, Mapping) else {"name": value}
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise PrecropError("it has no name: write {name: cifar-quick, epochs: 30}")
    return find_recipe(name, "").changed(settings)


def _some(limits: Limits) -> Limits:
    if not limits.given():
        raise PrecropError("no budget: write {params: 0.5, macs: 0.5}, or one of them")
    return limits


RecipeEntry = Annotated[Recipe, PlainValidator(_recipe)]
Budgets = Several[Annotated[Limits, AfterValidator(_some)]]
Seeds = Several[Annotated[int, Field(ge=0, lt=2**63)]]


class DataEntry(Entry):
    """The images: their name, and the side in pixels that they are scaled to."""

    SHORT: ClassVar = "name"
    name: Line
    image_size: Annotated[int, Field(ge=1, le=LARGEST_SIDE)] | None = None


class NetworkEntry(Entry):
    """A network, its builder's arguments, and a recipe of its own."""

    SHORT: ClassVar = "model"
    model: Line
    args: dict[str, JsonValue] = Field(default_factory=dict)
    recipe: RecipeEntry | None = None

    def __str__(self) -> str:
        return f"{self.model} {self.args}" if self.args else self.model

    def network(self, recipe: Recipe, trust: Trust) -> StudyNetwork:
        """Return the network, with the study's recipe unless it has its own."""
        model = ModelSpec(self.model, self.args)
        with within("networks"):
            model.check(trust, "say --trust")
        return StudyNetwork(model, self.recipe or recipe)


class RetiredEntry(Entry):
    """A variant that is no longer run, but whose runs a store may hold."""

    name: Line
    role: Line


class VariantEntry(HowEntry):
    """A variant, and what it is run for if that differs from the study's other variants."""

    role: Line | None = None
    match: str | None = None
    networks: Several[str] | None = None
    budgets: Budgets | None = None
    budget: Literal["params", "macs", "both"] = "both"
    seeds: Seeds | None = None


class StudyFile(Entry):
    """A study's file; of what it names, only recipes are looked up."""

    study: Annotated[Line, AfterValidator(_name_of_a_folder)]
    description: str
    data: DataEntry
    recipe: RecipeEntry
    seeds: Seeds
    networks: Several[NetworkEntry]
    budgets: Budgets = Field(default_factory=list)
    variants: Several[VariantEntry]
    retired: Several[RetiredEntry] = Field(default_factory=list)
    claims: Annotated[str | list[Any] | None, AfterValidator(_beside)] = None

    @model_validator(mode="after")
    def _no_retired_variant_is_run(self) -> "StudyFile":
        run = {one.name for one in self.variants}
        for one in self.retired:
            if one.name in run:
                raise PrecropError(f"{one.name} is among variants and retired: drop one of them")
        return self

    @property
    def parts(self) -> dict[str, Part]:
        """By name, the parts in claims of the variants that have a role."""
        parts = {one.name: Part(one.role, one.match) for one in self.variants if one.role}
        return parts | {one.name: Part(one.role) for one in self.retired}


def read_study(path: str | Path, trust: Trust = False) -> Study:
    """Read a study's file (YAML), without running code that it names.

    Args:
        path: the file.
        trust: a factory of a user's that the file may name, or True for any; running the study
            then runs their code.

    Raises:
        PrecropError: one line with the file, the entry and what is wrong there.
    """
    file = read_entry(StudyFile, Path(path))
    with within(str(path)):
        networks = tuple(one.network(file.recipe, trust) for one in file.networks)
        return Study(
            name=file.study,
            description=" ".join(file.description.split()),
            data=file.data.name,
            data_name=file.data.name,
            networks=networks,
            series=_all_series(file, networks, trust),
            image_size=file.data.image_size,
        )


def _all_series(
    file: StudyFile, networks: tuple[StudyNetwork, ...], trust: Trust
) -> tuple[Series, ...]:
    found: dict[str, Series] = {}
    cells = 0
    for entry in file.variants:
        with within(f"variants, {entry.name}"):
            one = found[entry.name] = _series(entry, file, networks, trust)
        cells += len(one.networks) * len(one.budgets) * len(one.seeds)
        if cells > _MOST_CELLS:
            raise PrecropError(f"it asks for more than {_MOST_CELLS:,} runs: split it")
    matching = {entry.name for entry in file.variants if entry.match is not None}
    return tuple(_matched(entry, found, matching) for entry in file.variants)


def _series(
    entry: VariantEntry, file: StudyFile, networks: tuple[StudyNetwork, ...], trust: Trust
) -> Series:
    variant = entry.variant()
    for _, name in variant.own_names():
        check_code(name, trust, "say --trust")
    known = {network.model.name: None for network in networks}  # in order
    chosen = entry.networks or [*known]
    for name in chosen:
        if name not in known:
            raise PrecropError(f"the study has no network {name!r}; {suggestion(name, known)}")
    budgets = entry.budgets or (file.budgets if variant.budgeted else [])
    if variant.kind == "dense" and entry.written & {"budget", "budgets"}:
        raise PrecropError("a dense network has no budget: write plan, mask or another way")
    if variant.budgeted and not budgets:
        raise PrecropError("it has no budget: write `budgets: [{params: 0.5, macs: 0.5}]`")
    if entry.budget != "both":
        if not budgets:
            raise PrecropError(
                f"budget: {entry.budget}, but it has no budgets: write some, or drop it"
            )
        budgets = [limits.only(entry.budget) for limits in budgets]
    return Series(
        variant,
        tuple(network for network in networks if network.model.name in chosen),
        tuple(budgets) or (Limits(),),
        tuple(entry.seeds or file.seeds),
    )


def _matched(entry: VariantEntry, named: Mapping[str, Series], matching: set[str]) -> Series:
    """Return an entry's series; one that matches another variant's size takes its budgets, too."""
    one = named[entry.name]
    if entry.match is None:
        return one
    with within(f"variants, {entry.name}"):
        others = [name for name in named if name != entry.name]
        if entry.match not in others:
            meant = suggestion(entry.match, others)
            raise PrecropError(f"match: no other variant is called {entry.match!r}; {meant}")
        if entry.written & {"budget", "budgets"}:
            raise PrecropError(f"match takes the budgets of {entry.match}: drop budget and budgets")
        if entry.match in matching:
            raise PrecropError(f"match: {entry.match} has no budgets of its own")
        other = named[entry.match]
        return replace(one, variant=one.variant.matched(other.variant), budgets=other.budgets)
