"""The problem that every method for layer densities gets: a network and its budgets."""

import math
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from precrop.errors import PrecropError, check_seed
from precrop.modules.names import parameters_of, untrained
from precrop.progress import Progress, silent
from precrop.read.inputs import given
from precrop.read.lower import lower
from precrop.read.network import Network, read_network
from precrop.solve.budgets import Budget, parse_budgets, parse_share
from precrop.solve.structure import Layer


class LayerCollapseWarning(UserWarning):
    """Warns that a method or mask removes all weights of a layer (Tanaka et al., 2006.05467)."""


class MaskSizeWarning(UserWarning):
    """Warns that masks of whole units keep more weights than was asked for."""


@dataclass(frozen=True)
class Problem:
    """A network and budgets for its prunable weights: those of convolutions and linear layers.

    Weights that are not trained (``requires_grad``) stay whole, unless none is.

    Attributes:
        network: the network as read; ``network.model`` is not changed.
        layers: the prunable layers, by name, in the order of execution.
        parameters: name of each layer's weight in ``model.named_parameters()``, by layer name.
        stem: name of the layer that runs first in eval mode.
        classifier: name of the layer that runs last in eval mode.
        limits: most weights (``params``) and most multiply-accumulates at batch 1 (``macs``) that
            may remain; one of them or both.
        data: batches ``(inputs, targets)``, for methods that need them.
        seed: seed of every random choice.
        progress: shows the progress of long loops.
        asked: the budgets as shares of the costs; ``limits`` are their integer parts.
    """

    network: Network
    layers: Mapping[str, Layer]
    parameters: Mapping[str, str]
    stem: str
    classifier: str
    limits: Mapping[str, int]
    data: Iterable[Any] | None = None
    seed: int = 0
    progress: Progress = silent
    asked: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a seed that no generator takes."""
        check_seed(self.seed)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        input_shape: Any,
        budgets: Mapping[str, Budget | None],
        **options: Any,
    ) -> "Problem":
        """Read a network and its budgets.

        Raises:
            BudgetError: a budget makes no sense.
            PrecropError: the network fails on this input, or has no prunable layer.
        """
        network = read_network(model, given(model, input_shape))
        structure = lower(network).structure
        if not structure.layers:
            raise PrecropError(
                "the network has no prunable layer: no convolution and no linear layer"
            )
        trained = prunable(network.model, [layer.weight for layer in network.layers])
        pairs = zip(network.layers, structure.layers, strict=True)
        layers = {one.name: one for read, one in pairs if one.weights and read.weight in trained}
        parameters = {one.name: one.weight for one in network.layers if one.name in layers}
        running = {reading.weight for reading in network.passes[0].readings}
        names = [name for name, weight in parameters.items() if weight in running] or [*layers]
        totals = _totals(layers)
        limits = parse_budgets(budgets, totals)
        asked = {n: parse_share(n, b, totals[n]) for n, b in budgets.items() if b is not None}
        ends = names[0], names[-1]
        return cls(network, layers, parameters, *ends, limits, asked=asked, **options)

    @property
    def totals(self) -> dict[str, int]:
        """The cost of all prunable weights, for each cost."""
        return _totals(self.layers)

    def share(self, cost: str) -> float:
        """Return the share of a cost that may remain, as it was asked for: 0.1, not 27/271."""
        total, limit = self.totals[cost], self.limits[cost]
        asked = self.asked.get(cost, math.inf)
        return min(1.0, asked if 0 <= asked * total - limit < 1 else limit / total)

    def used(self, densities: Mapping[str, float]) -> dict[str, float]:
        """Return the cost of layers with these densities, for each cost that has a limit."""
        kept = [(layer, densities[name]) for name, layer in self.layers.items()]
        costs = {
            "params": math.fsum(layer.weights * density for layer, density in kept),
            "macs": math.fsum(layer.macs * density for layer, density in kept),
        }
        return {name: costs[name] for name in self.limits}

    def weights(self) -> dict[str, Tensor]:
        """Return the layers' weights in the model, detached, by layer name."""
        parameters = parameters_of(self.network.model)
        return {layer: parameters[name].detach() for layer, name in self.parameters.items()}

    def others(self) -> dict[str, Tensor]:
        """Return the weights of layers that are not prunable, detached, by parameter name."""
        parameters = parameters_of(self.network.model)
        weights = {layer.weight for layer in self.network.layers} - {*self.parameters.values()}
        return {name: parameters[name].detach() for name in parameters if name in weights}

    def batches(self) -> Iterable[Any]:
        """Return the data, or raise `PrecropError` if there is none or it is no iterable."""
        if self.data is None:
            raise PrecropError(
                "this method needs data: give data= (in a shell --data), "
                "batches of (inputs, targets)"
            )
        try:
            iter(self.data)
        except TypeError as error:
            what = f"an object of type {type(self.data).__name__}"
            raise PrecropError(
                f"data= is {what}: give an iterable of batches (inputs, targets)"
            ) from error
        return self.data


def prunable(model: nn.Module, weights: Collection[str]) -> set[str]:
    """Return those of the layers' weights that are trained, or all if none is."""
    return {*weights} - untrained(model) or {*weights}


def _totals(layers: Mapping[str, Layer]) -> dict[str, int]:
    return {
        "params": sum(layer.weights for layer in layers.values()),
        "macs": sum(layer.macs for layer in layers.values()),
    }


def generator(seed: int, name: str) -> torch.Generator:
    """Return a random generator for one layer, independent of other layers and their order."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
