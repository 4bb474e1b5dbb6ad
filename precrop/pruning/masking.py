"""Masks that give every layer its density, by single weights or by larger units."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils import prune

from precrop.errors import PrecropError, check_kind, check_known, check_seed, check_values, hint
from precrop.linear.densities import WHOLE_UNITS, check_density
from precrop.modules.apart import apart
from precrop.modules.copying import submodule
from precrop.modules.hooks import unwrapped
from precrop.modules.masks import check_masks
from precrop.modules.names import buffers_of, is_weight, layer_of, parameters_of
from precrop.pruning.problem import LayerCollapseWarning, MaskSizeWarning, generator

GRANULARITIES: dict[str, tuple[int, ...]] = {
    "weight": (),
    "kernel": (3,),
    "filter": (2, 3),
    "channel": (1, 3),
}
"""The axes of (group, output, input, position) that one unit spans."""


@apart()
def masks(
    model: nn.Module,
    densities: Mapping[str, float],
    granularity: str = "weight",
    *,
    scores: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return masks that give every layer its density.

    A unit of weights is kept or pruned as a whole. It is a single ``weight``; a ``kernel``, the
    k x k weights between one input and one output channel; a ``filter``, all weights of one output
    channel; or a ``channel``, all weights of one input channel. In a linear layer a kernel is one
    weight; in a depthwise convolution a filter and a channel are the same, unless each input has
    several outputs. Mao et al. 2017 (1705.08922) compare weights, kernels and filters.

    Every layer keeps ``density * units`` units, rounded down or up, and at least one. The rounding
    is chosen so that the weights kept in all layers differ from ``sum(density * weights)`` by at
    most half of the largest unit (half a weight at granularity ``weight``), unless layers that ask
    for less than one unit and keep one add up to more. So the masks may keep more than was asked
    for; if that is more than 5%, there is a warning.

    Args:
        model: the network; it is not changed.
        densities: density in (0, 1] by layer name, as `precrop.densities` returns them. A layer is
            named by its module (``layer1.0.conv1``, ``attn`` for ``attn.in_proj_weight``) or by its
            parameter. Layers that are not named get no mask.
        granularity: ``weight``, ``kernel``, ``filter`` or ``channel``. A weight that belongs to no
            convolution module is read as (outputs, inputs, positions...).
        scores: tensors of the parameters' shapes by parameter name, as `precrop.scores` returns
            them: the units with the highest sums remain; of equal sums those that come first in
            the order of outputs, inputs and positions. Without scores units are drawn at random.
        seed: seed of the random choice. A layer's draw doesn't depend on the other layers.

    Returns:
        ``{parameter name: mask}`` in the order of ``densities``. A mask is True where a weight
        remains, of its parameter's shape and on its device.

    Warns:
        MaskSizeWarning: the masks keep over 5% more weights than the densities ask for.

    Raises:
        PrecropError: the granularity is unknown, a density or a layer makes no sense, or scores
            are missing, have another shape or are not finite.
    """
    check_known(f"granularity {granularity!r}", granularity, GRANULARITIES)
    check_seed(seed)
    model = unwrapped(model)
    shares = _by_parameter(model, densities)
    units = {name: Units.of(model, name, granularity) for name in shares}
    counts = _counts(shares, units)
    parameters = parameters_of(model)
    found = {}
    for name, count in counts.items():
        if scores is None:
            kept = _drawn(units[name].number, count, generator(seed, name))
        else:
            kept = _highest(units[name].sums(_checked_scores(scores, name, units[name])), count)
        found[name] = units[name].mask(kept).to(parameters[name].device)
    asked = math.fsum(shares[name] * units[name].number * units[name].size for name in counts)
    kept_weights = sum(counts[name] * units[name].size for name in counts)
    if kept_weights > asked * (1 + WHOLE_UNITS):
        warnings.warn(
            f"the masks keep {kept_weights:,} weights, the densities ask for {asked:,.0f}: every "
            f"layer keeps a {granularity} at least, and whole ones",
            MaskSizeWarning,
            stacklevel=3,  # one level more for the decorator
        )
    return found


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Mask parameters in place, so that masked weights stay zero while the network trains.

    This applies `torch.nn.utils.prune.custom_from_mask` to every module that holds the parameter:
    ``weight`` becomes the product of the parameter ``weight_orig``, which the optimizer trains, and
    the buffer ``weight_mask``. `torch.nn.utils.prune.remove` makes it permanent. Products are also
    recomputed whenever ``model`` itself is called, for modules that use another's weight without
    calling it, as `torch.nn.MultiheadAttention` does with ``out_proj``.

    PyTorch can't deep-copy a network that is masked this way: copy it before.

    Args:
        model: the network; after an error none of the masks is applied.
        masks: bool tensors by parameter name, as `masks` returns them.

    Warns:
        LayerCollapseWarning: a mask removes all weights of its layer.

    Raises:
        PrecropError: a parameter is unknown, named twice or masked already, or a mask is not a bool
            tensor of its shape.
    """
    model = unwrapped(model)
    _check_masks(model, masks)
    names = [name for name, mask in masks.items() if not mask.any()]
    if names:  # before anything changes, since warnings may be raised as errors
        warnings.warn(
            f"the masks leave nothing of {', '.join(names)}", LayerCollapseWarning, stacklevel=2
        )
    for module, own_name, mask in _places(model, masks):
        prune.custom_from_mask(module, own_name, mask)  # type: ignore[no-untyped-call]
    if _renew not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_renew)


@dataclass(frozen=True)
class Units:
    """The division of a weight into units that are kept or pruned as a whole.

    All weights are viewed as (g, o, i, k): g groups with o outputs and i inputs each, and k
    positions of the kernel. A unit spans some of these axes and has a single index in the others.
    """

    shape: tuple[int, ...]  # of the weight: (g o, i, ...), or (g i, o, ...) if transposed
    groups: int  # of the convolution, else 1
    transposed: bool  # whether the weight has its inputs first
    spans: tuple[int, ...]  # axes of the view that a unit spans

    @classmethod
    def of(cls, model: nn.Module, name: str, granularity: str) -> "Units":
        """Return the units of a parameter, laid out as in the kind of module that holds it."""
        module = submodule(model, layer_of(name) if is_weight(name) else name.rpartition(".")[0])
        shape, spans = tuple(model.get_parameter(name).shape), GRANULARITIES[granularity]
        if isinstance(module, _ConvNd):
            return cls(shape, module.groups, module.transposed, spans)
        return cls(shape, 1, False, spans)

    @property
    def view(self) -> tuple[int, ...]:
        """The sizes (g, o, i, k)."""
        g, first, second, k = self._stored
        return (g, second, first, k) if self.transposed else self._stored

    @property
    def grid(self) -> tuple[int, ...]:
        """The number of units along every axis of the view."""
        return tuple(1 if axis in self.spans else n for axis, n in enumerate(self.view))

    @property
    def number(self) -> int:
        """The number of units."""
        return math.prod(self.grid)

    @property
    def size(self) -> int:
        """The number of weights in one unit."""
        return math.prod(self.view) // max(1, self.number)

    def sums(self, values: Tensor) -> Tensor:
        """Sum one number per weight to one per unit, in double precision and on the CPU."""
        values = self._turned(values.detach().cpu().double().reshape(self._stored))
        for axis in self.spans:
            values = values.sum(axis, keepdim=True)
        return values.flatten()

    def mask(self, kept: Tensor) -> Tensor:
        """Expand one bool per unit to a mask of the weight's shape."""
        spread = self._turned(kept.view(self.grid).expand(self.view))
        return spread.reshape(self.shape).contiguous()

    @property
    def _stored(self) -> tuple[int, int, int, int]:
        """The view's sizes with inputs and outputs in the weight's own order."""
        first, second, *window = self.shape
        return (self.groups, first // self.groups, second, math.prod(window))

    def _turned(self, values: Tensor) -> Tensor:
        """Convert from the weight's own order of axes to the view's, or back."""
        return values.transpose(1, 2) if self.transposed else values


def _by_parameter(model: nn.Module, densities: Mapping[str, float]) -> dict[str, float]:
    """Return densities by the name of the layer's weight instead of the layer's."""
    check_kind("densities", densities, Mapping, "a dict by the name of a layer")
    if not densities:
        raise PrecropError("densities are empty: name at least one layer")
    parameters = parameters_of(model, remove_duplicate=False)
    weights = {name: p for name, p in parameters.items() if not is_lazy(p) and p.dim() > 1}
    first: dict[int, str] = {}  # the name that named_parameters() gives to a shared weight
    for name, weight in weights.items():
        first.setdefault(id(weight), name)
    meant: dict[str, list[str]] = {name: [name] for name in weights}
    for name in filter(is_weight, weights):
        meant.setdefault(layer_of(name), []).append(name)
    layers: dict[str, str] = {}
    for layer, density in densities.items():
        check_density(layer, density)
        name = first[id(weights[_weight_of(model, layer, meant)])]
        if name in layers:
            raise PrecropError(f"layers {layers[name]!r} and {layer!r} are one weight, {name}")
        layers[name] = layer
    return {name: float(densities[layer]) for name, layer in layers.items()}


def _weight_of(model: nn.Module, layer: str, meant: Mapping[str, Sequence[str]]) -> str:
    """Return the one weight that a layer's name means, the inverse of `Known.layer`."""
    names = meant.get(layer, [])
    plain = f"{layer}.weight" if layer else "weight"
    if plain in names:
        return plain
    if len(names) == 1:
        return names[0]
    if names:
        raise PrecropError(f"layer {layer!r} has several weights: name {' or '.join(names)}")
    known = [name for name, _ in model.named_modules(remove_duplicate=False)]
    known += [*parameters_of(model, remove_duplicate=False)]
    if layer in known:
        raise PrecropError(f"layer {layer!r} has no weight of two or more dimensions")
    raise PrecropError(f"the network has no layer {layer!r}{hint(layer, meant)}")


def _counts(densities: Mapping[str, float], units: Mapping[str, Units]) -> dict[str, int]:
    """Return how many units every layer keeps.

    All counts are rounded down first. Then layers get one unit more, those that miss the largest
    fraction of one first, if the total that is missing is at least half of that unit. In the end at
    most half of the largest unit is missing: with more, every layer would have got its unit.
    """
    wanted = {name: _snapped(densities[name] * units[name].number) for name in densities}
    counts = {name: max(1, math.floor(number)) for name, number in wanted.items()}
    missing = math.fsum((wanted[name] - counts[name]) * units[name].size for name in counts)

    def order(name: str) -> tuple[float, str]:
        # Rounded: whether equal fractions differ in their last digits hangs on SciPy's version.
        return round(counts[name] - wanted[name], 9), name

    for name in sorted(counts, key=order):
        if counts[name] < wanted[name] and 2 * missing >= units[name].size:
            counts[name] += 1
            missing -= units[name].size
    return counts


def _snapped(number: float) -> float:
    """Return the nearest integer if the number differs from it only by rounding errors."""
    near = round(number)
    return near if abs(number - near) <= 1e-9 + 4 * math.ulp(number) else number


def _drawn(number: int, count: int, random: torch.Generator) -> Tensor:
    """Draw ``count`` of ``number`` units uniformly at random, as a mask."""
    device = random.device
    kept = torch.zeros(number, dtype=torch.bool, device=device)
    kept[torch.randperm(number, generator=random, device=device)[:count]] = True
    return kept


def _highest(values: Tensor, count: int) -> Tensor:
    """Return a mask of the ``count`` highest values; of equal ones the first are taken."""
    least = values.kthvalue(values.numel() - count + 1).values
    kept = values > least
    kept[(values == least).nonzero().view(-1)[: count - int(kept.sum())]] = True
    return kept


def _checked_scores(scores: Mapping[str, Tensor], name: str, units: Units) -> Tensor:
    if name not in scores:
        raise PrecropError(f"scores of {name} are missing{hint(name, scores)}")
    values = scores[name]
    if tuple(values.shape) != units.shape:
        raise PrecropError(
            f"scores of {name} have shape {tuple(values.shape)}, its weights {units.shape}"
        )
    check_values(f"the score of {name}", values)
    if not values.isfinite().all():
        raise PrecropError(f"scores of {name} are not all finite")
    return values


def _check_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    parameters = parameters_of(model, remove_duplicate=False)
    buffers = {*buffers_of(model, remove_duplicate=False)}
    check_kind("masks", masks, Mapping, "a dict by the name of a parameter")
    for name in map(str, masks):
        plain = name.removesuffix("_orig")
        if f"{plain}_mask" in parameters:
            raise PrecropError(f"{plain} has a mask of its own, the parameter {plain}_mask")
        if f"{plain}_orig" in parameters and f"{plain}_mask" in buffers:
            raise PrecropError(
                f"{plain} is masked already: make that permanent first, "
                "with torch.nn.utils.prune.remove"
            )
    check_masks(model, masks)


def _places(model: nn.Module, masks: Mapping[str, Tensor]) -> list[tuple[nn.Module, str, Tensor]]:
    """Return the modules that hold masked parameters, each with the parameter's name and mask."""
    parameters = parameters_of(model, remove_duplicate=False)
    given = {id(parameters[name]): mask for name, mask in masks.items()}
    return [
        (module, name, given[id(parameter)].to(parameter.device))
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
        if id(parameter) in given
    ]


def _renew(model: nn.Module, inputs: Any) -> None:
    """Multiply all weights by their masks; `prune` does so only in modules that are called."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod):
                hook(module, inputs)
