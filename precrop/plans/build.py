"""Builds the cropped network of a plan: same class, same state_dict keys, smaller tensors."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from precrop.errors import PlanError, check_known
from precrop.fit.attributes import GROWTH, apply_edits, get_attribute, registered_module
from precrop.fit.roots import scales_by_fan
from precrop.modules.apart import apart
from precrop.modules.copying import copied, tensor_shapes
from precrop.modules.hooks import unwrapped
from precrop.modules.names import (
    buffers_of,
    named_tensors,
    owner_of,
    parameters_of,
    places_of,
    untrained,
)
from precrop.modules.reparametrised import lengths, restore
from precrop.modules.streams import install
from precrop.plans.ends import for_ends
from precrop.plans.kinds import INITS, Axis, Init, built_size, input_axes, original_size
from precrop.read.unused import leave_out
from precrop.trained.channels import NORMS, Norm, choose

if TYPE_CHECKING:
    from precrop.plans.layers import LayerPlan
    from precrop.plans.plan import Plan

SHOWN_DIFFERENCES = 3


@apart()
def build(plan: "Plan", model: nn.Module, init: Init = "slice") -> nn.Module:
    """Build the cropped network, as `precrop.Plan.build` describes; ``model`` is not changed.

    Raises:
        PlanError: the plan is for another network; the message names the first differences.
    """
    check_known(f"init={init!r}", init, INITS)
    model = unwrapped(model)
    plan = for_ends(plan, model)
    check_same_network(plan, model)
    _check_paths(plan, model)
    _check_sizes(plan, model)
    cut = _largest(plan, model, init) if init in NORMS else _leading(plan, model)
    small = copied(model, lambda name, tensor: cut(name, tensor.detach()))
    _set_lengths(plan, cut, model, small)
    restore(small, plan.tensors)
    leave_out(small, plan.left_out)
    install(small, plan.streams, traced=False)
    apply_edits(small, plan.attributes)
    if init == "reset":
        reset(small)
    return small


Cut = Callable[[str, Tensor], Tensor]
"""Makes a tensor of the built network from a name and the original's tensor of that name."""


def _leading(plan: "Plan", model: nn.Module) -> Cut:
    """Return a cut that keeps leading channels and rescales weights to their new fan-in."""
    scales = _scales(plan, model)
    return lambda name, tensor: _resized(plan, name, tensor, scales)


def _largest(plan: "Plan", model: nn.Module, norm: Norm) -> Cut:
    """Return a cut that keeps the channels with the largest norms, with weights as trained."""
    kept = choose(plan, model, norm)
    kept.warn()
    # Where forward multiplies by a root of the fan-in, that changes: keep the product as it was.
    inside = _scaled_in_forward(plan, model)
    scales = {
        layer.weight: 1 / _scale(plan, layer)
        for layer in plan.layers
        if layer.weight in inside and layer.weight in plan.tensors
    }
    return lambda name, tensor: _resized(plan, name, kept.arranged(name, tensor), scales)


def _resized(plan: "Plan", name: str, tensor: Tensor, scales: Mapping[str, float]) -> Tensor:
    axes, scale = plan.tensors.get(name), scales.get(name, 1.0)
    made = tensor.clone() if axes is None else resize(tensor, axes)
    floats = tensor.is_floating_point() or tensor.is_complex()
    return made * scale if floats and scale != 1 else made


def _scales(plan: "Plan", model: nn.Module) -> dict[str, float]:
    """Return the factors that rescale weights, and parameters added to them, to new fan-ins.

    With both rescaled, the weight that a layer uses is the rescaled slice of its original one.
    Frozen weights have no factor: like buffers, they are meaningful as they are.
    """
    fixed = untrained(model)
    trained = parameters_of(model).keys() - fixed
    unscaled = _scaled_in_forward(plan, model) | fixed
    scales: dict[str, float] = {}
    added: dict[str, float] = {}
    for layer in plan.layers:
        if layer.weight in plan.tensors and layer.weight not in unscaled:
            scales[layer.weight] = _scale(plan, layer)
            added |= dict.fromkeys({*layer.added} & trained, scales[layer.weight])
    scales = added | scales  # a layer's own weight has its own fan-in
    return scales | {
        path + name[len(twin) :]: scale
        for path, twin in plan.followers.items()
        for name, scale in scales.items()
        if name.startswith(f"{twin}.")
    }


def _scale(plan: "Plan", layer: "LayerPlan") -> float:
    """Return the factor of a layer's weight; a kernel may have its input axis at any place."""
    if layer.kind in ("conv", "linear"):
        return float((layer.base_in / layer.in_channels) ** 0.5)
    return fan_scale(plan.tensors[layer.weight], layer.kind)


