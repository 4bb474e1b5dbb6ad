"""The problem that `solve.relax` relaxes and `solve.rounding` solves in whole units.

With ``x`` the log ratios of the groups it is

    maximise    sum_l w_l log p_l - balance * sum_l (x_in - x_out)^2
    subject to  cost_k(units * exp(x)) <= limit_k,   log(lower / units) <= x <= log(upper / units)

where ``log p_l`` is the share-weighted sum of the log ratios at both ends of layer ``l``. Every
cost is a sum of exponentials of ``x`` with positive coefficients, so the relaxed problem is convex.
A cost that is the largest of several such sums has a row for each of them.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from precrop.errors import BudgetError, PrecropError
from precrop.own import failure, own_function
from precrop.solve.budgets import bound
from precrop.solve.steps import leaving_a_choice, portions
from precrop.solve.structure import Cost, Group, Layer, Peak, Structure
from precrop.trust import runs_user_code

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BALANCE = 1.0
"""Default weight of the balance term, gamma in docs/method.md."""

LARGEST = 10**9
"""Of a divisor, a least width, a cap and a balance; more would overflow in the solver."""

_SHOWN = 40
"""Characters of a senseless value that a message repeats."""

EXPANSION = 4.0
"""Default cap of a group's ratio when widening is allowed."""


def every_layer(structure: Structure) -> Floats:
    """Every layer counts alike: the maximiser of the expected SynFlow of a chain (2203.02549)."""
    return np.ones(len(structure.layers))


def dense_layers(structure: Structure) -> Floats:
    """Depthwise layers don't count: they mix no channels, but ask for wide hidden layers."""
    return np.array([layer.kind != "depthwise" for layer in structure.layers], float)


def inner_layers(structure: Structure) -> Floats:
    """The stem and the classifier don't count: one end of them is given by images or classes."""
    return np.array([_ends(layer) > 1 for layer in structure.layers], float)


def _ends(layer: Layer) -> int:
    """How many ends of a layer have a width that varies; a depthwise layer's one counts twice."""
    return bool(layer.inputs) + (bool(layer.outputs) or layer.kind == "depthwise")


T = TypeVar("T", bound=Callable[[Structure], Floats])

OBJECTIVES: dict[str, Callable[[Structure], Floats]] = {
    "synexp": every_layer,
    "dense-layers": dense_layers,
    "inner-layers": inner_layers,
}
"""Per method the weight of each layer's log density, shape (layers,)."""


def objective(name: str) -> Callable[[T], T]:
    """Register a function from a `Structure` to weights, shape (layers,), as an objective.

    The program then maximises the sum of weight times log density of every layer. Weights are
    scaled to mean 1, so that ``balance`` means the same for all.
    """

    def register(function: T) -> T:
        OBJECTIVES[name] = function
        return function

    return register


def take_own_objective(name: str) -> None:
    """Take a function of the user's as an objective from now on, under the name that finds it.

    Args:
        name: ``package.module:function`` or ``./file.py:function``; its module is run.

    Raises:
        PrecropError: there is no such function, or its module raises.
    """
    OBJECTIVES[name] = own_function(name, "objective")


RETIRED = {
    "root-macs": "it chose worse widths than synexp on every data set of docs/evidence.md",
}
"""Objectives that once were, and why they are no more; stores and plan files still name them."""


