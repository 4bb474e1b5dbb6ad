"""Crops a network as a user does and holds the result against what PyTorch itself says of it."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import precrop
from precrop.plans.plan import Plan


def cropped(
    model: nn.Module, shape: tuple[int, ...], movable: Iterable[str] = (), **options: Any
) -> tuple[Plan, Any]:
    """The plan and what it builds: exact costs, budgets kept, runs as the original, trains.

    Every layer in ``movable`` must have a width that the plan may change. By default both budgets
    are a half, and at least 95% of the tighter one must be used.
    """
    options = options or {"params": 0.5, "macs": 0.5}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan = precrop.plan(model, shape, **{"divisor": 1, **options})
    built = plan.build(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert sum(parameter.numel() for parameter in built.parameters()) == plan.params
    assert counted(model, shape) == plan.base_macs
    assert counted(built, shape) == plan.macs
    uses = [budget.used / budget.limit for budget in plan.budgets.values()]
    assert 0.95 <= max(uses) <= 1
    layers = {layer.name: layer for layer in plan.layers}
    assert {name: layers[name].frozen for name in movable} == dict.fromkeys(movable)
    assert all(layers[name].group is not None for name in movable)
    x = torch.randn(3, *shape)
    with torch.no_grad():
        results = [outputs(net.eval(), x) for net in (model, built)]
    assert [r.shape for r in results[0]] == [r.shape for r in results[1]]
    assert all(torch.isfinite(result).all() for result in results[1])
    sum(result.square().mean() for result in outputs(built.train(), x)).backward()  # type: ignore[union-attr]
    assert any(parameter.grad is not None for parameter in built.parameters())
    built.zero_grad()
    return plan, built


def outputs(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The tensors that a network puts out."""
    return [leaf for leaf in tree_leaves(model(x)) if isinstance(leaf, torch.Tensor)]


def counted(model: nn.Module, shape: tuple[int, ...]) -> int:
    """MACs of an eval pass at batch 1 by PyTorch's own counter."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.ones(1, *shape))
    return int(counter.get_total_flops()) // 2
