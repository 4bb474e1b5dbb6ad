"""The public functions: plan a crop, crop a network."""

import fnmatch
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from precrop.allocate import Allocation, allocate
from precrop.budgets import Budget, parse_budgets
from precrop.errors import PrecropError
from precrop.fit.fitting import Fit, Fitter, Mismatch
from precrop.plans import BudgetPlan, LayerPlan, Plan
from precrop.program import BALANCE, program
from precrop.read.axes import Axis, Tie, axis_size, resolve, tie
from precrop.read.inputs import Inputs
from precrop.read.network import Network, Sizes
from precrop.rounding import round_units
from precrop.structure import Structure
from precrop import __version__

# A network that still differs from its prediction after this many plans is not understood at all.
MAX_ATTEMPTS = 50
CUTS = ("slice", "split_with_sizes", "split", "unsafe_split")


def crop(model: nn.Module, input_shape: Any, **options: Any) -> nn.Module:
    """Plan and build in one: a smaller network within the budgets. Options are those of `plan`."""
    init = options.pop("init", "slice")
    return plan(model, input_shape, **options).build(model, init)


def plan(
    model: nn.Module,
    input_shape: Any,
    *,
    params: Budget | None = None,
    macs: Budget | None = None,
    divisor: int = 1,
    min_width: int = 1,
    expand: bool = False,
    balance: float = BALANCE,
    ignore: Sequence[str] = (),
    groups: Literal["keep", "scale"] = "keep",
    source: Mapping[str, Any] | None = None,
) -> Plan:
    """Choose the width of every layer so that the network meets its budgets.

    The input model is only looked at. No weight, no data and no label is used.

    Args:
        model: any network whose forward runs in PyTorch.
        input_shape: shape of one input without the batch, such as ``(3, 224, 224)``; a list or a
            dict of shapes for several inputs.
        params: budget for all parameters: a share (``0.5``), a number (``2_500_000``) or a string
            (``"50%"``, ``"2.5M"``).
        macs: budget for multiply-accumulates at batch 1, likewise.
        divisor: layers' channels are multiples of it where the original is wide enough.
        min_width: no layer gets narrower than this.
        expand: let layers get wider than the original (PreConfig).
        balance: weight of the balance term, gamma in docs/method.md.
        ignore: patterns (``layer4.*``) of layers that keep their output width.
        groups: ``keep`` the number of groups of grouped convolutions, or ``scale`` it so that every
            group keeps its width.
        source: how the model can be made again by name; written to the plan for `precrop build`.

    Raises:
        BudgetError: a budget is senseless or cannot be met; the message says the least that can.
        PrecropError: the network fails on this input, or an option names nothing.
    """
    start = time.perf_counter()
    if groups not in ("keep", "scale"):
        raise PrecropError(f"groups={groups!r} is unknown: write 'keep' or 'scale'")
    network = Network(model, Inputs(input_shape), scale_groups=groups == "scale")
    _ignore(network, ignore)
    asked = {"params": params, "macs": macs}
    options = {"divisor": divisor, "min_width": min_width, "expand": expand, "balance": balance}
    fitter = Fitter(network)
    for _ in range(MAX_ATTEMPTS):
        structure, ties = network.structure()
        bases = {name: cost(structure.units) for name, cost in structure.costs.items()}
        limits = parse_budgets(asked, bases)
        problem = program(structure, limits, **options)  # type: ignore[arg-type]
        allocation = allocate(problem)
        units = [int(n) for n in round_units(problem, allocation.log_ratios)]
        sizes = network.sizes(ties, units)
        fit = fitter.fit(sizes)
        if fit.mismatch is None:
            break
        _hold(network, fitter, fit.mismatch)
    else:
        raise PrecropError(f"the network was not understood: {fit.mismatch}")
    budgets = {
        name: BudgetPlan(
            asked[name],
            limit,
            structure.costs[name](units),
            bases[name],
            allocation.multipliers.get(name, 0.0),
        )
        for name, limit in limits.items()
    }
    return Plan(
        network=f"{type(model).__module__}:{type(model).__qualname__}",
        source=source,
        input_shape=network.inputs.spec,
        budgets=budgets,
        params=structure.costs["params"](units),
        macs=structure.costs["macs"](units),
        base_params=bases["params"],
        base_macs=bases["macs"],
        layers=_layer_plans(network, structure, ties, sizes),
        frozen={**network.notes, **network.frozen()},
        options={**options, "ignore": list(ignore), "groups": groups},
        shapes={name: tuple(t.shape) for name, t in model.state_dict().items()},
        tensors=_plan_tensors(fit),
        attributes=tuple(fit.edits),
        solver=_solver(allocation, problem.value, structure, units),
        versions={"precrop": __version__, "torch": torch.__version__},
        seconds=round(time.perf_counter() - start, 4),
    )