def _scaled_in_forward(plan: "Plan", model: nn.Module) -> set[str]:
    """Return the weights that forward scales by a root of their fan-in which the plan changes."""
    numbers = []
    for path, name, value in plan.attributes:
        if type(value) is float:
            with suppress(LookupError):  # `apply_edits` reports what is missing
                numbers.append((path, get_attribute(registered_module(model, path), name)))
    found = set()
    for layer in (one for one in plan.layers if numbers and one.weight in plan.shapes):
        owner, shape = owner_of(layer.weight), plan.shapes[layer.weight]
        first = shape[1 if layer.kind == "transposed" else 0]
        fan = prod(shape) // (layer.base_out if layer.base_out in shape else first)
        # Instead of a kernel, a module around it may scale the kernel's input.
        around = places_of(layer.weight) if prod(shape[2:]) > 1 else {owner}
        if any(
            scales_by_fan(number, fan) and (path in around or path.startswith(f"{owner}."))
            for path, number in numbers
        ):
            found.add(layer.weight)
    return found


def _set_lengths(plan: "Plan", cut: Cut, model: nn.Module, small: nn.Module) -> None:
    """Set the lengths of weight-normalised weights so that they, too, equal the cut weights."""
    fixed = untrained(model)
    for length, direction, dim in lengths(model):
        if direction not in plan.tensors or length in fixed:
            continue
        g, v = model.get_parameter(length).detach(), model.get_parameter(direction).detach()
        weight = cut(direction, torch._weight_norm(v, g, dim))
        with torch.no_grad():
            made = small.get_parameter(length)
            made.copy_(torch.norm_except_dim(weight, 2, dim) * torch.where(made < 0, -1, 1))


def check_same_network(plan: "Plan", model: nn.Module) -> None:
    """Check that every tensor has the shape that the plan records for the original.

    Raises:
        PlanError: shapes differ; the message names the first tensors, or says that it is cropped.
    """
    wrong = _differences(tensor_shapes(model), plan.shapes)
    if wrong and not built_differences(plan, model):
        raise PlanError("this network is cropped by the plan already: give the original")
    if wrong:
        raise PlanError(f"the plan is for another network ({plan.network}): {wrong}")


def check_built(plan: "Plan", model: nn.Module) -> None:
    """Check that every tensor has the shape that the plan builds.

    Raises:
        PlanError: shapes differ; the message names the first tensors.
    """
    wrong = built_differences(plan, model)
    if wrong:
        raise PlanError(f"this network is not the one that the plan builds: {wrong}")


def built_differences(plan: "Plan", model: nn.Module) -> str:
    """Describe how a network differs from the one that the plan builds; empty if it does not."""
    shapes = tensor_shapes(model)
    # Plans give the new shape of a tied tensor only under the first of its names.
    first = {*parameters_of(model), *buffers_of(model)}
    tied = shapes.keys() - first
    built = {
        name: tuple(map(built_size, plan.tensors.get(name, shape)))
        for name, shape in plan.shapes.items()
        if name not in tied and not name.startswith(_gone(plan))
    }
    return _differences({name: shapes[name] for name in shapes if name in first}, built)


def _gone(plan: "Plan") -> tuple[str, ...]:
    """Return the name prefixes of the tensors that the built network does not have."""
    return tuple(f"{path}." for path in plan.left_out)


def _differences(shapes: Mapping[str, Sequence[int]], planned: Mapping[str, Sequence[int]]) -> str:
    """Describe the first tensors whose shapes differ, and count the rest; empty if all agree."""
    names = [*planned, *(name for name in shapes if name not in planned)]
    wrong = [name for name in names if shapes.get(name) != planned.get(name)]
    listed = "; ".join(
        _difference(name, shapes.get(name), planned.get(name)) for name in wrong[:SHOWN_DIFFERENCES]
    )
    more = len(wrong) - SHOWN_DIFFERENCES
    return f"{listed}; and {more} more" if more > 0 else listed


def _check_paths(plan: "Plan", model: nn.Module) -> None:
    """Refuse a plan that names modules which the network, or the built one, does not have."""
    modules = {name for name, _ in model.named_modules(remove_duplicate=False) if name}
    for path in {*plan.followers, *plan.followers.values()} - modules:
        raise PlanError(f"the plan has a follower {path!r}, which is not a module of the network")
    for path in {*plan.left_out} - modules:
        raise PlanError(f"the plan leaves out {path!r}, which is not a module of the network")
    for stream in plan.streams:
        path = stream.path
        if path not in modules or f"{path}.".startswith(_gone(plan)):
            raise PlanError(f"the plan has a stream at {path!r}, which the network does not have")


