"""Adapts a plan to the network with other ends: other outputs, another head or none, other inputs.

If only the heads' outputs differ (37 classes in place of 1000), parameters and MACs are recounted.
Otherwise the network is read again, so that new layers follow the cropped widths next to them, and
the built network is compared with the predicted one, as in planning. Layers between the ends get
the plan's widths; those that the plan does not know keep their own.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING, Any

from torch import nn

from precrop.errors import PlanError, PrecropError
from precrop.fit.fitting import Fitter, changed_axes
from precrop.fit.lessons import Lessons
from precrop.modules.copying import tensor_shapes
from precrop.modules.names import modules_of, parameters_of, places_of
from precrop.plans.kinds import Axis as PlannedAxis
from precrop.plans.kinds import built_size, input_axes
from precrop.plans.layers import LayerPlan, layer_plan
from precrop.read.axes import Atom, Axis, Folded, Tie, resolve, segment_size
from precrop.read.inputs import Inputs
from precrop.read.network import Network, Sizes, read_network, tensor_axes
from precrop.solve.budgets import parse_budget

if TYPE_CHECKING:
    from precrop.plans.plan import BudgetPlan, Plan

Shapes = Mapping[str, tuple[int, ...]]
_COUNTS = ("base_weights", "weights", "base_macs", "macs")
"""Fields of a head's `LayerPlan` that are proportional to its outputs."""


def for_ends(plan: "Plan", model: nn.Module) -> "Plan":
    """Return the plan for ``model``, another instance of the network that was planned.

    ``model`` may have other outputs, another head or none, and other input channels. If nothing
    differs, or something else does, the result is ``plan`` itself.

    Raises:
        PlanError: the other ends need other widths than the plan's.
    """
    shapes = tensor_shapes(model)
    if shapes == plan.shapes:
        return plan
    found = recounted(plan, model, shapes)
    if found is not plan:
        return found
    same = {name for name, shape in shapes.items() if plan.shapes.get(name) == shape}
    if not _differs_at_ends(plan, shapes, same) or (inputs := _inputs(plan, shapes)) is None:
        return plan
    modules = modules_of(model)
    try:
        network = read_network(
            model,
            Inputs(inputs),
            scale_groups=plan.options.get("groups") == "scale",
            streams=[stream for stream in plan.streams if stream.path in modules],
            fold=True,
            drop_unused=bool(plan.left_out),
            hold_outputs=False,
        )
    except PrecropError as error:
        raise _other_ends(str(error)) from error
    if _reads_new(network, shapes.keys() - plan.shapes.keys()):
        return plan
    sizes = _sizes(network, plan, same)
    fit = Fitter(network, Lessons(network)).fit(sizes)
    if fit.mismatch is not None:
        site = fit.mismatch.site
        raise _other_ends(f"{site.op} in {site.layer or 'forward'}: {fit.mismatch.message}")
    tensors = changed_axes(fit)
    for name in same & network.known.tensors.keys():
        made, planned = (one.get(name, shapes[name]) for one in (tensors, plan.tensors))
        if [*map(built_size, made)] != [*map(built_size, planned)]:
            raise _other_ends(f"which need another size of {name}")
    before = {layer.name for layer in plan.layers if layer.weight not in same}
    layers = tuple(_layers(plan, network, sizes))
    now = {layer.name for layer in layers if layer.weight not in same}
    return replace(
        with_totals(plan, _params(network, sizes), _macs(network, sizes)),
        network=f"{type(model).__module__}:{type(model).__qualname__}",
        input_shape=network.inputs.spec,
        layers=layers,
        frozen={n: why for n, why in plan.frozen.items() if n not in before or n in now},
        options={**plan.options, "ends": {"before": sorted(before), "now": sorted(now)}},
        shapes=shapes,
        tensors=tensors,
        streams=network.tracer.streams,
        attributes=tuple(fit.edits),
        followers=network.unused.followers,
        left_out=network.left_out,
    )


def _other_ends(reason: str) -> PlanError:
    return PlanError(f"the plan is for a network with other ends, {reason}: plan this one anew")


def _is_head(layer: LayerPlan) -> bool:
    """Whether a layer computes an output of the network, which has a fixed width."""
    return layer.group is None and layer.frozen is None


def _differs_at_ends(plan: "Plan", shapes: Shapes, same: Collection[str]) -> bool:
    """Whether a network differs only in its heads and in the channels that its first layers read.

    It may lack its last layers; others may replace them in a module of which nothing else is left.
    """
    places = [place for place, layer in enumerate(plan.layers) if layer.weight in same]
    last = plan.layers[: places[-1]] if places else plan.layers
    changed = [layer for layer in plan.layers if layer.weight not in same]
    inner = [layer for layer in changed if not _is_head(layer)]
    for layer in inner:
        gone = layer.weight not in shapes
        after = layer not in last and (gone or not _left(same, layer.name.rpartition(".")[0]))
        if not after and (gone or _fed(plan, layer, shapes) is None):
            return False
    own = (*(f"{layer.name}." for layer in changed), *(layer.weight for layer in changed))
    if not all(name.startswith(own) for name in shapes.keys() & plan.shapes.keys() - same):
        return False
    known = {""}.union(*map(places_of, plan.shapes))
    new = [max(known & {*places_of(name)}, key=len) for name in shapes if name not in plan.shapes]
    lacks = any(layer.weight not in shapes for layer in inner)
    return bool(changed or new) and not (lacks and any(_left(same, place) for place in new))


