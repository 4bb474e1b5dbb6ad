"""The public functions of the core: plan a crop, crop a network."""

import fnmatch
import math
import time
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from precrop import plugins
from precrop.costs.batches import follow
from precrop.costs.latency import latency as latency_model
from precrop.costs.layered import layered
from precrop.costs.machine import basis
from precrop.costs.memory import memory as memory_model
from precrop.costs.profiles import DeviceProfile, find_profile
from precrop.errors import BudgetError, PrecropError, check_kind
from precrop.fit.constraints import Constraints
from precrop.fit.fitting import changed_axes
from precrop.modules.apart import apart, uncollected
from precrop.modules.copying import tensor_shapes
from precrop.modules.names import layer_of, untrained
from precrop.planning import Choice, PlanRequest, choose
from precrop.plans.kinds import Init
from precrop.plans.layers import LayerPlan, layer_plan
from precrop.plans.multiples import no_multiples
from precrop.plans.plan import Plan
from precrop.read.axes import leaves
from precrop.read.inputs import LARGEST_BATCH
from precrop.read.lower import CostModel
from precrop.read.network import Network
from precrop.read.reading import Reading
from precrop.solve.budgets import UNITS, Budget, missing
from precrop.solve.program import BALANCE, EXPANSION
from precrop.strategies.keywords import BALANCED, chosen
from precrop.strategies.strategy import Strategy, solver_of
from precrop.strategies.uniform import beside_uniform, starved_classifier
from precrop.strategies.widths import Widths
from precrop.version import __version__


def crop(
    model: nn.Module | Reading,
    input_shape: Any = None,
    *,
    init: Init = "slice",
    **options: Any,
) -> nn.Module:
    """Plan and build in one step, and return the smaller network within the budgets.

    Args:
        model: the network, or a reading of it; it is not changed.
        input_shape: as in `plan`.
        init: as in `precrop.Plan.build`.
        options: options of `plan`.
    """
    network = model.model if isinstance(model, Reading) else model
    return plan(model, input_shape, **options).build(network, init)


