"""What is measured of a network of the matrix, and the checks that the measurements must pass."""

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from precrop.plans.plan import Plan
from precrop.read.tracer import skeleton
from precrop.zoo import load_model
from tests.matrix.networks import Entry
from tests.planning import counted_macs, counted_params, planned

SHARE = 0.5
"""The budget of parameters and the budget of MACs."""

BINDING = 0.97
"""The least share of the binding budget that a convolutional network must use."""

MOST_FROZEN = 0.05
"""The largest share of a convolutional network's parameters in layers of kept width."""

LEAST_MLPS = 0.9
"""The least share of an attention network's MLPs that become narrower; cheap ones needn't."""


@dataclass
class Measurement:
    """What came out for one network; plain values, so that it can be kept as a line of JSON.

    Attributes:
        name: of the network.
        plan_error: why no plan was made, or ``""``.
        build_error: why the plan could not be built or counted, or ``""``.
        run_error: why the built network doesn't run forward and backward, or ``""``.
        groups: independent widths.
        params: share of the parameters that remains, and ``macs`` of the MACs.
        exact_params: whether the plan's parameters, before and after, are what anyone counts.
        exact_macs: the same of MACs; None where they can't be counted.
        frozen: share of the parameters in layers that keep their width.
        reasons: why layers keep their width: the first layer and the number of them per reason.
        hidden: hidden layers of MLPs, and ``cropped`` how many of them became narrower.
        seconds: that the plan took.
    """

    name: str
    plan_error: str = ""
    build_error: str = ""
    run_error: str = ""
    groups: int = 0
    params: float = 0.0
    macs: float = 0.0
    exact_params: bool = False
    exact_macs: bool | None = None
    frozen: float = 0.0
    reasons: dict[str, tuple[str, int]] = field(default_factory=dict)
    hidden: int = 0
    cropped: int = 0
    seconds: float = 0.0

    def to_json(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self))


Check = Callable[[Entry, Measurement], bool]

CHECKS: dict[str, Check] = {
    "planned": lambda entry, found: not found.plan_error,
    "built": lambda entry, found: not found.build_error,
    "runs": lambda entry, found: not found.run_error,
    "params exact": lambda entry, found: found.exact_params,
    "MACs exact": lambda entry, found: found.exact_macs is not False,
    "within budgets": lambda entry, found: max(found.params, found.macs) <= SHARE,
    "budget used": lambda entry, found: (
        entry.kind == "attention" or max(found.params, found.macs) >= BINDING * SHARE
    ),
    "little frozen": lambda entry, found: entry.kind == "attention" or found.frozen <= MOST_FROZEN,
    "groups": lambda entry, found: found.groups == entry.groups,
    "MLPs cropped": lambda entry, found: (
        entry.kind == "convolutional" or found.cropped >= max(1, LEAST_MLPS * found.hidden)
    ),
}
"""Checks by name, in order. A network's shortfalls are those that it fails."""


def failed(entry: Entry, found: Measurement) -> list[str]:
    """Names of the checks that a network fails; without a plan there is nothing else to check."""
    if found.plan_error:
        return ["planned"]
    return [name for name, check in CHECKS.items() if not check(entry, found)]


def measure(entry: Entry, *, run: bool = True) -> Measurement:
    """Plan at half the parameters and half the MACs, build, count; with ``run`` also run it."""
    torch.manual_seed(0)
    found = Measurement(entry.name)
    model = load_model(entry.name, {})
    try:
        plan, choice = planned(model, entry.shape, params=SHARE, macs=SHARE, divisor=1)
    except Exception as error:  # a traceback is a shortfall too
        found.plan_error = one_line(error)
        return found
    found.groups = len(choice.structure.groups)
    describe(found, plan)
    _count_mlps(found, plan, entry.hidden)
    try:
        small = plan.build(model)
        _count(found, entry, plan, model, small)
    except Exception as error:
        found.build_error = one_line(error)
        return found
    if run:
        try:
            _run(small, model, entry)
        except Exception as error:
            found.run_error = one_line(error)
    return found


def describe(found: Measurement, plan: Plan) -> None:
    """Enter what a plan says of itself."""
    found.params = plan.params / plan.base_params
    found.macs = plan.macs / plan.base_macs
    found.seconds = plan.seconds
    kept = [layer for layer in plan.layers if layer.frozen]
    found.frozen = sum(layer.base_weights for layer in kept) / plan.base_params
    for layer in kept:
        first, count = found.reasons.get(str(layer.frozen), (layer.name, 0))
        found.reasons[str(layer.frozen)] = (first, count + 1)


def _count_mlps(found: Measurement, plan: Plan, pattern: str) -> None:
    hidden = [layer for layer in plan.layers if re.search(pattern, layer.name)]
    found.hidden = len(hidden)
    found.cropped = sum(layer.out_channels < layer.base_out for layer in hidden)


def _count(
    found: Measurement, entry: Entry, plan: Plan, model: nn.Module, small: nn.Module
) -> None:
    counts = counted_params(model), counted_params(small)
    found.exact_params = counts == (plan.base_params, plan.params)
    if not entry.detector:
        macs = _macs(model, entry.shape), _macs(small, entry.shape)
        found.exact_macs = macs == (plan.base_macs, plan.macs)


def _macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """MACs by PyTorch's counter. It trips over parameters that want gradients as arguments."""
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operation that the counter doesn't know
    try:
        return counted_macs(skeleton(model).requires_grad_(False), shape)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)


def _run(small: nn.Module, model: nn.Module, entry: Entry) -> None:
    """Forward in eval mode, forward and backward in train mode, on random real tensors.

    A detector trains on boxes that nobody has here; its backbone stands for it. An untrained
    network may overflow in eval mode, where nothing is normalised yet (ResNet-1202 does); then so
    may the cropped one.

    Raises:
        ArithmeticError: something isn't finite.
    """
    image = torch.rand(1, *entry.run_shape)
    with torch.no_grad():
        if not is_finite(_loss(small.eval()(image))) and is_finite(_loss(model.eval()(image))):
            raise ArithmeticError("an output isn't finite in eval mode")
    trained: Any = small.backbone if entry.detector else small
    loss = _loss(trained.train()(torch.rand(2, *entry.run_shape)))
    loss.backward()
    gradients = [p.grad for p in trained.parameters() if p.grad is not None]
    if not gradients:
        raise ArithmeticError("no parameter has a gradient")
    if not all(map(is_finite, [loss, *gradients])):
        raise ArithmeticError("an output or a gradient isn't finite in train mode")


def is_finite(tensor: Tensor) -> bool:
    """Whether every entry is."""
    return bool(tensor.isfinite().all())


def _loss(outputs: Any) -> Tensor:
    """The sum of the means of all floating outputs."""
    leaves = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
    means = [leaf.mean() for leaf in leaves if leaf.is_floating_point() and leaf.numel()]
    return torch.stack(means).sum() if means else torch.zeros(())


def one_line(error: Exception) -> str:
    """An error as it is noted in the table."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]
