"""A plan for the same network with other ends: without its head, with another, of other inputs.

What lies between has the widths of the plan. The network is read anew, so that whatever reads or
makes what the plan crops follows, and it is proved as in planning that the built network is the
predicted one. What the plan does not know keeps its own widths.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING, Any

from torch import nn

from precrop.errors import PlanError, PrecropError
from precrop.fit.fitting import Fitter, changed_axes
from precrop.fit.lessons import Lessons
from precrop.modules.copying import tensor_shapes
from precrop.modules.names import modules_of, places_of
from precrop.plans.kinds import Axis as PlannedAxis
from precrop.plans.kinds import built_size, input_axes
from precrop.plans.layers import LayerPlan, layer_plan
from precrop.plans.outputs import recounted, with_totals
from precrop.read.axes import Atom, Axis, Folded, Tie, resolve, segment_size
from precrop.read.inputs import Inputs
from precrop.read.network import Network, Sizes, read_network, tensor_axes

if TYPE_CHECKING:
    from precrop.plans.plan import Plan

Shapes = Mapping[str, tuple[int, ...]]


def for_ends(plan: "Plan", model: nn.Module) -> "Plan":
    """The plan for ``model``, another instance of the network that was planned.

    It may have other outputs, no head or another one, and inputs of other channels. It is ``plan``
    itself where nothing differs, or where something else does.

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
    """Whether a layer makes the network's output."""
    return layer.group is None and layer.frozen is None


def _differs_at_ends(plan: "Plan", shapes: Shapes, same: Collection[str]) -> bool:
    """Whether a network differs in heads and in what its first layers read alone.

    It may lack the last layers, too. Others stand in their place if nothing of that is left.
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
    """Whether a module has any of these tensors; the network as a whole does."""
    return not path or any(name.startswith(f"{path}.") for name in same)


def _fed(plan: "Plan", layer: LayerPlan, shapes: Shapes) -> tuple[int, int] | None:
    """The channels that a layer read and now reads, if nothing else differs and all are kept."""
    old, new = plan.shapes[layer.weight], shapes[layer.weight]
    axes = [dim for dim, pair in enumerate(zip(old, new, strict=False)) if len({*pair}) > 1]
    if len(old) != len(new) or len(axes) != 1 or axes[0] not in input_axes(layer.kind):
        return None
    before, now = old[axes[0]], new[axes[0]]
    planned = plan.tensors.get(layer.weight, old)[axes[0]]
    return (before, now) if planned == before == layer.base_in else None


def _inputs(plan: "Plan", shapes: Shapes) -> Any:
    """The network's inputs, with the channels that its first layers read; None if not known."""
    inner = [one for one in plan.layers if one.weight in shapes and not _is_head(one)]
    fed = {pair for layer in inner if (pair := _fed(plan, layer, shapes)) is not None}
    if not fed:
        return plan.input_shape
    ((old, new), *others), sizes = fed, plan.input_shape
    # Channels come first, as a rule.
    places = [place for place, size in enumerate(sizes) if size == old]
    if others or not places or (len(places) > 1 and places[0]):
        return None
    return (*sizes[: places[0]], new, *sizes[places[0] + 1 :])


def _reads_new(network: Network, new: Collection[str]) -> bool:
    """Whether a layer that is planned reads what tensors make that are not."""
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
    """The sizes with which these tensors are the plan's."""
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
    """What the plan keeps of the atoms of an axis, but for products of several."""
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
    """Parameters of the built network, and of the original."""
    left_out = tuple(f"{path}." for path in network.left_out)
    parameters = network.parameters.items()
    built = (
        prod(map(sizes.size, tensor_axes(network, name, one)))
        for name, one in parameters
        if not name.startswith(left_out)
    )
    return sum(built), sum(one.numel() for _, one in parameters)


def _macs(network: Network, sizes: Sizes) -> tuple[int, int]:
    """Multiply-accumulates of the built network, and of the original."""
    products = [*network.known.macs, *(one for layer in network.layers for one in layer.macs)]
    built, base = (sum(map(each.product, products)) for each in (sizes, Sizes({})))
    return built, base
