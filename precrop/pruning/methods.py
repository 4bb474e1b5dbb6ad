"""The table of methods: adding one is a function under the decorator `method`.

A *rule* is a function from a `Problem` to ``{layer name: density}``. A *score* is a function from a
`Problem` to ``{layer name: tensor}``, one number a weight; the weights with the highest numbers in
the whole network remain (`precrop.pruning.ranking`), and their share in every layer is its density.
Further keyword arguments of the function are options of the method. A user's own function is a
method too, by its name ``module:function``; what it returns says which of the two it is.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from torch import Tensor

from precrop.errors import PrecropError
from precrop.own import failure, own_function
from precrop.pruning import gradients, rules, weights
from precrop.pruning.problem import Problem
from precrop.pruning.ranking import kept_shares
from precrop.pruning.synflow import synflow
from precrop.trust import runs_user_code

Scores = dict[str, Tensor]
DensityRule = Callable[..., dict[str, float]]
Score = Callable[..., Scores]

RULES: dict[str, DensityRule] = {
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

OWN: dict[str, Callable[..., dict[str, float] | Scores]] = {}
"""Functions of the user's own by the names that they were found by."""

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
    known = [(table, other) for table in (RULES, SCORES) for other in table]
    for table, other in known:
        if table[other] is function:
            table[name] = function  # type: ignore[assignment]
            if other in NEED_DATA:
                NEED_DATA.add(name)
            return
    OWN[name] = function
    NEED_DATA.add(name)


def known_methods() -> list[str]:
    """The names of all methods."""
    return [*RULES, *SCORES, *OWN]


class Found(NamedTuple):
    """What a method returned, by layer name.

    Attributes:
        scores: one number a weight, or None.
        densities: in (0, 1]; empty where there are scores.
    """

    scores: Scores | None
    densities: dict[str, float]


def found_by(problem: Problem, method: str, **options: Any) -> Found:
    """What a method returns.

    Raises:
        PrecropError: no such method, or an option that it does not have; or it is the user's own,
            and fails, or returns neither scores nor densities.
    """
    check_options(method, options)
    function = _function(method)
    if not runs_user_code(method):
        found = function(problem, **options)
        return Found(None, found) if method in RULES else Found(found, {})
    try:
        found = function(problem, **options)
    except PrecropError:
        raise
    except Exception as error:  # whatever a user's function raises
        raise PrecropError(f"method {method} {failure(function, error)}") from error
    return _checked(problem, method, found)


def layer_densities(problem: Problem, method: str, **options: Any) -> dict[str, float]:
    """What a method says of every layer, in (0, 1].

    Raises:
        PrecropError: as `found_by`.
    """
    found = found_by(problem, method, **options)
    return found.densities if found.scores is None else kept_shares(problem, found.scores)


def weight_scores(problem: Problem, method: str, **options: Any) -> Scores:
    """One number a weight, by layer name.

    Raises:
        PrecropError: as `found_by`, or it scores no weights.
    """
    scores = None if method in RULES else found_by(problem, method, **options).scores
    if scores is None:
        known = ", ".join([*SCORES, *OWN])
        raise PrecropError(f"method {method!r} scores no weights: choose from {known}")
    return scores


def check_options(method: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a method does not have.

    Raises:
        PrecropError: it has others, or none; or there is no such method.
    """
    parameters = list(inspect.signature(_function(method)).parameters.values())[1:]
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters]
    for name in options:
        if name not in known:
            has = f"its options are {', '.join(known)}" if known else "it has no options"
            raise PrecropError(f"method {method!r} has no option {name!r}: {has}")


def _function(method: str) -> Callable[..., Any]:
    tables: tuple[Mapping[str, Callable[..., Any]], ...] = (RULES, SCORES, OWN)
    for table in tables:
        if method in table:
            return table[method]
    raise PrecropError(f"method {method!r} is unknown: choose from {', '.join(known_methods())}")


def _checked(problem: Problem, method: str, found: Any) -> Found:
    """Scores or densities of every layer.

    Raises:
        PrecropError: they are something else.
    """
    if not isinstance(found, Mapping) or found.keys() != problem.layers.keys():
        what = "others" if isinstance(found, Mapping) else f"a {type(found).__name__}"
        raise PrecropError(
            f"method {method} must return a dict with the names in problem.layers, not {what}"
        )
    if not any(isinstance(value, Tensor) and value.dim() for value in found.values()):
        for name, value in found.items():
            if not 0 < _number(value) <= 1:
                raise PrecropError(
                    f"method {method} gives {value!r} for {name}: write a tensor of scores, or a "
                    "density above 0 and at most 1"
                )
        return Found(None, {name: float(value) for name, value in found.items()})
    for name, weight in problem.weights().items():
        value = found[name]
        if not isinstance(value, Tensor) or value.shape != weight.shape:
            given = tuple(value.shape) if isinstance(value, Tensor) else value
            raise PrecropError(
                f"method {method} gives {given!r} for {name}: scores are a tensor of the weight's "
                f"shape, {tuple(weight.shape)}"
            )
        if value.isnan().any():
            raise PrecropError(f"method {method} gives NaN for weights of {name}")
    return Found(dict(found), {})


def _number(value: Any) -> float:
    """A float; NaN for what is not a number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
