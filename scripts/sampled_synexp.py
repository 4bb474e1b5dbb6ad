"""SynExp by sampling: the mean over weights and masks that are really drawn.

`precrop.synexp` and `precrop.expected_output` compute expectations exactly, from densities alone.
Here weights and masks of any granularity are drawn, and R or the sum of all scores is computed for
each sample, to check the theorem: with masks that are independent between layers, the mean is the
expectation, whatever a mask's unit.
Where whole channels are removed, neighbouring layers share a mask, and the mean differs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from precrop.errors import PrecropError
from precrop.linear.densities import check_densities
from precrop.linear.replay import Flow, Replay, Weight
from precrop.modules.apart import apart
from precrop.pruning.masking import masks
from precrop.pruning.problem import generator
from precrop.pruning.synflow import saliency
from precrop.read.axes import Axis, Folded, Tie, resolve, segment_size
from precrop.read.inputs import given
from precrop.read.lower import lower
from precrop.read.network import read_network

Drawing = Literal["normal", "shuffle"]
Masks = Mapping[str, Tensor]
"""Bool tensors by parameter name."""
Measure = Callable[[Replay, Mapping[str, Tensor]], Flow]
"""What is averaged, from a network's replay and its weights, not negative, by parameter name."""

SURE = 1.96
"""Standard errors on either side of the mean that a normal variable stays within at 95%."""


@dataclass(frozen=True)
class SampledMean:
    """The mean of R, or of the sum of all scores, over samples.

    Attributes:
        log_mean: its natural logarithm.
        relative_error: standard error of the mean, as a share of the mean.
        samples: how many were drawn.
        densities: the share of weights that every masked layer really kept, by layer name: the
            nearest that whole units allow. Compare with the exact value at these densities.
        shares: the share of channels that every independent width really kept, by the layer that
            produces it; empty where masks were drawn for every layer independently.
    """

    log_mean: float
    relative_error: float
    samples: int
    densities: Mapping[str, float]
    shares: Mapping[str, float]

    @property
    def interval(self) -> tuple[float, float]:
        """The logarithms of the ends of the mean's 95% confidence interval."""
        ends = (1 - SURE * self.relative_error, 1 + SURE * self.relative_error)
        low, high = (self.log_mean + math.log(e) if e > 0 else -math.inf for e in ends)
        return low, high

    def deviation(self, log_expected: float) -> float:
        """Return how many standard errors the mean is above an expectation (its logarithm)."""
        return -math.expm1(log_expected - self.log_mean) / self.relative_error


def _output(replay: Replay, weights: Mapping[str, Tensor]) -> Flow:
    """Compute R."""
    with torch.no_grad():
        return replay({name: Weight(weight) for name, weight in weights.items()})


def _scores(replay: Replay, weights: Mapping[str, Tensor]) -> Flow:
    """Compute the sum of all weights' ``|w| dR/d|w|``."""
    total, scores = saliency(replay, weights)
    return Flow(torch.stack([values.sum() for values in scores.values()]).sum(), total.exponent)


@apart()
def _sampled(
    measure: Measure,
    model: nn.Module,
    input_shape: Any,
    densities: Mapping[str, float],
    *,
    granularity: str = "weight",
    samples: int = 1000,
    seed: int = 0,
    weights: Drawing = "normal",
) -> SampledMean:
    """Average a measure over drawn weights, and over masks drawn for every layer.

    Compare with the exact value at ``estimate.densities``: a layer keeps whole units, so its
    density is the nearest that is possible, not the one asked for.

    Args:
        measure: what is averaged.
        model: the network; it is not changed.
        input_shape: as in `precrop.plan`.
        densities: ``{layer name: density}``; layers that are not named stay dense.
        granularity: as in `precrop.masks`.
        samples: how often weights and masks are drawn, at least 2.
        seed: of every random choice.
        weights: ``normal`` draws a layer's weights from a normal distribution with the mean
            absolute value of its own; ``shuffle`` permutes its own.

    Raises:
        PrecropError: an argument makes no sense, or the network has no linear reading.
    """
    sampler = _Sampler(model, input_shape, weights, measure)
    asked = check_densities(densities, list(sampler.parameters))

    def draw(sample: int) -> Masks:
        return masks(sampler.network.model, asked, granularity, seed=sample) if asked else {}

    return sampler.estimate(draw, samples, seed)


sampled_synexp = partial(_sampled, _scores)
"""The mean of the sum of all scores, to compare with `precrop.synexp`; arguments as above."""
sampled_output = partial(_sampled, _output)
"""The mean of R, to compare with `precrop.expected_output`; likewise."""


