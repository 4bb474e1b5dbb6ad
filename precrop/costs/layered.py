"""Users' costs that add up over layers: a price per weight and one per multiply-accumulate."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from precrop.errors import PrecropError, brief, flops_hint
from precrop.own import calling_own
from precrop.read.axes import Tie
from precrop.read.known import Product
from precrop.read.lower import CostModel, lowered, polynomial
from precrop.read.network import Network
from precrop.solve.budgets import UNITS
from precrop.solve.structure import Cost, Layer

LayerCost = Callable[[Layer], tuple[int, int]]
"""Returns a layer's cost per weight and per multiply-accumulate, as whole numbers."""
T = TypeVar("T", bound=LayerCost)

COSTS: dict[str, LayerCost] = {}


def cost(name: str) -> Callable[[T], T]:
    """Register a function as a cost that can have a budget: ``plan(..., costs={name: 0.5})``.

    The function gets every `Layer` of the original and returns two whole numbers from 0 up: the
    cost of one of its weights and that of one of its multiply-accumulates.

    Raises:
        PrecropError: the name is one of precrop's own costs.
    """
    if name in UNITS:
        raise PrecropError(f"the cost {name!r} is precrop's own: choose another name")

    def register(function: T) -> T:
        COSTS[name] = function
        return function

    return register


def layered(name: str) -> CostModel:
    """Return a registered cost as a polynomial of a network's widths.

    Raises:
        PrecropError: no cost has that name.
    """
    if name not in COSTS:
        known = ", ".join([*UNITS, *COSTS]) + flops_hint(name)
        raise PrecropError(f"no cost is called {name!r}: choose from {known}")

    def model(network: Network, index: Mapping[Tie, int]) -> Cost:
        products = []
        for reading in network.layers:
            with calling_own(f"the cost {name!r} fails on {reading.name}", COSTS[name]):
                prices = COSTS[name](lowered(network, reading, index))
            two = isinstance(prices, tuple) and len(prices) == 2
            if not two or not all(type(price) is int and price >= 0 for price in prices):
                raise PrecropError(
                    f"the cost {name!r} says {brief(prices)} of {reading.name}: it must be two "
                    "whole numbers from 0 up, per weight and per multiply-accumulate"
                )
            weights = Product(1, list(network.known.tensors[reading.weight]))
            products += [_times(weights, prices[0]), *(_times(m, prices[1]) for m in reading.macs)]
        return polynomial([product for product in products if product.coefficient], index)

    return model


def _times(product: Product, price: int) -> Product:
    return replace(product, coefficient=price * product.coefficient)