def _ignore(network: Network, patterns: Sequence[str]) -> None:
    if isinstance(patterns, str):
        patterns = [patterns]
    names = [layer.name for layer in network.layers]
    for pattern in patterns:
        matching = set(fnmatch.filter(names, pattern))
        if not matching:
            raise PrecropError(
                f"ignore pattern {pattern!r} matches no layer; layers are named like "
                + ", ".join(names[:3])
            )
        network.keep_width(matching.__contains__, f"ignored by {pattern!r}")


def _hold(network: Network, fitter: Fitter, mismatch: Mismatch) -> None:
    """Tie, or else freeze, what meets at the call that differs, wherever that code runs."""
    site = fitter.site(mismatch.forward, mismatch.index)
    reason = f"{site.op} in {site.kind.__name__ if site.kind else 'the network'} keeps its sizes"
    held = False
    for forward in network.passes:
        for index in range(len(forward.readings)):
            if fitter.site(forward, index) == site:
                held |= network.freeze(_axes_at(network, forward, index), reason)
    if held:
        return
    # Nothing varies at the call itself: give up on the nearest call before it where something does.
    for index in range(min(mismatch.index, len(mismatch.forward.readings) - 1), -1, -1):
        if network.freeze(_axes_at(network, mismatch.forward, index), reason):
            return
    raise PrecropError(f"the network's forward passes differ from each other: {mismatch.message}")


def _axes_at(network: Network, forward: Any, index: int) -> list[Axis]:
    reading = forward.readings[index]
    axes = list(reading.literals.values()) or [a for axes in reading.outputs for a in axes]
    return [axis for axis in axes if network.varies(axis)]


def _layer_plans(
    network: Network, structure: Structure, ties: Sequence[Tie], sizes: Sizes
) -> tuple[LayerPlan, ...]:
    names = {tie: group.name for tie, group in zip(ties, structure.groups, strict=True)}
    frozen = network.frozen()
    plans = []
    for reading, layer in zip(network.layers, structure.layers, strict=True):
        weights = 1
        for axis in network.reader.tensors[reading.weight]:
            weights *= sizes.size(axis)
        macs = 0
        for product in reading.macs:
            count = product.coefficient
            for axis in product.axes:
                count *= sizes.size(axis)
            macs += count
        owners = [names.get(s[0].tie.root()) for s in resolve(reading.outputs) if s[0]]
        plans.append(
            LayerPlan(
                layer.name, reading.weight, layer.kind, layer.in_channels, layer.out_channels,
                sizes.size(reading.inputs), sizes.size(reading.outputs),
                layer.weights, weights, layer.macs, macs,
                next((name for name in owners if name), None), frozen.get(layer.name),
            )
        )  # fmt: skip
    return tuple(plans)


def _plan_tensors(fit: Fit) -> dict[str, Any]:
    return {
        name: tuple(
            sum(old for old, _ in row) if all(o == n for o, n in row) else tuple(row)
            for row in rows
        )
        for name, rows in fit.tensors.items()
    }


def _solver(allocation: Allocation, value: Any, structure: Structure, units: Sequence[int]) -> dict[str, Any]:
    import numpy as np

    ratios = np.log(np.array(units) / np.array(structure.units)) if units else np.zeros(0)
    return {
        "status": allocation.status,
        "iterations": allocation.iterations,
        "objective": allocation.objective,
        "rounded": value(ratios) if len(ratios) else 0.0,
        "at_cap": [structure.groups[i].name for i in allocation.at_cap],
    }


__all__ = ["axis_size", "crop", "plan", "tie"]
