"""The table of methods; the decorator `method` adds a function to it.

A *rule* is a function from a `Problem` to ``{layer name: density}``. A *score* is a function from a
`Problem` to ``{layer name: tensor}``, one saliency score per weight: the weights that score highest
in the whole network remain (`precrop.pruning.ranking`), and a layer's share of them is its density.
Further keyword arguments of the function are options of the method. A user's own function can be
named as ``module:function``; what it returns decides which of the two it is.
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
"""Share of a budget by which densities may exceed it, since they are rounded."""


@dataclass(frozen=True)
class Method:
    """A method that finds densities."""

    function: Callable[..., Any]  # of a `Problem` and the method's options
    kind: Literal["rule", "score"] | None  # None: a user's own; what it returns decides
    needs_data: bool = False  # whether it uses ``problem.data``


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
    """Register a function of a `Problem` as a method, wherever methods are given by name.

    Args:
        name: as in ``densities(method=name)``, ``train --mask name:weight`` and studies.
        kind: ``score`` if the function returns ``{layer name: tensor}``, one number per weight, of
            which the highest remain; ``rule`` if it returns ``{layer name: density}``.
        needs_data: whether it uses ``problem.data``, batches of ``(inputs, targets)``.

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
    """Register a user's function as a method, under the name by which it is found.

    A function that the decorator `method` registered keeps its kind. Any other gets data if there
    are any, and what it returns decides whether it is a score or a rule.

    Args:
        name: ``package.module:function`` or ``./file.py:function``; its module is run.

    Raises:
        PrecropError: there is no such function, or its module raises.
    """
    function = own_function(name, "method")
    own = Method(function, None, needs_data=True)
    METHODS[name] = next((one for one in METHODS.values() if one.function is function), own)


def find_method(name: str) -> Method:
    """Return the method of this name, or raise `PrecropError`."""
    check_known(f"method {name!r}", name, METHODS)
    return METHODS[name]


class Found(NamedTuple):
    """What a method returned, by layer name."""

    scores: Scores | None  # one number per weight
    densities: dict[str, float]  # in (0, 1]; empty where there are scores


def found_by(problem: Problem, method: str, /, **options: Any) -> Found:
    """Run a method and return its scores or densities.

    Raises:
        PrecropError: the method or one of its options is unknown, or a user's own method fails or
            returns anything but the scores or densities that it should.
        BudgetError: a user's own rule gives densities above a budget.
    """
    check_options(method, options)
    chosen = find_method(method)
    with calling_own(f"method {method} fails", chosen.function):
        found = chosen.function(problem, **options)
    if not is_ours(chosen.function):
        return _checked(problem, method, chosen.kind, found)
    return Found(None, found) if chosen.kind == "rule" else Found(found, {})


def layer_densities(problem: Problem, method: str, /, **options: Any) -> dict[str, float]:
    """Return the densities that a method gives, in (0, 1]; errors are those of `found_by`."""
    found = found_by(problem, method, **options)
    if found.scores is None:
        return found.densities
    return shares(kept_weights(problem, found.scores))


def weight_scores(problem: Problem, method: str, /, **options: Any) -> Scores:
    """Return the scores of a method, by layer name.

    Raises:
        PrecropError: as for `found_by`, or the method scores no weights.
    """
    ranks = find_method(method).kind != "rule"
    scores = found_by(problem, method, **options).scores if ranks else None
    if scores is None:
        known = ", ".join(name for name, one in METHODS.items() if one.kind != "rule")
        raise PrecropError(f"method {method!r} scores no weights: choose from {known}")
    return scores


def check_options(method: str, options: Mapping[str, Any]) -> None:
    """Refuse an unknown method, and options that it does not have."""
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
    """Check what a method returned; the error for anything else describes it."""
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
    """Check that densities are in (0, 1] and within the budgets."""
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
    """Convert a value to a float; NaN if it is not a number."""
    try:
        return float(value)
    except (ArithmeticError, RuntimeError, TypeError, ValueError):
        return float("nan")
