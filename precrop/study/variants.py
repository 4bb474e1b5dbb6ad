"""Variants: the ways in which a study makes a network smaller.

A way from a network to widths is a function from a `Request` to a plan and an entry in `WAYS`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from precrop.errors import PrecropError, suggestion
from precrop.study.request import Request
from precrop.trust import runs_user_code

if TYPE_CHECKING:
    from precrop.plans.plan import Plan


def _plan(request: Request) -> "Plan":
    """`precrop.plan` with any of its options."""
    import precrop

    options = {"divisor": 1, **request.options, **request.budgets}
    if request.densities is not None:
        options["densities"] = request.densities
    return precrop.plan(request.model, request.input_shape, **options)


def _uniform(request: Request) -> "Plan":
    """One share of every width: a width multiplier, rounded so that it uses its budgets up."""
    import precrop

    options = {"divisor": 1, **request.options, **request.budgets}
    return precrop.plan(request.model, request.input_shape, rule="uniform", **options)


def _torch_pruning(request: Request) -> "Plan":
    """Torch-Pruning's channels at the smallest ratio that meets every budget."""
    from precrop.study.torch_pruning import plan

    return plan(request)


@dataclass(frozen=True)
class Way:
    """A way to widths, and the options that it has with their types."""

    function: Callable[[Request], "Plan"]
    options: Mapping[str, tuple[type, ...]]


_RULED: dict[str, tuple[type, ...]] = {
    "divisor": (int, str),
    "min_width": (int,),
    "expand": (bool,),
    "residual": (str,),
    "ignore": (str, list),
    "groups": (str,),
    "drop_unused": (bool,),
}
WAYS: dict[str, Way] = {
    "plan": Way(
        _plan,
        {
            **_RULED,
            "balance": (int, float),
            "objective": (str,),
            "widths": (dict,),
            "rule": (str,),
        },
    ),
    "uniform": Way(_uniform, _RULED),
    "torch-pruning": Way(
        _torch_pruning, {"importance": (str,), "global_pruning": (bool,), "round_to": (int,)}
    ),
}
"""How widths are chosen; adding a way is a function and a line here."""
WORDS = (*WAYS, "densities", "mask", "method_options")
"""Keys of a variant that say how the network is made smaller; none of them leaves it dense."""
_FROM_ONE = ("divisor", "min_width", "round_to")


@dataclass(frozen=True)
class Variant:
    """One way to make any network smaller, under its name in the study.

    Attributes:
        name: unique within the study.
        way: a name in `WAYS`; None where no width changes.
        options: of the way.
        densities: the method of `precrop.densities` that the widths, or else a mask, follow.
        mask: granularity of the mask; None where nothing is masked. With a way, layers are masked
            to the densities that they would have in the network of those widths.
        match: another variant, whose network's parameters and MACs are the budgets of this one.
        method_options: of the method that densities or a mask follow.
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
        """What decides the layers' shares; empty where dense."""
        if self.densities is not None or self.way is None:
            return self.densities or ""
        if self.way != "plan":
            return self.way
        return "given" if "widths" in self.options else self.options.get("objective", "synexp")

    @property
    def granularity(self) -> str:
        """``channel`` for cropped networks, a mask's own otherwise; empty where dense."""
        return self.mask or ("" if self.way is None else "channel")

    @property
    def budgeted(self) -> bool:
        """Whether it needs a budget."""
        return self.kind != "dense" and self.method != "given"

    def to_json(self) -> dict[str, Any]:
        """All fields in JSON's types; without options of a method, as before there were some."""
        given = {"method_options": dict(self.method_options)} if self.method_options else {}
        return {
            "name": self.name,
            "way": self.way,
            "options": dict(self.options),
            "densities": self.densities,
            "mask": self.mask,
            "match": None if self.match is None else self.match.to_json(),
            **given,
        }

    def own_names(self) -> Iterator[tuple[Callable[[str], None], str]]:
        """Functions of the user's own that it names, and what takes each as a method or objective.

        Nothing of them is run.
        """
        from precrop.pruning.methods import take_own_method
        from precrop.solve.program import take_own_objective

        named = [
            (take_own_method, self.densities),
            (take_own_objective, self.options.get("objective")),
        ]
        yield from ((take, name) for take, name in named if name and runs_user_code(name))
        if self.match is not None:
            yield from self.match.own_names()

    def load_own(self) -> None:
        """Import what it names of the user's own; reading the study has asked whether to trust it.

        Raises:
            PrecropError: there is no such function, or it has no such options.
        """
        from precrop.training.runs import check_method

        for take, name in self.own_names():
            take(name)
        if self.densities is not None:
            check_method(self.densities, self.method_options)

    def matched(self, other: "Variant") -> "Variant":
        """The same variant, made as large as another one.

        Raises:
            PrecropError: one of them has no budget, or the other matches a third.
        """
        if self.way is None or not self.budgeted:
            raise PrecropError("match goes with plan, uniform and torch-pruning")
        if not other.budgeted or other.match is not None:
            raise PrecropError(f"match: {other.name} has no budgets of its own")
        return replace(self, match=other)