@dataclass(frozen=True)
class Choices:
    """The units that every group may keep: multiples of its step within bounds, or the original.

    All arrays have shape (groups,). A group without a multiple below its original width gets no
    narrower, and without one above it no wider.

    Attributes:
        units: of the original network.
        step: smallest number of units that the divisor divides in every layer of the group.
        least: fewest units allowed beside the original ones, a multiple of ``step``.
        lower: fewest units allowed, at most ``units``.
        upper: most units allowed, at least ``units`` unless a group has a bound of its own.
        rule: the divisor and least width in words, for messages.
        divisor: of every layer output's channels, where the network is wide enough.
        divisors: what really divides the layer outputs of every group: ``divisor``, or its halves.
        original: whether the original units are allowed where they are no multiple.
    """

    units: Integers
    step: Integers
    least: Integers
    lower: Integers
    upper: Integers
    rule: str
    divisor: int
    divisors: Integers
    original: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        groups: Sequence[Group],
        divisor: int = 1,
        min_width: int = 1,
        cap: float = 1.0,
        halved: bool = False,
    ) -> "Choices":
        """The choices where each width is a multiple of ``divisor`` and at least ``min_width``.

        Args:
            groups: the independent widths.
            divisor: of every layer output's channels.
            min_width: least channels of the narrowest layer output of a group.
            cap: largest ratio to the original width; 1 for cropping.
            halved: whether a group that the divisor leaves nothing narrower than the original has
                multiples of the largest of its `halves` that does.
        """
        divisors = [divisor] * len(groups)
        if halved:
            divisors = [leaving_a_choice(group, divisor, min_width) for group in groups]
        ways = [portions(*pair, min_width) for pair in zip(groups, divisors, strict=True)]
        units = np.array([group.units for group in groups], dtype=np.int64)
        step = np.array([way.step for way in ways], np.int64)
        least = np.array([way.least for way in ways], np.int64)
        lower = np.minimum(least, units)
        upper = np.maximum((units * cap + 1e-9).astype(np.int64) // step * step, units)
        most = np.array([g.units if g.most is None else g.most for g in groups], np.int64)
        bound = np.array([g.most is not None for g in groups], bool)
        narrowed = np.where(most < units, np.maximum(most // step * step, lower), units)
        upper = np.where(bound, np.minimum(upper, narrowed), upper)
        upper = np.where(upper < least, units, upper)
        rule = f"divisor={divisor} and min_width={min_width}"
        original = np.ones(len(units), bool)
        dividing = np.array(divisors, np.int64)
        return cls(units, step, least, lower, upper, rule, divisor, dividing, original)

    def floor(self, units: NDArray[np.floating[Any]]) -> Integers:
        """The widest choices that do not pass ``units``; ``lower`` where there is none."""
        multiples = np.floor(units / self.step).astype(np.int64) * self.step
        multiples = np.where(multiples < self.least, self.lower, multiples)
        original = self.original & (self.units <= units) & (self.units > multiples)
        return np.clip(np.where(original, self.units, multiples), self.lower, self.upper)

    def next(self, units: Integers) -> Integers:
        """One choice up; ``units`` itself at the top."""
        multiples = np.maximum((units // self.step + 1) * self.step, self.least)
        original = self.original & (self.units > units) & (self.units < multiples)
        above = np.where(original, self.units, multiples)
        return np.where(above <= self.upper, above, units)

    def previous(self, units: Integers) -> Integers:
        """One choice down; ``units`` itself at the bottom."""
        multiples = (units - 1) // self.step * self.step
        multiples = np.where(multiples < self.least, self.lower, multiples)
        original = self.original & (self.units < units) & (self.units > multiples)
        below = np.where(original, self.units, multiples)
        return np.where(below >= self.lower, below, units)

    def without_originals(self, groups: Iterable[int]) -> "Choices":
        """The same but for some groups, which have only their multiples."""
        original, upper = self.original.copy(), self.upper.copy()
        for group in groups:
            original[group] = False
            upper[group] = upper[group] // self.step[group] * self.step[group]
        return replace(self, original=original, upper=upper)


Explain = Callable[[str, Sequence[int], str], str]
"""In words what makes up the least of a cost: its name, the least units, what allows no fewer."""


@dataclass(frozen=True)
class Program:
    """What is maximised and within which limits; `allocate` and `precrop.solve.rounding` share it.

    Attributes:
        structure: the network.
        limits: per row of a cost (see `rows`) the largest value allowed.
        choices: the units that every group may keep.
        gain: slope of the objective in ``x``, shape (groups,).
        penalty: sparse; the balance term is ``x @ penalty @ x``, shape (groups, groups).
        fills: whether what is left of the budgets is spent even where the objective falls: where it
            is the distance from a shape, and the budgets say how large that should be.
    """

    structure: Structure
    limits: Mapping[str, int]
    choices: Choices
    gain: Floats
    penalty: Any
    fills: bool = False

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """The polynomial behind every limit."""
        costs = self.structure.costs
        parts = {row: part for name in costs for row, part in rows(name, costs[name]).items()}
        return {row: parts[row] for row in self.limits}

    def weighed(self, objective: str) -> "Program":
        """The same problem with the weights of a name in `OBJECTIVES`."""
        return replace(self, gain=_gain(self.structure, _weights(self.structure, objective)))

    def used(self, units: Sequence[float]) -> Floats:
        """The share of every limit that units use, which need not be whole."""
        limits, costs = self.limits.items(), self.costs
        return np.array([costs[name].continuous(units) / most for name, most in limits])

    def value(self, x: Floats) -> float:
        """The objective at log ratios ``x``."""
        return float(self.gain @ x - x @ (self.penalty @ x))


def program(
    structure: Structure,
    limits: Mapping[str, int],
    *,
    divisor: int = 1,
    halved: bool = False,
    min_width: int = 1,
    expand: bool = False,
    cap: float = EXPANSION,
    balance: float = BALANCE,
    weights: str | Sequence[float] | Floats = "synexp",
    explain: Explain | None = None,
) -> Program:
    """State the problem of finding widths within ``limits``.

    Args:
        structure: the network.
        limits: per cost name the largest value allowed, such as ``{"params": 1_000_000}``.
        divisor: every layer's channels are a multiple of it, or as in the original.
        halved: whether narrow layers have multiples of its halves, as in `Choices.of`.
        min_width: no layer gets narrower, unless the original is.
        expand: let widths grow beyond the original, up to ``cap`` times.
        cap: largest ratio of a width to the original, used when ``expand``.
        balance: weight of the balance term, at least 0; large means uniform widths.
        explain: says what makes up the least of a cost, for the message; nothing by default.
        weights: name of an objective or one weight a layer; scaled to mean 1 over the layers that
            can change, so that ``balance`` means the same for every objective.

    Raises:
        BudgetError: a limit is below the cost of the narrowest network allowed.
        PrecropError: an option out of its range, or an objective that is not known.
    """
    check_options(divisor=divisor, min_width=min_width, cap=cap, balance=balance)
    choices = Choices.of(structure.groups, divisor, min_width, cap if expand else 1.0, halved)
    _check_feasible(structure, limits, choices, explain)
    bounds = _row_limits(structure, limits)
    slope = _gain(structure, _weights(structure, weights))
    return Program(structure, bounds, choices, slope, balance_penalty(structure, balance))


def check_options(**options: Any) -> None:
    """Refuse a divisor, least width, cap or balance without sense.

    Raises:
        PrecropError: naming the option and what to write.
    """
    for name, value in options.items():
        whole = name in ("divisor", "min_width")
        number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
        least = 0 if name == "balance" else 1
        shown = repr(value) if len(repr(value)) <= _SHOWN else repr(value)[:_SHOWN] + "…"
        if number and value > LARGEST:
            raise PrecropError(f"{name}={shown} is beyond sense: write at most {LARGEST:,}")
        if not number or not least <= value < math.inf:
            raise PrecropError(f"{name}={shown} makes no sense: write a number from {least} up")
        if whole and not isinstance(value, Integral):
            raise PrecropError(f"{name}={shown} is not a number of channels: write a whole number")


def uneven_layers(structure: Structure, choices: Choices, units: Integers) -> list[Layer]:
    """Layers whose channels are neither a multiple of the divisor nor as in the original.

    Each group is one of the two, but a layer that several of them make may have some of either.
    """
    ratios = units / choices.units
    found = []
    for layer in structure.layers if choices.divisor > 1 else ():
        width = round(layer.out_channels * kept_share(produced(layer), ratios))
        if width == layer.out_channels:
            continue
        # Of two halves of one number the smaller divides the larger.
        if width % min(choices.divisors[group] for group in produced(layer)):
            found.append(layer)
    return found


def produced(layer: Layer) -> Mapping[int, float]:
    """What each group holds of a layer's output; a depthwise layer's two ends are one."""
    return layer.inputs if layer.kind == "depthwise" else layer.outputs


def kept_share(shares: Mapping[int, float], ratios: Floats) -> float:
    """The share of an axis that stays, of what each group holds of it and keeps."""
    kept = sum(share * float(ratios[group]) for group, share in shares.items())
    return 1 - sum(shares.values()) + kept


def end_shares(structure: Structure) -> tuple[Any, Any]:
    """What each group holds of each layer's input, and of its output: sparse (layers, groups)."""
    width = len(structure.groups)
    return (
        _shares([layer.inputs for layer in structure.layers], width),
        _shares([layer.outputs for layer in structure.layers], width),
    )


def balance_penalty(
    structure: Structure, balance: float, counted: NDArray[np.bool_] | None = None
) -> Any:
    """The matrix of the balance term, sparse (groups, groups).

    Args:
        structure: the network.
        balance: its weight.
        counted: which layers take part, shape (layers,); all by default.
    """
    inputs, outputs = end_shares(structure)
    both = np.array([bool(layer.inputs and layer.outputs) for layer in structure.layers], bool)
    chosen = np.flatnonzero(both if counted is None else both & counted)
    differences = inputs[chosen] - outputs[chosen]
    return balance * (differences.T @ differences)


def _gain(structure: Structure, weights: Floats) -> Floats:
    """What each group's log ratio adds, of weights scaled to mean 1 over layers that can change."""
    variable = np.array([bool(layer.inputs or layer.outputs) for layer in structure.layers], bool)
    total = float(weights[variable].sum())
    scale = variable.sum() / total if total > 0 else 1.0
    inputs, outputs = end_shares(structure)
    slope: Floats = scale * ((inputs + outputs).T @ weights)
    return slope


def _weights(structure: Structure, weights: str | Sequence[float] | Floats) -> Floats:
    if not isinstance(weights, str):
        return np.asarray(weights, dtype=np.float64)
    if weights not in OBJECTIVES:
        raise unknown_objective(weights, tuple(OBJECTIVES))
    function = OBJECTIVES[weights]
    try:
        found = np.asarray(function(structure), dtype=np.float64)
    except Exception as error:  # whatever a user's function raises
        if not runs_user_code(weights):
            raise
        raise PrecropError(f"objective {weights} {failure(function, error)}") from error
    count = len(structure.layers)
    if found.shape != (count,) or not np.isfinite(found).all() or found.min(initial=0.0) < 0:
        raise PrecropError(
            f"objective {weights} must give {count} weights, a finite number from 0 up for each "
            f"layer in structure.layers: it gives {_brief(found)}"
        )
    return found


def _brief(found: Floats) -> str:
    return f"an array of shape {found.shape}" if found.size > 1 else repr(found.tolist())


def unknown_objective(name: str, known: Iterable[str]) -> PrecropError:
    """What to say of an objective that is not there."""
    why = f"was removed: {RETIRED[name]}" if name in RETIRED else "is unknown"
    return PrecropError(f"objective={name!r} {why}: choose from {', '.join(known)}")


def _shares(ends: Sequence[Mapping[int, float]], width: int) -> Any:
    """Sparse matrix (layers, groups) of what each group holds of each layer's input or output."""
    from scipy.sparse import csr_array

    lengths = [len(end) for end in ends]
    columns = [group for end in ends for group in end]
    shares = [share for end in ends for share in end.values()]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return csr_array((np.array(shares, float), columns, starts), shape=(len(ends), width))


def rows(name: str, cost: Cost | Peak) -> dict[str, Cost]:
    """The polynomials that a limit on a cost applies to, by the names of their rows."""
    if isinstance(cost, Cost):
        return {name: cost}
    return {f"{name} {moment}": part for moment, part in enumerate(cost.parts)}


def _row_limits(structure: Structure, limits: Mapping[str, int]) -> dict[str, int]:
    """The limits, for every row."""
    return {
        row: limit for name, limit in limits.items() for row in rows(name, structure.costs[name])
    }


def _check_feasible(
    structure: Structure,
    limits: Mapping[str, int],
    choices: Choices,
    explain: Explain | None,
) -> None:
    for name, limit in limits.items():
        units = choices.lower.tolist()
        least = structure.costs[name](units)
        if least > limit:
            why = explain(name, units, choices.rule) if explain is not None else ""
            raise BudgetError(
                f"{name}={bound(name, limit, up=False)} cannot be met: the least possible with "
                f"{choices.rule}{why and f' ({why})'} is {bound(name, least, up=True)}"
            )
