"""Plans with what they were chosen from, and costs as others count them."""

from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import precrop
from precrop.planning import Choice, choose
from precrop.plans.plan import Plan
from precrop.read.tracer import skeleton


def planned(model: nn.Module, shape: Any, **options: Any) -> tuple[Plan, Choice]:
    """`precrop.plan`, and what it chose among which widths."""
    seen: list[Choice] = []

    def watched(*args: Any) -> Choice:
        seen.append(choose(*args))
        return seen[-1]

    with mock.patch("precrop.api.choose", watched):
        plan = precrop.plan(model, shape, **options)
    return plan, seen[-1]


def counted_params(model: nn.Module) -> int:
    """Parameters as anyone counts them."""
    return sum(parameter.numel() for parameter in model.parameters())


def counted_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """MACs of an eval pass at batch 1 by PyTorch's own counter, on meta tensors."""
    empty = skeleton(model).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        empty(torch.empty(1, *shape, device="meta"))
    return int(counter.get_total_flops()) // 2


def total(outputs: Any) -> torch.Tensor:
    """One number that depends on every output."""
    return sum(leaf.square().mean() for leaf in tree_leaves(outputs))
