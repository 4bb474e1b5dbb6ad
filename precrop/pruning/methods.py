"""The table of methods: adding one is a function under the decorator `method`.

A *rule* is a function from a `Problem` to ``{layer name: density}``. A *score* is a function from a
`Problem` to ``{layer name: tensor}``, one number a weight; the weights with the highest numbers in
the whole network remain (`precrop.pruning.ranking`), and their share in every layer is its density.
Further keyword arguments of the function are options of the method.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from torch import Tensor

from precrop.errors import PrecropError
from precrop.pruning import gradients, rules, weights
from precrop.pruning.problem import Problem
from precrop.pruning.ranking import kept_shares
from precrop.pruning.synflow import synflow

Rule = Callable[..., dict[str, float]]
Score = Callable[..., dict[str, Tensor]]

RULES: dict[str, Rule] = {
    "synexp": rules.highest_synexp,
    "erk": rules.erk,
    "uniform": rules.uniform,
    "uniform_plus": rules.uniform_plus,
    "igq": rules.igq,
}
"""Densities from the shape of the network."""

SCORES: dict[str, Score] = {
    "synflow": synflow,
    "snip": gradients.snip,
    "grasp": gradients.grasp,
    "magnitude": weights.magnitude,
    "random": weights.random,
}
"""Densities from numbers that rank single weights."""

NEED_DATA = {"snip", "grasp"}
"""Those that look at batches of data."""

T = TypeVar("T", bound=Callable[..., Any])


def method(
    name: str, *, kind: Literal["score", "rule"], needs_data: bool = False
) -> Callable[[T], T]:
    """Register a function of a `Problem` as a method, for everything that takes methods by name.

    Args:
        name: as in ``densities(method=name)``, ``train --mask name:weight`` and studies.
        kind: ``score`` for ``{layer name: tensor}``, one number a weight, of which the highest
            remain; ``rule`` for ``{layer name: density}``.
        needs_data: whether it looks at ``problem.data``, batches of ``(inputs, targets)``.

    Raises:
        PrecropError: the kind is neither.
    """
    tables: dict[str, dict[str, Any]] = {"score": SCORES, "rule": RULES}
    if kind not in tables:
        raise PrecropError(f"kind={kind!r} is unknown: write 'score' or 'rule'")

    def register(function: T) -> T:
        for table in tables.values():
            table.pop(name, None)
        tables[kind][name] = function
        NEED_DATA.discard(name)
        if needs_data:
            NEED_DATA.add(name)
        return function

    return register


def layer_densities(problem: Problem, method: str, **options: Any) -> dict[str, float]:
    """What a method says of every layer, in (0, 1].

    Raises:
        PrecropError: no such method, or an option that it does not have.
    """
    if method in SCORES:
        return kept_shares(problem, weight_scores(problem, method, **options))
    if method not in RULES:
        raise PrecropError(f"method {method!r} is unknown: choose from {', '.join(_names())}")
    check_options(method, options)
    return RULES[method](problem, **options)


def weight_scores(problem: Problem, method: str, **options: Any) -> dict[str, Tensor]:
    """One number a weight, by layer name.

    Raises:
        PrecropError: no such method, one that scores no weights, or an option that it lacks.
    """
    if method not in SCORES:
        raise PrecropError(
            f"method {method!r} scores no weights: choose from {', '.join(SCORES)}"
            if method in RULES
            else f"method {method!r} is unknown: choose from {', '.join(_names())}"
        )
    check_options(method, options)
    return SCORES[method](problem, **options)


def _names() -> list[str]:
    return [*RULES, *SCORES]


def check_options(method: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a method does not have.

    Raises:
        PrecropError: it has others, or none.
    """
    function = RULES[method] if method in RULES else SCORES[method]
    known = list(inspect.signature(function).parameters)[1:]
    for name in options:
        if name not in known:
            has = f"its options are {', '.join(known)}" if known else "it has no options"
            raise PrecropError(f"method {method!r} has no option {name!r}: {has}")