def _check_sizes(plan: "Plan", model: nn.Module) -> None:
    """Refuse a plan whose sizes contradict the network or each other, before allocating memory."""
    tensors = named_tensors(model)
    for name, axes in plan.tensors.items():
        if name not in tensors or not _resizes(tensors[name], axes):
            raise PlanError(f"this plan does not resize {name} as the network has it: make it anew")
    largest = max((size for tensor in tensors.values() for size in tensor.shape), default=1)
    for stream in plan.streams:
        if stream.width > GROWTH * largest:
            raise PlanError(f"this plan's stream at {stream.path} is too wide: make it anew")
    parameters = parameters_of(model)
    params = sum(
        prod(map(built_size, plan.tensors.get(name, parameter.shape)))
        for name, parameter in parameters.items()
        if not name.startswith(_gone(plan))
    )
    if params != plan.params:
        raise PlanError(f"the plan says {plan.params} parameters and builds {params}: make it anew")
    base = sum(parameter.numel() for parameter in parameters.values())
    if base != plan.base_params:
        raise PlanError(f"the plan says {plan.base_params} parameters of {base}: make it anew")


def _resizes(tensor: Tensor, axes: Sequence[Axis]) -> bool:
    """Whether axes match a tensor's shape, and no segment grows by more than ``GROWTH``."""
    segments = [segment for axis in axes if not isinstance(axis, int) for segment in axis]
    return [*map(original_size, axes)] == [*tensor.shape] and all(
        before >= 0 and 0 <= after <= GROWTH * max(1, before) and (before or not after)
        for before, after in segments
    )


def _difference(name: str, shape: Sequence[int] | None, planned: Sequence[int] | None) -> str:
    """Describe how a tensor's shape differs from the planned one."""
    if planned is None:
        return f"the plan has no {name}"
    planned_text = "x".join(map(str, planned)) or "a scalar"
    if shape is None:
        return f"it has no {name}, planned for {planned_text}"
    return f"{name} is {'x'.join(map(str, shape)) or 'a scalar'}, planned for {planned_text}"


def resize(tensor: Tensor, axes: Sequence[Axis]) -> Tensor:
    """Keep the leading entries of every segment; segments that grow are filled up.

    New entries of weights (two axes or more) are drawn from a normal distribution with the tensor's
    mean and standard deviation, since copied channels would stay copies in training; vectors, such
    as normalisation scales, repeat their entries. The memory format stays the same.
    """
    original = tensor
    for dim, axis in enumerate(axes):
        if isinstance(axis, int):
            continue
        pieces = []
        segments = torch.split(tensor, [old for old, _ in axis], dim)
        for (old, new), piece in zip(axis, segments, strict=True):
            pieces.append(piece.narrow(dim, 0, min(old, new)))
            if new > old:
                pieces.append(_filling(tensor, piece, dim, new - old))
        tensor = torch.cat(pieces, dim)
    return _laid_out(tensor, original)


def _laid_out(tensor: Tensor, original: Tensor) -> Tensor:
    """Copy a tensor into the memory format of the original (channels_last, for example)."""
    strides = original.stride()
    order = sorted(range(len(strides)), key=lambda dim: -strides[dim])
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return tensor.permute(order).clone(memory_format=torch.contiguous_format).permute(inverse)


def _filling(tensor: Tensor, piece: Tensor, dim: int, count: int) -> Tensor:
    numbers = tensor.is_floating_point() or tensor.is_complex()
    if tensor.dim() < 2 or not numbers or tensor.is_meta:
        repeats = torch.arange(count, device=piece.device) % piece.shape[dim]
        return piece.index_select(dim, repeats)
    shape = [*piece.shape]
    shape[dim] = count
    generator = torch.Generator(device=tensor.device).manual_seed(prod(tensor.shape))
    noise = torch.randn(shape, generator=generator, dtype=tensor.dtype, device=tensor.device)
    return noise * tensor.std() + tensor.mean()


def fan_scale(axes: Sequence[Axis], kind: str) -> float:
    """Return ``sqrt(old / new)`` of the fan-in: the sizes of the axes that a weight sums over."""
    summed = (axes[i] for i in input_axes(kind) if i < len(axes))
    changed = [axis for axis in summed if not isinstance(axis, int)]
    return prod(((original_size(axis) / built_size(axis)) ** 0.5 for axis in changed), start=1.0)


def reset(model: nn.Module) -> None:
    """Call every module's ``reset_parameters``; frozen parameters and statistics are kept."""
    kept = {name: tensor.detach().clone() for name, tensor in _untrained_state(model).items()}
    for module in model.modules():
        initialiser = getattr(module, "reset_parameters", None)
        if callable(initialiser):
            initialiser()
    made = {**parameters_of(model), **buffers_of(model)}
    with torch.no_grad():
        for name in kept.keys() & made.keys():
            made[name].copy_(kept[name])


def _untrained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the frozen parameters, and the buffers of modules that have only such parameters.

    A frozen batch norm would not be the same with other running statistics.
    """
    fixed, parameters = untrained(model), parameters_of(model)
    trained = {owner_of(name) for name in parameters.keys() - fixed}
    owners = {owner_of(name) for name in fixed} - trained
    buffers = {name: one for name, one in buffers_of(model).items() if owner_of(name) in owners}
    return {name: parameters[name] for name in fixed} | buffers