def read_variant(name: str, entry: Mapping[str, Any]) -> Variant:
    """A variant from those of its keys in a study that are in `WORDS`. Runs no code of the study's.

    Raises:
        PrecropError: two ways, or an unknown method, granularity or option.
    """
    from precrop.training.runs import check_granularity, check_method, split_mask

    ways = [way for way in WAYS if way in entry]
    if len(ways) > 1:
        raise PrecropError(f"{ways[0]} and {ways[1]} both choose widths: drop one of them")
    way = ways[0] if ways else None
    options = {} if way is None else _options(way, entry[way])
    method, mask = _text(entry, "densities"), _text(entry, "mask")
    if method is not None and way != "plan":
        raise PrecropError("densities go with plan: write `plan: {}` too, or `mask: METHOD:weight`")
    if mask is not None and way is None:
        method, mask = split_mask(mask)
    chosen = entry.get("method_options", {})
    if not isinstance(chosen, Mapping) or (chosen and method is None):
        raise PrecropError(
            "method_options are those of the method of densities or of a mask, as "
            "{batch_norm: stored} of snip"
        )
    if method is not None and not runs_user_code(method):
        check_method(method, chosen)
    if mask is not None:
        check_granularity(mask)
    return Variant(name, way, options, method, mask, method_options=dict(chosen))


def _text(entry: Mapping[str, Any], key: str) -> str | None:
    value = entry.get(key)
    if key in entry and not isinstance(value, str):
        raise PrecropError(f"{key} is {value!r}, not a text like synflow")
    return value


def _options(way: str, given: Any) -> dict[str, Any]:
    """A way's options, each of a type that it can have."""
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise PrecropError(f"{way} is {given!r}, not options like {{divisor: 8}}; none are {{}}")
    known = WAYS[way].options
    for name, value in given.items():
        if name not in known:
            raise PrecropError(f"{way} has no option {name!r}; {suggestion(name, known)}")
        kinds = known[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise PrecropError(f"{way}: {name} is {value!r}, not {_in_words(kinds)}")
        if name == "divisor" and isinstance(value, str) and value != "auto":
            raise PrecropError(f"{way}: divisor is {value!r}, not a whole number or auto")
        if name in _FROM_ONE and isinstance(value, int) and value < 1:
            raise PrecropError(f"{way}: {name} is {value!r}, not 1 or more")
        if isinstance(value, (list, dict)) and not all(isinstance(key, str) for key in value):
            raise PrecropError(f"{way}: {name} has {list(value)!r}, which are not all names")
    return dict(given)


def _in_words(kinds: tuple[type, ...]) -> str:
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number like 1.0e+6",
        str: "a text",
        list: "a list",
        dict: "a mapping of layers to channels",
    }
    return " or ".join(words[kind] for kind in kinds)
