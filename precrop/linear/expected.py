"""SynExp: the expected sum of SynFlow's scores over weights and masks (arXiv 2203.02549).

SynFlow's R has degree one in every weight, so its expectation over independent weights and masks is
R with every weight of layer l replaced by ``p_l E|w_l|``. ``E|w_l|`` is the mean absolute value of
the network's own weights. The scores of layer l, ``|w| dR/d|w|``, add up to the part of R whose
paths pass the layer, in expectation too. Summed over all layers, a path counts once for every
layer on it: in a chain that gives R times the number of layers; in a network with branches, long
paths weigh more than in R.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from precrop.errors import PrecropError, check_values
from precrop.linear.densities import check_densities
from precrop.linear.replay import Flow, Replay, Weight
from precrop.modules.apart import apart
from precrop.read.inputs import given
from precrop.read.network import Network, read_network
from precrop.solve.structure import Floats

_LINEAR = 1e-9
"""Largest relative deviation from a straight line that counts as linear."""


class Expectation:
    """Log E[R], the network's expected output, as a function of the layers' log densities.

    Args:
        network: the network as read.

    Attributes:
        label: its name in a plan's report.
        names: names of the layers, in the order of execution.

    Raises:
        PrecropError: an operation has no linear reading, or a layer is applied twice in a row.
    """

    label = "log_output"

    def __init__(self, network: Network) -> None:
        layers = network.layers
        self.names = [layer.name for layer in layers]
        self._parameters = [layer.weight for layer in layers]
        weights = network.parameters
        self._shapes = [tuple(weights[name].shape) for name in self._parameters]
        self._means = np.array([_mean(name, weights[name]) for name in self._parameters])
        self._replay = Replay(network, average_pool=True)
        self._known: dict[bytes, tuple[float, Floats]] = {}
        calls = [reading.weight for reading in network.passes[0].readings]
        for index, name in enumerate(self._parameters):
            if calls.count(name) > 1:
                self._check_degree(index)

    def __call__(self, log_densities: Floats) -> tuple[float, Floats]:
        """Return the logarithm and its gradient: the share of the total that passes each layer.

        Args:
            log_densities: shape (layers,), in the order of `names`. Results are cached.
        """
        key = log_densities.tobytes()
        if key not in self._known:
            self._known[key] = self._computed(log_densities)
        return self._known[key]

    def value(self, log_densities: Floats) -> float:
        """Return the logarithm without its gradient."""
        with torch.no_grad():
            return _log(self._total(torch.from_numpy(np.exp(log_densities) * self._means)))

    def _computed(self, log_densities: Floats) -> tuple[float, Floats]:
        values = torch.tensor(np.exp(log_densities) * self._means, requires_grad=True)
        with torch.enable_grad():
            total = self._total(values)
            (slope,) = torch.autograd.grad(total.values, values)
        shares = (slope * values / total.values).detach()
        log = _log(total)
        return log, shares.numpy() if log > -math.inf else np.zeros(len(self.names))

    def _total(self, values: Tensor) -> Flow:
        """Return the expectation for mean absolute weights ``values``, shape (layers,)."""
        rows = zip(self._parameters, values.unbind(), self._shapes, strict=True)
        return self._replay({name: Weight(value, shape) for name, value, shape in rows})

    def _check_degree(self, index: int) -> None:
        """Refuse a layer in which R isn't linear, by the values at 1, 2 and 3 times its weights."""
        points = np.zeros((3, len(self.names)))
        points[:, index] = np.log([1, 2, 3])
        logs = [self.value(point) for point in points]
        steps = np.diff(np.exp(np.array(logs) - logs[-1]))
        if abs(steps[1] - steps[0]) > _LINEAR:
            raise PrecropError(
                f"{self.names[index]} is applied several times in a row: SynExp is not defined"
            )


class ScoreExpectation(Expectation):
    """Log SynExp, the expected sum of all scores, as a function of the layers' log densities."""

    label = "log_synexp"

    def _total(self, values: Tensor) -> Flow:
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            means = values.requires_grad_()
            total = super()._total(means)
            (slope,) = torch.autograd.grad(total.values, means, create_graph=differentiable)
        return Flow((slope * means).sum(), total.exponent)


@apart()
def synexp(
    model: nn.Module,
    input_shape: Any = None,
    densities: Mapping[str, float] | None = None,
    *,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
) -> float:
    """Return the natural logarithm of SynExp, exact and computed in log space.

    SynExp is the expected sum of the SynFlow scores of all weights. The expectation is over weights
    drawn independently with the mean absolute value that each layer of ``model`` has, and over
    masks of any granularity drawn independently for every layer at its density. docs/method.md
    says what counts as linear.

    Args:
        model: the network; it is not changed.
        input_shape: as in `precrop.plan`.
        example_inputs: as in `precrop.plan`, instead of a shape.
        example_kwargs: likewise.
        densities: ``{layer name: density}`` in (0, 1]; other layers are dense.

    Raises:
        PrecropError: a density is outside (0, 1], a layer is unknown, or the network multiplies
            activations with each other (attention) or applies a layer twice in a row.
    """
    inputs = given(model, input_shape, example_inputs, example_kwargs)
    return _value(ScoreExpectation(read_network(model, inputs)), densities or {})


@apart()
def expected_output(
    model: nn.Module,
    input_shape: Any = None,
    densities: Mapping[str, float] | None = None,
    *,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
) -> float:
    """Return the natural logarithm of E[R], the expected output of SynFlow's linear network.

    In a chain it is `synexp` less the logarithm of the number of layers. With branches, all paths
    count equally here, while `synexp` weighs each path by its number of layers. Arguments and
    errors are those of `synexp`.
    """
    inputs = given(model, input_shape, example_inputs, example_kwargs)
    return _value(Expectation(read_network(model, inputs)), densities or {})


def _value(expectation: Expectation, densities: Mapping[str, float]) -> float:
    checked = check_densities(densities, expectation.names)
    logs = [math.log(checked.get(name, 1.0)) for name in expectation.names]
    return expectation.value(np.array(logs))


def _mean(name: str, weight: Tensor) -> float:
    check_values(name, weight)
    return float(weight.detach().abs().double().mean())


def _log(total: Flow) -> float:
    value = float(total.values.detach())
    return math.log(value) + total.exponent * math.log(2) if value > 0 else -math.inf
