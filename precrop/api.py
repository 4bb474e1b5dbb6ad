"""The public functions: plan a crop, crop a network, layer densities."""

import fnmatch
import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from precrop import __version__
from precrop.allocate import Allocation, allocate
from precrop.budgets import Budget, parse_budgets
from precrop.copying import tensor_shapes
from precrop.errors import BudgetError, PrecropError
from precrop.fit.fitting import Fit, Fitter
from precrop.fit.holding import Holds
from precrop.layerwise import METHODS
from precrop.plans import BudgetPlan, LayerPlan, Plan
from precrop.program import BALANCE, Choices, Program, program
from precrop.read.axes import Tie, resolve
from precrop.read.inputs import Inputs
from precrop.read.network import Network, Sizes
from precrop.read.reader import Product
from precrop.rounding import round_units
from precrop.structure import Structure

# A network that still differs from its prediction after this many plans is not understood at all.
MAX_ATTEMPTS = 200


def crop(
    model: nn.Module,
    input_shape: Any,
    *,
    init: Literal["slice", "reset"] = "slice",
    **options: Any,
) -> nn.Module:
    """Plan and build in one: a smaller network within the budgets.

    Args:
        model: the network; it stays as it was.
        input_shape: as in `plan`.
        init: as in `precrop.Plan.build`.
        options: those of `plan`.
    """
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

    Raises:
        BudgetError: a budget is senseless or cannot be met; the message says the least that can.
        PrecropError: the network fails on this input, or an option names nothing.
    """
    start = time.perf_counter()
    if groups not in ("keep", "scale"):
        raise PrecropError(f"groups={groups!r} is unknown: write 'keep' or 'scale'")
    patterns = [ignore] if isinstance(ignore, str) else list(ignore)
    options = {"divisor": divisor, "min_width": min_width, "expand": expand, "balance": balance}
    with _without_collection():
        network = Network(model, Inputs(input_shape), scale_groups=groups == "scale")
        _ignore(network, patterns)
        choice = _choose(network, {"params": params, "macs": macs}, options)
    costs, units = choice.structure.costs, choice.units
    return Plan(
        network=f"{type(model).__module__}:{type(model).__qualname__}",
        source=None,
        input_shape=network.inputs.spec,
        budgets=choice.budgets,
        params=costs["params"](units),
        macs=costs["macs"](units),
        base_params=costs["params"](choice.structure.units),
        base_macs=costs["macs"](choice.structure.units),
        layers=_layer_plans(network, choice),
        frozen={**network.notes, **network.frozen()},
        options={**options, "ignore": patterns, "groups": groups},
        shapes=tensor_shapes(model),
        tensors=_changed_tensors(choice.fit),
        attributes=tuple(choice.fit.edits),
        solver=_solver_report(choice),
        versions={"precrop": __version__, "torch": torch.__version__},
        seconds=round(time.perf_counter() - start, 4),
    )


def densities(
    model: nn.Module,
    input_shape: Any,
    *,
    method: str = "synexp",
    params: Budget | None = None,
    macs: Budget | None = None,
) -> dict[str, float]:
    """The share of every layer's weights that remains, were layers independent of each other.

    Budgets count the prunable weights (convolutions and linear layers), not biases or norms.

    Args:
        model: the network; it is only looked at.
        input_shape: as in `plan`.
        method: a name in `precrop.layerwise.METHODS`.
        params: budget for the prunable weights.
        macs: budget for their multiply-accumulates at batch 1.

    Returns:
        ``{layer name: density}`` with densities in (0, 1], in the order of execution.

    Raises:
        BudgetError: a budget is senseless.
        PrecropError: the method is unknown, or the network has no prunable layer.
    """
    if method not in METHODS:
        raise PrecropError(f"method {method!r} is unknown: choose from {', '.join(METHODS)}")
    structure, _ = Network(model, Inputs(input_shape)).structure()
    if not structure.layers:
        raise PrecropError("the network has no prunable layer: no convolution and no linear layer")
    bases = {
        "params": sum(layer.weights for layer in structure.layers),
        "macs": sum(layer.macs for layer in structure.layers),
    }
    return METHODS[method](structure, parse_budgets({"params": params, "macs": macs}, bases))


@dataclass(frozen=True)
class Choice:
    """Widths that were chosen, how, and what makes a network have them."""

    structure: Structure
    ties: Sequence[Tie]
    units: list[int]
    sizes: Sizes
    fit: Fit
    problem: Program
    allocation: Allocation
    budgets: dict[str, BudgetPlan]


@contextmanager
def _without_collection() -> Iterator[None]:
    """Pause garbage collection: passes over all of PyTorch's objects would take half the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _ignore(network: Network, patterns: Sequence[str]) -> None:
    names = [layer.name for layer in network.layers]
    for pattern in patterns:
        matching = set(fnmatch.filter(names, pattern))
        if not matching:
            raise PrecropError(
                f"ignore pattern {pattern!r} matches no layer; layers are named like "
                + ", ".join(names[:3])
            )
        network.keep_width(matching, f"ignored by {pattern!r}")


