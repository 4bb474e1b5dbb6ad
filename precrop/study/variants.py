"""Variants: the ways in which a study makes a network smaller.

A way to choose widths is a function from a `VariantRequest` to a plan, in `WAYS` by its name.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue
from typing_extensions import TypedDict

from precrop.errors import PrecropError, check_known
from precrop.solve.budgets import Budget
from precrop.study.entries import Entry, Line, known_keys
from precrop.trust import runs_user_code

if TYPE_CHECKING:
    from torch import nn

    from precrop.plans.plan import Plan


@dataclass(frozen=True)
class VariantRequest:
    """The input of a way to choose widths."""

    model: "nn.Module"  # with its initial weights; it is not changed
    input_shape: tuple[int, ...]  # of one image
    budgets: Mapping[str, Budget]  # by cost, as written in the study
    options: Mapping[str, Any]  # of the way
    densities: Mapping[str, float] | None = None  # by layer name, for widths to approximate
    seed: int = 0  # of every random choice


def _plan(request: VariantRequest) -> "Plan":
    """Call `precrop.plan` with any of its options."""
    import precrop

    options = {"divisor": 1, **request.options, **request.budgets}
    if request.densities is not None:
        options["densities"] = request.densities
    return precrop.plan(request.model, request.input_shape, **options)


def _uniform(request: VariantRequest) -> "Plan":
    """Scale every width by one share, a width multiplier, rounded so that budgets are used up."""
    return _plan(replace(request, options={**request.options, "rule": "uniform"}))


def _torch_pruning(request: VariantRequest) -> "Plan":
    """Return Torch-Pruning's widths at the smallest ratio that meets every budget."""
    from precrop.study.torch_pruning import plan

    return plan(request)


WAYS: dict[str, Callable[[VariantRequest], "Plan"]] = {
    "plan": _plan,
    "uniform": _uniform,
    "torch-pruning": _torch_pruning,
}
"""Ways to choose widths; a new one is a function, a line here and its options in `HowEntry`."""

FromOne = Annotated[int, Field(ge=1)]


class UniformKeys(TypedDict, total=False):
    """Options of `precrop.plan` that go with any rule."""

    divisor: FromOne | Literal["auto"]
    min_width: FromOne
    expand: bool
    residual: str
    ignore: str | list[str]
    groups: str
    drop_unused: bool


class PlanKeys(UniformKeys, total=False):
    """Options of `precrop.plan`."""

    balance: int | float
    objective: str
    widths: dict[str, JsonValue]
    rule: str


class TorchPruningKeys(TypedDict, total=False):
    """Options of `precrop.study.torch_pruning.plan`."""

    importance: str
    global_pruning: bool
    round_to: FromOne


def _options(kind: type) -> BeforeValidator:
    """Return a validator for options of one kind; an empty entry changes none."""
    keys = list(kind.__annotations__)
    return BeforeValidator(lambda content: {} if content is None else known_keys(content, keys))


class HowEntry(Entry):
    """A variant's name and how it makes a network smaller; with nothing but a name it is dense."""

    name: Line
    plan: Annotated[PlanKeys | None, _options(PlanKeys)] = None
    uniform: Annotated[UniformKeys | None, _options(UniformKeys)] = None
    torch_pruning: Annotated[TorchPruningKeys | None, _options(TorchPruningKeys)] = Field(
        None, validation_alias="torch-pruning"
    )
    densities: str | None = None
    mask: str | None = None
    method_options: dict[str, JsonValue] = Field(default_factory=dict)

    def variant(self) -> "Variant":
        """Return the variant; runs no code of the study's.

        Raises:
            PrecropError: there are two ways, or an unknown method, granularity or option.
        """
        given = {way: getattr(self, way.replace("-", "_")) for way in WAYS}
        ways = [way for way, options in given.items() if options is not None]
        if len(ways) > 1:
            raise PrecropError(f"{ways[0]} and {ways[1]} both choose widths: drop one of them")
        way = ways[0] if ways else None
        method, mask = self.densities, self.mask
        if method is not None and way != "plan":
            raise PrecropError(
                "densities go with plan: write `plan: {}` too, or `mask: METHOD:weight`"
            )
        if mask is not None and way is None:
            from precrop.training.runs import split_mask

            method, mask = split_mask(mask)
        if self.method_options and method is None:
            raise PrecropError(
                "method_options are those of the method of densities or of a mask, as "
                "{batch_norm: stored} of snip"
            )
        if method is not None and not runs_user_code(method):
            from precrop.pruning.methods import check_options

            check_options(method, self.method_options)
        if mask is not None:
            from precrop.pruning.masking import GRANULARITIES

            check_known(f"granularity {mask!r}", mask, GRANULARITIES)
        options = {} if way is None else given[way]
        return Variant(self.name, way, options, method, mask, method_options=self.method_options)


