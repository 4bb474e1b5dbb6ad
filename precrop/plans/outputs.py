"""A plan for the same network with other outputs: 37 classes in place of 1000."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from torch import nn

from precrop.modules.copying import tensor_shapes
from precrop.modules.names import parameters_of
from precrop.plans.kinds import Axis, built_size
from precrop.solve.budgets import parse_budget

if TYPE_CHECKING:
    from precrop.plans.plan import BudgetPlan, Plan

Shapes = Mapping[str, tuple[int, ...]]
_COUNTS = ("base_weights", "weights", "base_macs", "macs")
"""Of a layer, what is proportional to its outputs."""


def for_built(plan: "Plan", small: nn.Module) -> "Plan":
    """`recounted` for the network that ``small`` was built of: heads have the same outputs."""
    shapes = dict(plan.shapes)
    for name, shape in tensor_shapes(small).items():
        old = plan.shapes.get(name, ())
        axes = plan.tensors.get(name, old)
        if len(shape) == len(old):
            trios = zip(shape, old, axes, strict=True)
            shapes[name] = tuple(n if isinstance(axis, int) else o for n, o, axis in trios)
    return recounted(plan, small, shapes)


def recounted(plan: "Plan", model: nn.Module, shapes: Shapes) -> "Plan":
    """The plan with parameters and MACs recounted where a network's heads have other outputs.

    A head is a layer that makes the network's output, whose channels no plan changes. Every tensor
    that differs must be a head's, and differ along its output alone. Limits that are shares, of
    parameters and MACs, are those of the new totals; of other budgets nothing is known without
    planning anew, and they are left out. It is ``plan`` itself where nothing differs, or where
    something else does.

    Args:
        plan: made for the network with the outputs that it had.
        model: the network, or one that was built of it: which tensors are parameters.
        shapes: of every tensor in the network's state_dict.
    """
    outputs = _outputs(plan, shapes)
    if not outputs:
        return plan
    tensors = {
        n: _axes(axes, plan.shapes[n], shapes[n]) if n in shapes else axes
        for n, axes in plan.tensors.items()
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
    """A plan with other parameters and MACs, of the cropped network and of the original."""
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
    """The heads that differ, and how many outputs each has; none if something else differs."""
    if shapes.keys() != plan.shapes.keys():
        return {}
    different = {name for name in shapes if shapes[name] != plan.shapes[name]}
    found = {}
    for layer in plan.layers:
        own = {n for n in different if n == layer.weight or n.startswith(f"{layer.name}.")}
        kept = layer.group is not None or layer.frozen is not None or not layer.base_out
        if kept or layer.weight not in own:
            continue
        sizes = {_other_size(plan, name, shapes[name], layer.base_out) for name in own}
        new = sizes.pop()
        counts = [getattr(layer, name) for name in _COUNTS]
        if sizes or new is None or any(n * new % layer.base_out for n in counts):
            return {}
        found[layer.name] = new
        different -= own
    return {} if different else found


def _other_size(plan: "Plan", name: str, shape: Sequence[int], size: int) -> int | None:
    """The new size, if a tensor differs along one axis alone, which had ``size``."""
    old = plan.shapes[name]
    axes = [axis for axis, pair in enumerate(zip(old, shape, strict=False)) if len({*pair}) > 1]
    if len(old) != len(shape) or len(axes) != 1 or old[axes[0]] != size:
        return None
    planned = plan.tensors.get(name, old)[axes[0]]
    return shape[axes[0]] if planned == size else None


def _axes(axes: Sequence[Axis], old: Sequence[int], new: Sequence[int]) -> tuple[Axis, ...]:
    """A tensor's axes in the plan, with the size of the one that differs."""
    trios = zip(axes, old, new, strict=True)
    return tuple(axis if before == after else after for axis, before, after in trios)


def _entries(axes: Sequence[Axis]) -> int:
    return prod(map(built_size, axes))


def _budget(name: str, budget: "BudgetPlan", used: int, base: int) -> "BudgetPlan":
    """A budget of the new totals. A limit moves where it was a share of the old ones."""
    share = parse_budget(name, budget.asked, budget.base) != parse_budget(name, budget.asked, base)
    limit = parse_budget(name, budget.asked, base) if share else budget.limit
    return replace(budget, limit=limit, used=used, base=base)