@apart()
@uncollected
def plan(
    model: nn.Module | Reading,
    input_shape: Any = None,
    *,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    params: Budget | None = None,
    macs: Budget | None = None,
    latency: Budget | None = None,
    memory: Budget | None = None,
    costs: Mapping[str, Budget] | None = None,
    batch_size: int = 1,
    device_profile: DeviceProfile | str | Path | None = None,
    divisor: int | Literal["auto"] = "auto",
    min_width: int = 1,
    expand: bool = False,
    strategy: Strategy | None = None,
    balance: float = BALANCE,
    objective: str = "synexp",
    densities: Mapping[str, float] | None = None,
    widths: Mapping[str, int] | None = None,
    rule: str = BALANCED,
    residual: Literal["tie", "crop"] = "tie",
    ignore: Sequence[str] = (),
    groups: Literal["keep", "scale"] = "keep",
    drop_unused: bool = False,
) -> Plan:
    """Choose the width of every layer so that the network meets its budgets.

    The model is not changed. Neither data nor labels are used; weights are used only by
    ``objective="exact"`` and ``"exact-output"``.

    Args:
        model: any network whose forward runs in PyTorch; or, for several plans of one network, a
            `precrop.Reading`, which has its inputs already.
        input_shape: shape of one input without the batch, such as ``(3, 224, 224)``; a list or a
            dict of shapes for several inputs. Tensors here count as ``example_inputs``.
        example_inputs: what the network takes, instead of a shape: a tensor, with the batch axis if
            there is one; a tuple of arguments; a mapping, by name where ``forward`` has such names.
            Lists, numbers, flags and token ids are passed as they are. MACs are those of one input.
        example_kwargs: further arguments by name, likewise.
        params: budget for all parameters: a share (``0.5``), a number (``2_500_000``) or a string
            (``"50%"``, ``"2.5M"``).
        macs: budget for multiply-accumulates at batch 1, likewise.
        latency: budget for the time of one pass as ``device_profile`` predicts it: a share, or a
            string such as ``"8ms"``.
        memory: budget for the bytes of all activations that are alive at once in inference: a
            share, a number of bytes or a string such as ``"64MB"``.
        costs: budgets for costs of your own (`precrop.cost`), by name: shares or whole numbers.
        batch_size: inputs in one pass, for ``latency`` and ``memory``.
        device_profile: the device whose latency counts: a file that ``precrop profile`` wrote, or
            ``cpu`` or ``cuda`` for a roofline without measurements (``cpu`` if None).
        divisor: every layer's output channels are a multiple of it, or as many as in the original.
            ``auto`` suits hardware: it takes the profile's step and halves it until the budgets are
            met and 98% of the scarcest is used; a layer too narrow for it follows the largest half
            that leaves it a choice. 1 allows every width; ``auto`` takes it where given widths, or
            given densities without a budget, leave nothing to choose.
        min_width: no layer gets narrower than this.
        expand: let layers get wider than the original (PreConfig).
        strategy: how widths are found: `precrop.SynExp` (the default), `Uniform`, `Match`,
            `TwoStep`, `Exact`, `Widths`, or one of your own. The next five keywords are short
            forms of these and exclude it.
        balance: weight of the balance term of `SynExp`, `Exact` and `Match`.
        objective: objective of `SynExp`, or of `Exact` (``exact``, ``exact-output``).
        densities: ``{layer name: density}`` for `Match`, or for `TwoStep` if there is a rule.
        widths: ``{layer name: output channels}`` for `Widths`; budgets are only checked.
        rule: ``balanced``; ``uniform`` for `Uniform`; or a rule of `TwoStep`.
        residual: ``tie`` gives all layers at a residual stream one width; ``crop`` each its own, by
            narrowing what it reads and padding what it writes with zero channels.
        ignore: patterns (``layer4.*``) of layers, or of embeddings, that keep their output width.
        groups: ``keep`` the number of groups of grouped convolutions, or ``scale`` it so that every
            group keeps its width.
        drop_unused: leave out modules that no pass calls; ``plan.left_out`` names them.

    Raises:
        BudgetError: a budget makes no sense or cannot be met; the message gives the least that can.
        PrecropError: the network fails on this input, or an option is unknown or matches nothing.
    """
    start = time.perf_counter()
    plugins.load()
    costs = {} if costs is None else costs
    check_kind("costs", costs, Mapping, "a dict of budgets by the name of a cost")
    for name in costs:
        if name in UNITS:
            raise PrecropError(f"{name} is not a cost of your own: write {name}= instead of costs=")
    for name, word, words in (
        ("groups", groups, ("keep", "scale")),
        ("residual", residual, ("tie", "crop")),
    ):
        if word not in words:
            raise PrecropError(f"{name}={word!r} is unknown: write {words[0]!r} or {words[1]!r}")
    expand, divisor, min_width, balance = map(_of_python, (expand, divisor, min_width, balance))
    strategy = chosen(strategy, objective, balance, densities, rule, widths)
    for name, flag in (("expand", expand), ("drop_unused", drop_unused)):
        check_kind(name, flag, (bool, np.bool_), "True or False")
    check_kind("ignore", ignore, (str, Sequence, Set), "a pattern, or a list of patterns")
    patterns = [ignore] if isinstance(ignore, str) else list(ignore)
    if isinstance(divisor, str) and divisor != "auto":
        raise PrecropError(f"divisor={divisor!r} is unknown: write a number of channels, or 'auto'")
    profile = find_profile(device_profile)
    reading = _reading(model, input_shape, example_inputs, example_kwargs)
    model = reading.model
    asked = {"params": params, "macs": macs, "latency": latency, "memory": memory, **costs}
    budgets = {name: _of_python(one) for name, one in asked.items() if one is not None}
    settled = isinstance(strategy, Widths) or not (budgets or strategy.budgeted)
    divisors = _divisors(divisor, profile, settled)
    cap = EXPANSION if expand else 1.0
    options = {"min_width": min_width, "cap": cap, "balance": strategy.balance}
    _check_used(budgets, batch_size, device_profile is not None, divisor)

    def found(own_widths: bool) -> Choice:
        network = reading.network(
            scale_groups=groups == "scale",
            own_widths=own_widths,
            fold=latency is None and memory is None and not strategy.follows_every_call,
            drop_unused=drop_unused,
        )
        constraints = Constraints(kept=_ignored(network, patterns))
        solver = solver_of(strategy, network)
        network, models = _cost_models(network, budgets, profile, batch_size)
        if not budgets and strategy.budgeted:
            raise missing()
        return choose(network, PlanRequest(budgets, models, options, solver, divisors), constraints)

    if residual == "tie" or settled:
        choice = found(own_widths=residual == "crop")
    else:
        choice = _with_own_widths_or_tied(found)
    network, totals, units = choice.lowered.network, choice.structure.costs, choice.units
    frozen = network.frozen()
    return Plan(
        network=f"{type(model).__module__}:{type(model).__qualname__}",
        source=None,
        input_shape=network.inputs.spec,
        budgets=choice.budgets,
        params=totals["params"](units),
        macs=totals["macs"](units),
        base_params=totals["params"](choice.structure.units) + network.left_out_params,
        base_macs=totals["macs"](choice.structure.units),
        layers=_layer_plans(choice, frozen),
        frozen={**network.notes, **frozen},
        options={
            "divisor": choice.solution.problem.choices.divisor,
            **({"divisor_asked": "auto"} if len(divisors) > 1 else {}),
            "min_width": min_width,
            "expand": expand,
            "balance": strategy.balance,
            **strategy.record(),
            "residual": residual,
            "ignore": patterns,
            "groups": groups,
            **({"drop_unused": True} if drop_unused else {}),
            **_deployment(budgets, profile, batch_size),
        },
        shapes=tensor_shapes(model),
        tensors=changed_axes(choice.fit),
        streams=network.tracer.streams,
        attributes=tuple(choice.fit.edits),
        solver=_solver_report(choice),
        versions={"precrop": __version__, "torch": torch.__version__},
        seconds=round(time.perf_counter() - start, 4),
        followers=network.unused.followers,
        left_out=network.left_out,
    )