def _left(same: Iterable[str], path: str) -> bool:
    """Whether any of these tensors is in a module; always true of the network as a whole."""
    return not path or any(name.startswith(f"{path}.") for name in same)


def _fed(plan: "Plan", layer: LayerPlan, shapes: Shapes) -> tuple[int, int] | None:
    """Return a layer's old and new input channels if only these differ and none was cropped."""
    axis, before, now = _other_size(plan, layer.weight, shapes[layer.weight]) or (-1, 0, 0)
    return (before, now) if axis in input_axes(layer.kind) and before == layer.base_in else None


def _inputs(plan: "Plan", shapes: Shapes) -> Any:
    """Return the input shape with the channels that the first layers now read; None if unknown."""
    inner = [one for one in plan.layers if one.weight in shapes and not _is_head(one)]
    fed = {pair for layer in inner if (pair := _fed(plan, layer, shapes)) is not None}
    if not fed:
        return plan.input_shape
    ((old, new), *others), sizes = fed, plan.input_shape
    # If several axes have this size, axis 0 must be one of them: channels usually come first.
    places = [place for place, size in enumerate(sizes) if size == old]
    if others or not places or (len(places) > 1 and places[0]):
        return None
    return (*sizes[: places[0]], new, *sizes[places[0] + 1 :])


def _reads_new(network: Network, new: Collection[str]) -> bool:
    """Whether a planned layer's input depends on tensors that the plan does not know."""
    for forward in network.passes:
        names, memories = forward.trace.values.names, forward.trace.values.memories
        needed: set[int] = set()
        for call, reading in reversed([*forward.pairs]):
            reaches = any(memories[value.number] in needed for value in call.outputs)
            if reaches and any(names.get(value.number) in new for value in call.inputs):
                return True
            if reaches or (reading.weight is not None and reading.weight not in new):
                needed.update(memories[value.number] for value in call.inputs)
    return False


def _sizes(network: Network, plan: "Plan", names: Iterable[str]) -> Sizes:
    """Return the sizes at which the tensors of these names have their planned shapes."""
    kept: dict[Tie, tuple[int, int]] = {}
    for name in names:
        axes = network.known.tensors.get(name, ())
        for axis, planned in zip(axes, plan.tensors.get(name, plan.shapes[name]), strict=False):
            for atom, share in _shares(axis, planned):
                tie = atom.tie.root()
                units = share * tie.quantum
                found, _ = kept.setdefault(tie, (int(units), tie.quantum))
                if found != units:
                    raise _other_ends(f"which {name} cannot have its planned sizes beside")
    return Sizes(kept)


def _shares(axis: Axis, planned: PlannedAxis) -> Iterator[tuple[Atom, Fraction]]:
    """Yield the share that the plan keeps of each atom of an axis, except products of several."""
    row = [(planned, planned)] if isinstance(planned, int) else planned
    pieces = [(old, Fraction(new)) for old, new in reversed(row) if old]
    for segment in resolve(axis):
        missing, new = segment_size(segment), Fraction(0)
        while missing:
            old, left = pieces.pop()
            taken = min(old, missing)
            part = left * taken / old
            new, missing = new + part, missing - taken
            if taken < old:
                pieces.append((old - taken, left - part))
        if segment[0] is not None and not isinstance(segment[0], Folded):
            yield segment[0], new / segment_size(segment)


def _layers(plan: "Plan", network: Network, sizes: Sizes) -> Iterator[LayerPlan]:
    known = {layer.weight: layer for layer in plan.layers}
    for layer in network.layers:
        planned = known.get(layer.weight)
        told = {n: getattr(planned, n, None) for n in ("group", "frozen", "target")}
        yield layer_plan(network, layer, sizes, **told)


def _params(network: Network, sizes: Sizes) -> tuple[int, int]:
    """Return the numbers of parameters of the built network and of the original."""
    left_out = tuple(f"{path}." for path in network.left_out)
    parameters = network.parameters.items()
    built = (
        prod(map(sizes.size, tensor_axes(network, name, one)))
        for name, one in parameters
        if not name.startswith(left_out)
    )
    return sum(built), sum(one.numel() for _, one in parameters)


def _macs(network: Network, sizes: Sizes) -> tuple[int, int]:
    """Return the multiply-accumulates of the built network and of the original."""
    products = [*network.known.macs, *(one for layer in network.layers for one in layer.macs)]
    built, base = (sum(map(each.product, products)) for each in (sizes, Sizes({})))
    return built, base


