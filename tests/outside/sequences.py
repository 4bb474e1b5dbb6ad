"""Networks over sequences are cropped and then held against what PyTorch itself says of them."""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import precrop
from precrop.plans.plan import Plan
from precrop.read.inputs import Inputs
from tests.planning import counted_params


def run(model: nn.Module, shape: Any, batch: int) -> Any:
    """The output for random inputs."""
    args, kwargs = Inputs(shape).make(batch, model, "cpu")
    generator = torch.Generator().manual_seed(0)
    for tensor in (*args, *kwargs.values()):
        tensor.normal_(generator=generator)
    return model(*args, **kwargs)


def counted_macs(model: nn.Module, shape: Any) -> int:
    """MACs of an eval pass at batch 1, with layers that have fused kernels taken apart."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    with (
        torch.no_grad(),
        _without_fused_kernels(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        run(model, shape, 1)
    return int(counter.get_total_flops()) // 2


@contextmanager
def _without_fused_kernels() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a setting of GPUs
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.backends.mkldnn.flags(enabled=False):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def gradients(model: nn.Module, shape: Any) -> set[str]:
    """Names of the parameters that a training step reaches."""
    model = copy.deepcopy(model).train()
    outputs = [leaf for leaf in tree_leaves(run(model, shape, 3)) if leaf.requires_grad]
    torch.stack([leaf.square().sum() for leaf in outputs]).sum().backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def cropped(
    make: Callable[[], nn.Module], shape: Any, *, used: float = 0.9, **budgets: Any
) -> tuple[Plan, Any]:
    """Half of a network (or as ``budgets`` say), after everything that a built one promises."""
    torch.manual_seed(0)
    model = make()
    plan = precrop.plan(model, shape, divisor=1, **(budgets or {"params": 0.5, "macs": 0.5}))
    built = plan.build(model)
    assert counted_params(built) == plan.params
    assert counted_macs(built, shape) == plan.macs
    assert counted_macs(model, shape) == plan.base_macs
    shares = [budget.used / budget.limit for budget in plan.budgets.values()]
    assert used <= max(shares) <= 1
    for batch in (1, 3):
        expected = [leaf.shape for leaf in tree_leaves(run(model.eval(), shape, batch))]
        assert [leaf.shape for leaf in tree_leaves(run(built.eval(), shape, batch))] == expected
    assert gradients(built, shape) == gradients(model, shape)
    return plan, built