@dataclass(frozen=True)
class Variant:
    """One way to make any network smaller, under its name in the study.

    Attributes:
        name: unique within the study.
        way: a name in `WAYS`; None if no width changes.
        options: of the way.
        densities: the method of `precrop.densities` that decides the widths, or else the mask.
        mask: granularity of the mask; None if nothing is masked. With a way, layers are masked to
            the densities that they would have in the network of those widths.
        match: another variant, whose network's parameters and MACs are the budgets of this one.
        method_options: of the method in ``densities``.
    """

    name: str
    way: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    densities: str | None = None
    mask: str | None = None
    match: "Variant | None" = None
    method_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Literal["dense", "cropped", "masked"]:
        """How the network is made smaller."""
        if self.mask is not None:
            return "masked"
        return "dense" if self.way is None else "cropped"

    @property
    def method(self) -> str:
        """What decides each layer's share of weights; empty for a dense network."""
        if self.densities is not None or self.way is None:
            return self.densities or ""
        if self.way != "plan":
            return self.way
        return "given" if "widths" in self.options else self.options.get("objective", "synexp")

    @property
    def granularity(self) -> str:
        """``channel`` for cropped networks, the mask's for masked ones; empty where dense."""
        return self.mask or ("" if self.way is None else "channel")

    @property
    def budgeted(self) -> bool:
        """Whether it needs a budget."""
        return self.kind != "dense" and self.method != "given"

    def to_json(self) -> dict[str, Any]:
        """Return all fields in JSON's types; method options only if there are any, for old ids."""
        content = {**asdict(self), "match": None if self.match is None else self.match.to_json()}
        if not self.method_options:
            del content["method_options"]
        return content

    def own_names(self) -> Iterator[tuple[Callable[[str], None], str]]:
        """Yield what imports each of the user's own functions, and its name; none is run."""
        if self.densities and runs_user_code(self.densities):
            from precrop.pruning.methods import take_own_method

            yield take_own_method, self.densities
        if (objective := self.options.get("objective")) and runs_user_code(objective):
            from precrop.strategies.objectives import take_own_objective

            yield take_own_objective, objective
        if self.match is not None:
            yield from self.match.own_names()

    def load_own(self) -> dict[str, Callable[..., Any]]:
        """Import the user's own code that it names; trust was asked for when the study was read.

        Returns:
            The functions of all methods and objectives that it names.
        """
        from precrop.pruning.methods import METHODS, check_options
        from precrop.strategies.objectives import OBJECTIVES

        for take, name in self.own_names():
            take(name)
        found = {} if self.match is None else self.match.load_own()
        if self.densities is not None:
            check_options(self.densities, self.method_options)
            found[self.densities] = METHODS[self.densities].function
        if (objective := self.options.get("objective")) in OBJECTIVES:
            found[objective] = OBJECTIVES[objective]
        return found

    def matched(self, other: "Variant") -> "Variant":
        """Return the same variant, made to match the size of another one."""
        if self.way is None or not self.budgeted:
            raise PrecropError("match goes with plan, uniform and torch-pruning")
        if not other.budgeted or other.match is not None:
            raise PrecropError(f"match: {other.name} has no budgets of its own")
        return replace(self, match=other)