def _with_own_widths_or_tied(found: Callable[[bool], Choice]) -> Choice:
    """Give layers at residual streams widths of their own, or tied ones if only these fit.

    Tied ones may be cheaper: untied, a layer that reads a stream beside other channels reads all of
    it. Where neither fits, the error names the lower of the least budgets.
    """
    try:
        return found(True)
    except BudgetError as error:
        own = error
    try:
        return found(False)
    except BudgetError as tied:
        raise min(own, tied, key=lambda error: error.least or math.inf) from None


def _divisors(asked: int | Literal["auto"], profile: DeviceProfile, settled: bool) -> list[int]:
    """Return the divisors to try in turn, each a multiple of the next.

    For ``auto`` these are the profile's step, its half and so on down to 1, or 1 alone if settled.
    """
    if asked != "auto":
        return [asked]
    found = [1 if settled else profile.step]
    while found[-1] > 1:
        found.append(1 if found[-1] % 2 else found[-1] // 2)
    return found


def _of_python(value: Any) -> Any:
    """Convert a NumPy scalar to a Python number, which a plan file can hold."""
    return value.item() if isinstance(value, np.generic) else value


def _reading(
    model: nn.Module | Reading,
    input_shape: Any,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None,
) -> Reading:
    """Return the reading that was given, or a new one of the network and its inputs."""
    examples = {"example_inputs": example_inputs, "example_kwargs": example_kwargs}
    if not isinstance(model, Reading):
        return Reading(model, input_shape, **examples)
    if any(given is not None for given in (input_shape, *examples.values())):
        raise PrecropError("a reading has its inputs already: drop input_shape= and examples")
    return model


def _check_used(
    budgets: Mapping[str, Budget], batch_size: int, profiled: bool, divisor: int | str
) -> None:
    """Refuse a batch size that makes no sense, and options that no budget would use."""
    if type(batch_size) is not int or not 1 <= batch_size <= LARGEST_BATCH:
        raise PrecropError(
            f"batch_size={batch_size!r} makes no sense: write a number from 1 to {LARGEST_BATCH:,}"
        )
    if batch_size > 1 and not {"latency", "memory"} & budgets.keys():
        raise PrecropError(
            f"batch_size={batch_size} is for budgets of latency and memory: give one, or drop it"
        )
    if profiled and "latency" not in budgets and divisor != "auto":
        raise PrecropError(
            "the device profile is for latency= and divisor='auto': give one of them, or drop it"
        )


def _cost_models(
    network: Network, budgets: Mapping[str, Budget], profile: DeviceProfile, batch_size: int
) -> tuple[Network, dict[str, CostModel]]:
    """Return the models of budgeted costs (but parameters and MACs), and the network to count."""
    models = {name: layered(name) for name in budgets if name not in UNITS}
    if not {"latency", "memory"} & budgets.keys():
        return network, models
    network, lives = follow(network, batch_size)
    timed = {"latency": latency_model(profile, lives), "memory": memory_model(lives)}
    return network, models | {name: model for name, model in timed.items() if name in budgets}


def _deployment(
    budgets: Mapping[str, Budget], profile: DeviceProfile, batch_size: int
) -> dict[str, Any]:
    """Return what budgets of latency and memory refer to, for the plan's options."""
    found: dict[str, Any] = {}
    if {"latency", "memory"} & budgets.keys():
        found["batch_size"] = batch_size
    if "latency" in budgets:
        names = {"name": profile.name, "device": profile.device, "runtime": profile.runtime}
        found["device_profile"] = {**names, "digest": profile.digest, "basis": basis(profile)}
    return found


def _ignored(network: Network, patterns: Sequence[str]) -> dict[str, str]:
    """Return why widths are kept, by their name in `Network.named_widths`; patterns must match."""
    names = list(dict.fromkeys(name for name, _ in network.named_widths))
    kept: dict[str, str] = {}
    for pattern in patterns:
        matching = fnmatch.filter(names, str(pattern))
        if not matching:
            hint = f"layers are named like {', '.join(names[:3])}"
            if fnmatch.filter(names, f"{pattern}.*"):
                hint = f"for the layers in it write '{pattern}.*'"
            raise PrecropError(f"ignore pattern {pattern!r} matches no layer; {hint}")
        kept = dict.fromkeys(matching, f"ignored by {pattern!r}") | kept
    return kept


def _layer_plans(choice: Choice, frozen: Mapping[str, str]) -> tuple[LayerPlan, ...]:
    network = choice.lowered.network
    groups = [group.name for group in choice.structure.groups]
    names = dict(zip(choice.lowered.ties, groups, strict=True))
    plans = []
    for layer in network.layers:
        owners = [names.get(s[0].tie.root()) for s in leaves(layer.outputs) if s[0]]
        plans.append(
            layer_plan(
                network,
                layer,
                choice.sizes,
                group=next((name for name in owners if name), None),
                frozen=None if network.varies(layer.outputs) else frozen.get(layer.name),
                target=choice.solution.targets.get(layer.name),
            )
        )
    return tuple(plans)


def _tables(choice: Choice) -> dict[str, list[int]]:
    """Return the learnt tables that no layer makes and whose width changed, with both widths."""
    layers = {layer.name for layer in choice.structure.layers}
    return {
        group.name: [group.width, group.width * kept // group.units]
        for group, kept in zip(choice.structure.groups, choice.units, strict=True)
        if group.name not in layers and kept != group.units
    }


def _cropped_untrained(choice: Choice) -> list[str]:
    """Return the layers of cropped weights that require no gradient, so no training adapts them."""
    fixed = untrained(choice.lowered.network.model)
    cropped = (name for name, axes in choice.fit.tensors.items() if len(axes) > 1)
    return [layer_of(name) or name for name in cropped if name in fixed]


def _solver_report(choice: Choice) -> dict[str, Any]:
    structure, solution, allocation = choice.structure, choice.solution, choice.solution.allocation
    ratios = np.log(np.array(choice.units, float) / np.array(structure.units, float))
    found = {
        "uniform": beside_uniform(solution.problem, ratios),
        "starved": starved_classifier(solution.problem, ratios),
        "lookalikes": list(choice.fit.lookalikes),
        "tables": _tables(choice),
        "untrained": _cropped_untrained(choice),
        "no_multiples": no_multiples(structure, solution.problem.choices, np.array(choice.units)),
    }
    return {
        "status": allocation.status,
        "iterations": allocation.iterations,
        "objective": solution.value(allocation.log_ratios),
        "rounded": solution.value(ratios),
        "at_cap": [structure.groups[group].name for group in allocation.at_cap],
        **solution.report,
        **{name: report for name, report in found.items() if report},
    }