@apart()
def sampled_crop(
    model: nn.Module,
    input_shape: Any,
    share: float | Mapping[str, float],
    *,
    samples: int = 1000,
    seed: int = 0,
    weights: Drawing = "normal",
) -> SampledMean:
    """Average R over drawn weights, and over channels removed from all layers that have them.

    Such masks are not independent: removing a hidden channel takes an output of one layer and an
    input of the next. In a chain a path meets each hidden width in one channel, so ``log E[R]`` is
    that of the dense network plus the sum of the logarithms of the shares that the *widths* keep,
    whereas E[R] at the layers' densities counts every one of them twice.

    Args:
        model: the network; it is not changed.
        input_shape: as in `precrop.plan`.
        share: of the channels of every independent width that remain, or ``{layer: share}`` by the
            first layer that makes the width; widths that are not named stay whole.
        samples: as in `sampled_synexp`.
        seed: likewise.
        weights: likewise.

    Raises:
        PrecropError: an argument makes no sense, or the network has no linear reading.
    """
    sampler = _Sampler(model, input_shape, weights, _output)
    lowered = lower(sampler.network)
    groups = lowered.structure.groups
    names = [group.name for group in groups]
    asked = share if isinstance(share, Mapping) else dict.fromkeys(names, share)
    checked = check_densities(asked, names)
    kept = {
        tie: (group.name, max(1, round(checked.get(group.name, 1.0) * group.units)))
        for tie, group in zip(lowered.ties, groups, strict=True)
    }

    def draw(sample: int) -> Masks:
        units = {tie: _drawn(tie, *choice, sample) for tie, choice in kept.items()}
        tensors = sampler.network.known.tensors
        return {name: _crossed(tensors[name], units) for name in sampler.parameters.values()}

    shares = {name: count / tie.quantum for tie, (name, count) in kept.items()}
    return sampler.estimate(draw, samples, seed, shares)


class _Sampler:
    """Draws a network's weights and measures it.

    Attributes:
        network: as it was read.
        parameters: the names of the weights, by layer name.
    """

    def __init__(
        self, model: nn.Module, input_shape: Any, weights: Drawing, measure: Measure
    ) -> None:
        if weights not in ("normal", "shuffle"):
            raise PrecropError(f"weights={weights!r} is unknown: write normal or shuffle")
        self.network = read_network(model, given(model, input_shape))
        self.parameters = {layer.name: layer.weight for layer in self.network.layers}
        self._replay = Replay(self.network, average_pool=True)
        self._measure = measure
        self._draw = _normal if weights == "normal" else _shuffled
        own = dict(self.network.model.named_parameters())
        self._sizes = {
            name: own[name].detach().cpu().double().abs() for name in self.parameters.values()
        }

    def estimate(
        self,
        draw: Callable[[int], Masks],
        samples: int,
        seed: int,
        shares: Mapping[str, float] | None = None,
    ) -> SampledMean:
        """Return the mean over weights, and over masks that ``draw`` makes from a seed."""
        if type(samples) is not int or samples < 2:
            raise PrecropError(
                f"samples={samples!r} makes no sense: write a whole number from 2 up"
            )
        seeds = torch.randint(2**31, (samples,), generator=torch.Generator().manual_seed(seed))
        flows: list[Flow] = []
        found: Masks = {}
        for sample in seeds.tolist():
            found = draw(sample)
            flows.append(self._flow(found, sample))
        densities = {
            layer: int(found[name].sum()) / found[name].numel()
            for layer, name in self.parameters.items()
            if name in found
        }
        return SampledMean(*_mean(flows), samples, densities, shares or {})

    def _flow(self, found: Masks, seed: int) -> Flow:
        weights = {}
        for name, own in self._sizes.items():
            drawn = self._draw(own, generator(seed, f"{name} drawn"))
            weights[name] = drawn * found[name].cpu() if name in found else drawn
        return self._measure(self._replay, weights)


def _normal(own: Tensor, random: torch.Generator) -> Tensor:
    """Draw absolute values of normal numbers, with the mean of ``own``."""
    drawn = torch.randn(own.shape, dtype=own.dtype, generator=random).abs()
    return drawn * (own.mean() * math.sqrt(math.pi / 2))


def _shuffled(own: Tensor, random: torch.Generator) -> Tensor:
    return own.reshape(-1)[torch.randperm(own.numel(), generator=random)].reshape(own.shape)


def _drawn(tie: Tie, name: str, count: int, seed: int) -> Tensor:
    """Draw which units of a width remain, shape (units,)."""
    kept = torch.zeros(tie.quantum, dtype=torch.bool)
    kept[torch.randperm(tie.quantum, generator=generator(seed, f"{name} kept"))[:count]] = True
    return kept


def _crossed(axes: tuple[Axis, ...], units: Mapping[Tie, Tensor]) -> Tensor:
    """Return a tensor's mask: an element remains if its index on every axis does."""
    mask = torch.ones((), dtype=torch.bool)
    for axis in axes:
        mask = mask.unsqueeze(-1) & _along(axis, units)
    return mask


def _along(axis: Axis, units: Mapping[Tie, Tensor]) -> Tensor:
    """Return which indices of an axis remain: those of the units that remain."""
    parts = []
    for segment in resolve(axis):
        atom, size = segment[0], segment_size(segment)
        if isinstance(atom, Folded):
            mask = _crossed(atom.factors, units).flatten()
            parts.append(mask.repeat_interleave(segment[1]))
            continue
        kept = units.get(atom.tie.root()) if atom is not None else None
        whole = torch.ones(size, dtype=torch.bool)
        parts.append(whole if kept is None else kept.repeat_interleave(size // len(kept)))
    return torch.cat(parts)


def _mean(flows: list[Flow]) -> tuple[float, float]:
    """Return the logarithm of the flows' mean, and its standard error as a share of it.

    R may exceed any float, so the numbers are scaled by one power of two.
    """
    top = max(flow.exponent for flow in flows)
    values = np.array([math.ldexp(float(f.values), f.exponent - top) for f in flows])
    mean = float(values.mean())
    if not mean > 0:
        return -math.inf, math.inf
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) / mean
    return math.log(mean) + top * math.log(2), error
