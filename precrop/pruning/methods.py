"""The table of methods: adding one is a function under the decorator `method`.

A *rule* is a function from a `Problem` to ``{layer name: density}``. A *score* is a function from a
`Problem` to ``{layer name: tensor}``, one number per weight; the weights with the highest numbers
in the whole network remain (`precrop.pruning.ranking`), their share in every layer is its density.
Further keyword arguments of the function are options of the method. A user's own function is a
method too, by its name ``module:function``; what it returns says which of the two it is.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from torch import Tensor

from precrop.errors import BudgetError, PrecropError, brief, check_known, check_values, errors_as
from precrop.own import calling_own, is_ours, own_function
from precrop.pruning import gradients, rules, weights
from precrop.pruning.problem import Problem
from precrop.pruning.ranking import kept_weights, shares
from precrop.pruning.synflow import synflow

Scores = dict[str, Tensor]
_ROUNDED = 1e-9
"""Share of a budget that densities may exceed it by: they are rounded numbers."""


@dataclass(frozen=True)
class Method:
    """A way to densities."""

    function: Callable[..., Any]  # of a `Problem` and the method's options
    kind: Literal["rule", "score"] | None  # None: a user's own; what it returns says it
    needs_data: bool = False  # whether it looks at ``problem.data``


METHODS: dict[str, Method] = {
    "synexp": Method(rules.highest_synexp, "rule"),
    "erk": Method(rules.erk, "rule"),
    "uniform": Method(rules.uniform, "rule"),
    "uniform_plus": Method(rules.uniform_plus, "rule"),
    "igq": Method(rules.igq, "rule"),
    "synflow": Method(synflow, "score"),
    "snip": Method(gradients.snip, "score", needs_data=True),
    "grasp": Method(gradients.grasp, "score", needs_data=True),
    "magnitude": Method(weights.magnitude, "score"),
    "random": Method(weights.random, "score"),
}

T = TypeVar("T", bound=Callable[..., Any])


def method(
    name: str, *, kind: Literal["score", "rule"], needs_data: bool = False
) -> Callable[[T], T]:
    """Register a function of a `Problem` as a method, for everything that takes methods by name.

    Args:
        name: as in ``densities(method=name)``, ``train --mask name:weight`` and studies.
        kind: ``score`` for ``{layer name: tensor}``, one number per weight, of which the
            highest remain; ``rule`` for ``{layer name: density}``.
        needs_data: whether it looks at ``problem.data``, batches of ``(inputs, targets)``.

    Raises:
        PrecropError: the kind is neither.
    """
    if kind not in ("score", "rule"):
        raise PrecropError(f"kind={kind!r} is unknown: write 'score' or 'rule'")

    def register(function: T) -> T:
        METHODS[name] = Method(function, kind, needs_data)
        return function

    return register


def take_own_method(name: str) -> None:
    """Take a function of the user's as a method from now on, under the name that it is found by.

    A function under the decorator `method` stays what that says. Any other may look at data where
    there are some, and is what it returns: a score or a rule.

    Args:
        name: ``package.module:function`` or ``./file.py:function``; its module is run.

    Raises:
        PrecropError: there is no such function, or its module raises.
    """
    function = own_function(name, "method")
    own = Method(function, None, needs_data=True)
    METHODS[name] = next((one for one in METHODS.values() if one.function is function), own)


def find_method(name: str) -> Method:
    """The method of this name, or a `PrecropError`."""
    check_known(f"method {name!r}", name, METHODS)
    return METHODS[name]


class Found(NamedTuple):
    """What a method returned, by layer name."""

    scores: Scores | None  # one number per weight
    densities: dict[str, float]  # in (0, 1]; empty where there are scores


def found_by(problem: Problem, method: str, /, **options: Any) -> Found:
    """What a method returns.

    Raises:
        PrecropError: no such method, or an option that it does not have; or it is the user's own,
            and fails, or returns other than scores or densities, as it says.
        BudgetError: the user's own rule gives densities above a budget.
    """
    check_options(method, options)
    chosen = find_method(method)
    with calling_own(f"method {method} fails", chosen.function):
        found = chosen.function(problem, **options)
    if not is_ours(chosen.function):
        return _checked(problem, method, chosen.kind, found)
    return Found(None, found) if chosen.kind == "rule" else Found(found, {})


def layer_densities(problem: Problem, method: str, /, **options: Any) -> dict[str, float]:
    """What a method says of every layer, in (0, 1]; errors are those of `found_by`."""
    found = found_by(problem, method, **options)
    if found.scores is None:
        return found.densities
    return shares(kept_weights(problem, found.scores))


def weight_scores(problem: Problem, method: str, /, **options: Any) -> Scores:
    """One number per weight, by layer name.

    Raises:
        PrecropError: as `found_by`, or it scores no weights.
    """
    ranks = find_method(method).kind != "rule"
    scores = found_by(problem, method, **options).scores if ranks else None
    if scores is None:
        known = ", ".join(name for name, one in METHODS.items() if one.kind != "rule")
        raise PrecropError(f"method {method!r} scores no weights: choose from {known}")
    return scores


def check_options(method: str, options: Mapping[str, Any]) -> None:
    """Refuse a method that is unknown, and options that it does not have."""
    with errors_as(f"method {method} does not say what it takes", TypeError, ValueError):
        signature = inspect.signature(find_method(method).function)
    parameters = list(signature.parameters.values())[1:]
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters]
    for name in options:
        if name not in known:
            has = f"its options are {', '.join(known)}" if known else "it has no options"
            raise PrecropError(f"method {method!r} has no option {name!r}: {has}")


def _checked(
    problem: Problem, method: str, kind: Literal["rule", "score", None], found: Any
) -> Found:
    """Scores or densities of every layer, or an error that says what they are instead."""
    if not isinstance(found, Mapping) or found.keys() != problem.layers.keys():
        what = "others" if isinstance(found, Mapping) else f"a {type(found).__name__}"
        raise PrecropError(
            f"method {method} must return a dict with the names in problem.layers, not {what}"
        )
    tensors = any(isinstance(value, Tensor) and value.dim() for value in found.values())
    if kind == "score" or (kind is None and tensors):
        return Found(_checked_scores(problem, method, found), {})
    return Found(None, _checked_densities(problem, method, found))


def _checked_scores(problem: Problem, method: str, found: Mapping[str, Any]) -> Scores:
    scores = {}
    for name, weight in problem.weights().items():
        value = found[name]
        if not isinstance(value, Tensor) or value.shape != weight.shape:
            given = tuple(value.shape) if isinstance(value, Tensor) else brief(value)
            raise PrecropError(
                f"method {method} gives {given} for {name}: scores are a tensor of the weight's "
                f"shape, {tuple(weight.shape)}"
            )
        check_values(f"the score of {name}", value)
        if not value.isfinite().all():
            raise PrecropError(f"method {method} gives NaN or infinity for weights of {name}")
        scores[name] = value.detach()
    return scores


def _checked_densities(problem: Problem, method: str, found: Mapping[str, Any]) -> dict[str, float]:
    """Densities in (0, 1] that are within the budgets."""
    densities = {name: _number(found[name]) for name in problem.layers}
    for name, density in densities.items():
        if not 0 < density <= 1:
            value = found[name]
            given = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else brief(value)
            raise PrecropError(
                f"method {method} gives {given} for {name}: a rule gives a number above 0 and at "
                "most 1, a score a tensor of the weight's shape"
            )
    for name, used in problem.used(densities).items():
        if used > problem.share(name) * problem.totals[name] * (1 + _ROUNDED):
            raise BudgetError(
                f"method {method} leaves {name}={used:,.0f}, above the budget of "
                f"{problem.limits[name]:,}"
            )
    return densities


def _number(value: Any) -> float:
    """A float; NaN for what is not a number."""
    try:
        return float(value)
    except (ArithmeticError, RuntimeError, TypeError, ValueError):
        return float("nan")