def _choose(
    network: Network, asked: Mapping[str, Budget | None], options: Mapping[str, Any]
) -> Choice:
    """Allocate, round and fit; where the fitted network is not as predicted, hold and repeat."""
    fitter = Fitter(network)
    holds = Holds(network, fitter)
    message = ""
    for _ in range(MAX_ATTEMPTS):
        structure, ties = network.structure()
        limits = parse_budgets(
            asked, {name: cost(structure.units) for name, cost in structure.costs.items()}
        )
        try:
            problem = program(structure, limits, **options)
        except BudgetError:
            # The least that the message names must be possible: try the narrowest network.
            choices = Choices.of(structure.groups, options["divisor"], options["min_width"])
            fit = fitter.fit(network.sizes(ties, choices.lower.tolist()))
            if fit.mismatch is None:
                raise
            holds.hold(fit.mismatch)
            continue
        allocation = allocate(problem)
        rounded = round_units(problem, allocation.log_ratios, allocation.multipliers)
        units = [int(n) for n in rounded]
        sizes = network.sizes(ties, units)
        fit = fitter.fit(sizes)
        if fit.mismatch is None:
            budgets = _budgets(structure, units, asked, limits, allocation)
            return Choice(structure, ties, units, sizes, fit, problem, allocation, budgets)
        message = fit.mismatch.message
        holds.hold(fit.mismatch)
    raise PrecropError(f"the network could not be cropped: {message}")


def _budgets(
    structure: Structure,
    units: Sequence[int],
    asked: Mapping[str, Budget | None],
    limits: Mapping[str, int],
    allocation: Allocation,
) -> dict[str, BudgetPlan]:
    budgets = {}
    for name, limit in limits.items():
        cost, request = structure.costs[name], asked[name]
        assert request is not None
        used, base = cost(units), cost(structure.units)
        budgets[name] = BudgetPlan(request, limit, used, base, allocation.multipliers[name])
    return budgets


def _layer_plans(network: Network, choice: Choice) -> tuple[LayerPlan, ...]:
    groups = zip(choice.ties, choice.structure.groups, strict=True)
    names = {tie: group.name for tie, group in groups}
    frozen, sizes = network.frozen(), choice.sizes
    plans = []
    for reading, layer in zip(network.layers, choice.structure.layers, strict=True):
        owners = [names.get(s[0].tie.root()) for s in resolve(reading.outputs) if s[0]]
        plans.append(
            LayerPlan(
                name=layer.name,
                weight=reading.weight,
                kind=layer.kind,
                base_in=layer.in_channels,
                base_out=layer.out_channels,
                in_channels=sizes.size(reading.inputs),
                out_channels=sizes.size(reading.outputs),
                base_weights=layer.weights,
                weights=sizes.product(Product(1, list(network.reader.tensors[reading.weight]))),
                base_macs=layer.macs,
                macs=sum(map(sizes.product, reading.macs)),
                group=next((name for name in owners if name), None),
                frozen=frozen.get(layer.name),
            )
        )
    return tuple(plans)


def _changed_tensors(fit: Fit) -> dict[str, Any]:
    """Axes of the tensors that change, as a plan states them: a size, or segments."""
    return {
        name: tuple(
            sum(old for old, _ in row) if all(old == new for old, new in row) else tuple(row)
            for row in rows
        )
        for name, rows in fit.tensors.items()
    }


def _solver_report(choice: Choice) -> dict[str, Any]:
    structure, allocation = choice.structure, choice.allocation
    ratios = np.log(np.array(choice.units, float) / np.array(structure.units, float))
    return {
        "status": allocation.status,
        "iterations": allocation.iterations,
        "objective": allocation.objective,
        "rounded": choice.problem.value(ratios),
        "at_cap": [structure.groups[group].name for group in allocation.at_cap],
    }