def for_built(plan: "Plan", small: nn.Module) -> "Plan":
    """Return the plan `recounted` for the heads' outputs of ``small``, a network built from it."""
    shapes = dict(plan.shapes)
    for name, shape in tensor_shapes(small).items():
        old = plan.shapes.get(name, ())
        axes = plan.tensors.get(name, old)
        if len(shape) == len(old):
            trios = zip(shape, old, axes, strict=True)
            shapes[name] = tuple(n if isinstance(axis, int) else o for n, o, axis in trios)
    return recounted(plan, small, shapes)


def recounted(plan: "Plan", model: nn.Module, shapes: Shapes) -> "Plan":
    """Return the plan with parameters and MACs recounted for heads with other outputs.

    A head is a layer that computes an output of the network, whose channels no plan changes. Every
    tensor that differs must belong to a head, and differ only along its output. Limits of
    parameters and MACs that were given as shares are shares of the new totals. Other budgets are
    left out, as they would have to be planned anew. If nothing differs, or something else does, the
    result is ``plan`` itself.

    Args:
        plan: made for the network with its previous outputs.
        model: the network, or one built from it; it tells which tensors are parameters.
        shapes: of every tensor in the network's state_dict.
    """
    outputs = _outputs(plan, shapes)
    if not outputs:
        return plan
    tensors = {
        name: tuple(
            axis if old == new else new
            for axis, old, new in zip(axes, plan.shapes[name], shapes[name], strict=True)
        )
        if name in shapes
        else axes
        for name, axes in plan.tensors.items()
    }
    params, base_params, macs, base_macs = plan.params, plan.base_params, plan.macs, plan.base_macs
    for name in parameters_of(model):
        old, new = plan.shapes[name], shapes[name]
        base_params += prod(new) - prod(old)
        params += _entries(tensors.get(name, new)) - _entries(plan.tensors.get(name, old))
    layers, said = [], dict(plan.options.get("outputs", {}))
    for layer in plan.layers:
        changed = layer
        if layer.name in outputs:
            size = outputs[layer.name]
            counts = {name: getattr(layer, name) * size // layer.base_out for name in _COUNTS}
            changed = replace(layer, base_out=size, out_channels=size, **counts)
            original, _ = said.get(layer.name, (layer.base_out, None))
            said[layer.name] = (original, size)
        macs += changed.macs - layer.macs
        base_macs += changed.base_macs - layer.base_macs
        layers.append(changed)
    return replace(
        with_totals(plan, (params, base_params), (macs, base_macs)),
        layers=tuple(layers),
        shapes={name: shapes[name] for name in plan.shapes},
        tensors=tensors,
        options={**plan.options, "outputs": said},
    )


def with_totals(plan: "Plan", params: tuple[int, int], macs: tuple[int, int]) -> "Plan":
    """Return a plan with new parameters and MACs, each a pair ``(cropped, original)``."""
    totals = {"params": params, "macs": macs}
    return replace(
        plan,
        budgets={n: _budget(n, b, *totals[n]) for n, b in plan.budgets.items() if n in totals},
        params=params[0],
        macs=macs[0],
        base_params=params[1],
        base_macs=macs[1],
    )


def _outputs(plan: "Plan", shapes: Shapes) -> dict[str, int]:
    """Return the new outputs of the heads that differ; empty if something else differs, too."""
    if shapes.keys() != plan.shapes.keys():
        return {}
    different = {name for name in shapes if shapes[name] != plan.shapes[name]}
    found = {}
    for layer in plan.layers:
        own = {n for n in different if n == layer.weight or n.startswith(f"{layer.name}.")}
        kept = layer.group is not None or layer.frozen is not None or not layer.base_out
        if kept or layer.weight not in own:
            continue
        sizes = {(_other_size(plan, name, shapes[name]) or (0, 0, 0))[1:] for name in own}
        old, new = sizes.pop()
        counts = [getattr(layer, name) for name in _COUNTS]
        if sizes or old != layer.base_out or any(n * new % old for n in counts):
            return {}
        found[layer.name] = new
        different -= own
    return {} if different else found


def _other_size(plan: "Plan", name: str, shape: Sequence[int]) -> tuple[int, int, int] | None:
    """Return the only axis that differs, with its old and new size, if the plan doesn't crop it."""
    old = plan.shapes[name]
    axes = [axis for axis, pair in enumerate(zip(old, shape, strict=False)) if len({*pair}) > 1]
    if len(old) != len(shape) or len(axes) != 1:
        return None
    (axis,) = axes
    planned = plan.tensors.get(name, old)[axis]
    return (axis, old[axis], shape[axis]) if planned == old[axis] else None


def _entries(axes: Sequence[PlannedAxis]) -> int:
    return prod(map(built_size, axes))


def _budget(name: str, budget: "BudgetPlan", used: int, base: int) -> "BudgetPlan":
    """Return a budget with new totals; a limit that was a share of the old one is recomputed."""
    share = parse_budget(name, budget.asked, budget.base) != parse_budget(name, budget.asked, base)
    limit = parse_budget(name, budget.asked, base) if share else budget.limit
    return replace(budget, limit=limit, used=used, base=base)
