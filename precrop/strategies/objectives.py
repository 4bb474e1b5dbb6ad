"""Objectives: how much each layer's log density counts in what the program maximises."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

from precrop.errors import PrecropError
from precrop.own import calling_own, own_function
from precrop.solve.structure import Floats, Layer, Structure


def every_layer(structure: Structure) -> Floats:
    """All layers count equally, which maximises SynExp in a chain (2203.02549)."""
    return np.ones(len(structure.layers))


def dense_layers(structure: Structure) -> Floats:
    """Depthwise layers don't count: they mix no channels, but favour wide hidden layers."""
    return np.array([layer.kind != "depthwise" for layer in structure.layers], float)


def inner_layers(structure: Structure) -> Floats:
    """The stem and the classifier don't count: images and classes fix one of their ends."""
    return np.array([_ends(layer) > 1 for layer in structure.layers], float)


def _ends(layer: Layer) -> int:
    """Return how many ends of a layer vary; a width that is both ends counts twice."""
    return bool(layer.inputs) + (bool(layer.outputs) or layer.one_end)


T = TypeVar("T", bound=Callable[[Structure], Floats])

OBJECTIVES: dict[str, Callable[[Structure], Floats]] = {
    "synexp": every_layer,
    "dense-layers": dense_layers,
    "inner-layers": inner_layers,
}
"""Functions from a structure to the weights of the layers' log densities, shape (layers,)."""

RETIRED = {
    "root-macs": "it chose worse widths than synexp on every data set of docs/evidence.md",
}
"""Objectives that were removed, and why; stores and plan files may still name them."""


def objective(name: str) -> Callable[[T], T]:
    """Register a function from a `Structure` to weights, shape (layers,), as an objective.

    The program then maximises the weighted sum of the layers' log densities. Weights are scaled to
    mean 1, so that ``balance`` means the same for every objective.
    """

    def register(function: T) -> T:
        OBJECTIVES[name] = function
        return function

    return register


def take_own_objective(name: str) -> None:
    """Register a function of the user's, found by `own_function`, as the objective ``name``."""
    OBJECTIVES[name] = own_function(name, "objective")


def unknown_objective(name: object, known: Iterable[str]) -> PrecropError:
    """Return the error for an objective that does not exist."""
    retired = RETIRED.get(name) if isinstance(name, str) else None
    why = "is unknown" if retired is None else f"was removed: {retired}"
    return PrecropError(f"objective={name!r} {why}: choose from {', '.join(known)}")


def layer_weights(objective: str, structure: Structure) -> Floats:
    """Return the layer weights of an objective, checked, shape (layers,).

    Raises:
        PrecropError: there is no such objective, or its weights make no sense.
    """
    if objective not in OBJECTIVES:
        raise unknown_objective(objective, OBJECTIVES)
    function = OBJECTIVES[objective]
    with calling_own(f"objective {objective} fails", function):
        made = function(structure)
        if np.iscomplexobj(made):
            raise PrecropError(f"objective {objective} gives complex weights: they are real")
        found = np.asarray(made, dtype=np.float64)
    count = len(structure.layers)
    if found.shape != (count,) or not np.isfinite(found).all() or found.min(initial=0.0) < 0:
        given = f"an array of shape {found.shape}" if found.size > 1 else repr(found.tolist())
        raise PrecropError(
            f"objective {objective} must give {count} weights, a finite number from 0 up for each "
            f"layer in structure.layers: it gives {given}"
        )
    return found
