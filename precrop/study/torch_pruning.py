"""Torch-Pruning at initialization, fitted to a study's budgets.

Torch-Pruning (https://github.com/VainF/Torch-Pruning) takes a pruning ratio, not a budget. The
smallest ratio that meets every budget is found by bisection, and the widths that it gives become a
plan, so that these networks are built and trained like all others.
"""

import copy
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import precrop
from precrop.errors import BudgetError, PrecropError, needs, suggestion
from precrop.own import calling_own
from precrop.read.inputs import Inputs
from precrop.read.lower import lower
from precrop.read.network import read_network
from precrop.solve.budgets import parse_budgets

if TYPE_CHECKING:
    from precrop.plans.plan import Plan
    from precrop.study.variants import VariantRequest

RATIO_STEP = 0.001
"""The precision of the ratio."""
IMPORTANCES: dict[str, Callable[[Any], Any]] = {
    "random": lambda tp: tp.importance.RandomImportance(),
    "magnitude": lambda tp: tp.importance.GroupMagnitudeImportance(p=2),
}
"""How channels are ranked, by name; without ``global_pruning`` widths do not depend on it."""


def plan(request: "VariantRequest") -> "Plan":
    """Return the plan of the largest network that Torch-Pruning's ratio gives within all budgets.

    The options are ``importance``, a name in `IMPORTANCES`, ``global_pruning`` and ``round_to``.

    Raises:
        BudgetError: no ratio meets the budgets.
        PrecropError: Torch-Pruning is not installed, fails on the network, or makes one whose
            layers don't fit together.
    """
    structure = lower(read_network(request.model, Inputs(request.input_shape))).structure
    bases = {name: cost(structure.units) for name, cost in structure.costs.items()}
    limits = parse_budgets(request.budgets, bases)
    # A depthwise layer's output is its input's width, so it has no entry of its own.
    kept = [x.name for x in structure.layers if not x.outputs and not x.one_end]
    best = largest_within(limits, request, kept)
    if best is None:
        budgets = ", ".join(f"{name}={budget!r}" for name, budget in request.budgets.items())
        raise BudgetError(f"{budgets} cannot be met by Torch-Pruning, at any ratio")
    return precrop.plan(
        request.model,
        request.input_shape,
        params=request.budgets.get("params"),
        macs=request.budgets.get("macs"),
        widths=widths_of(best, {layer.name for layer in structure.layers}),
    )


def largest_within(
    limits: Mapping[str, int], request: "VariantRequest", kept: Collection[str]
) -> nn.Module | None:
    """Return the network of the smallest ratio that meets all limits, by cost, or None."""
    best, low, high = None, 0.0, 1.0
    while high - low > RATIO_STEP:
        ratio = (low + high) / 2
        found = pruned(request, ratio, kept)
        costs = precrop.count(found, request.input_shape).costs
        if all(costs[name] <= limit for name, limit in limits.items()):
            best, high = found, ratio
        else:
            low = ratio
    return best


def pruned(request: "VariantRequest", ratio: float, kept: Collection[str]) -> nn.Module:
    """Return a copy of the network, pruned by Torch-Pruning; layers in ``kept`` stay whole."""
    tp = _library()
    importance = request.options.get("importance", "random")
    if importance not in IMPORTANCES:
        words = suggestion(importance, IMPORTANCES)
        raise PrecropError(f"importance {importance!r} is unknown; {words}")
    model = copy.deepcopy(request.model).eval()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(request.seed)
        with calling_own("Torch-Pruning fails on the network"):
            pruner = tp.pruner.MetaPruner(
                model,
                torch.ones(1, *request.input_shape),
                importance=IMPORTANCES[importance](tp),
                global_pruning=request.options.get("global_pruning", False),
                pruning_ratio=ratio,
                round_to=request.options.get("round_to"),
                ignored_layers=[model.get_submodule(name) for name in kept],
                # Its defaults are dictionaries that all pruners of a process share.
                in_channel_groups={},
                out_channel_groups={},
                num_heads={},
            )
            pruner.step()
    return model


def _library() -> Any:
    with needs("such a variant needs", "torch-pruning==1.6.1"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_pruning
    return torch_pruning


def widths_of(model: nn.Module, names: Collection[str]) -> dict[str, int]:
    """Return the output channels of the convolutions and linear layers among ``names``."""
    found = {}
    for name, module in model.named_modules():
        width = getattr(module, "out_channels", getattr(module, "out_features", None))
        if name in names and isinstance(width, int):
            found[name] = width
    return found
