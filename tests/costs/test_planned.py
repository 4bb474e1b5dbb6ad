"""Plans within latency and memory: what must hold for every network, as built and read afresh."""

import dataclasses
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import precrop
from precrop.costs.batches import follow
from precrop.costs.latency import latency
from precrop.costs.memory import memory
from precrop.costs.profiles import DeviceProfile, roofline
from precrop.costs.work import convolution_kind
from precrop.errors import BudgetError, PrecropError
from precrop.planning import Choice
from precrop.plans.plan import Plan
from precrop.read.inputs import Inputs
from precrop.read.lower import lower
from precrop.read.network import read_network
from tests.networks import SHAPE, Net, networks
from tests.planning import counted_macs, counted_params, planned

FAST = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

ORT = roofline(1e11, 1e10, launch=1e-8, step=4)
EAGER = roofline(1e11, 1e10, launch=1e-8, runtime="eager", step=8)

shares = st.sampled_from([0.3, 0.5, 0.7, 0.9, 0.99])


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """Budgets that hold latency or memory, and options of `precrop.plan`."""
    names = st.sampled_from(
        [
            ("latency",),
            ("memory",),
            ("latency", "memory"),
            ("params", "memory"),
            ("params", "macs", "latency", "memory"),
        ]
    )
    asked, divisor = draw(names), draw(st.sampled_from([1, 1, 2, "auto"]))
    timed = "latency" in asked or divisor == "auto"
    return {
        **{name: draw(shares) for name in asked},
        "batch_size": draw(st.sampled_from([1, 1, 3])),
        "device_profile": draw(st.sampled_from([ORT, EAGER])) if timed else None,
        "divisor": divisor,
        "expand": draw(st.booleans()),
        "groups": draw(st.sampled_from(["keep", "keep", "scale"])),
        "residual": draw(st.sampled_from(["tie", "tie", "crop"])),
    }


def read_afresh(model: nn.Module, shape: Any, profile: DeviceProfile, batch: int) -> dict[str, int]:
    """What a network costs as it is, from a reading of its own."""
    network, lives = follow(read_network(model, Inputs(shape)), batch)
    models = {"latency": latency(profile, lives), "memory": memory(lives)}
    structure = lower(network, models).structure
    return {name: cost(structure.units) for name, cost in structure.costs.items()}


def check_built(plan: Plan, built: nn.Module, shape: Any, request: dict[str, Any]) -> None:
    """Every budget says what the built network costs, which is within its limit."""
    profile, batch = request["device_profile"] or EAGER, request["batch_size"]
    costs = read_afresh(built, shape, profile, batch)
    assert (costs["params"], costs["macs"]) == (counted_params(built), counted_macs(built, shape))
    assert {name: budget.used for name, budget in plan.budgets.items()} == {
        name: costs[name] for name in plan.budgets
    }
    assert all(budget.used <= budget.limit for budget in plan.budgets.values())


def check_full(plan: Plan, choice: Choice) -> None:
    """No group alone could take one more step within all budgets that gains."""
    structure, problem = choice.structure, choice.solution.problem
    choices = problem.choices
    value = problem.value(np.log(np.array(choice.units) / choices.units))
    for index, group in enumerate(structure.groups):
        units = list(choice.units)
        units[index] = int(choices.next(np.array(units))[index])
        if units[index] > choice.units[index]:
            costs = {name: structure.costs[name](units) for name in plan.budgets}
            over = any(costs[name] > b.limit for name, b in plan.budgets.items())
            assert over or problem.value(np.log(np.array(units) / choices.units)) <= value + 1e-9, (
                group
            )


def gaps(plan: Plan, net: nn.Module) -> bool:
    """Whether a linear layer reads part of a stream: PyTorch runs that as several operations."""
    readers = [net.get_submodule(stream.path) for stream in plan.streams if stream.end == "read"]
    return any(isinstance(reader, nn.Linear) for reader in readers)


def kinds(net: nn.Module) -> list[str]:
    """Kinds of the convolutions: a plan counts with those at the original's widths."""
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    return [convolution_kind(layer.in_channels, layer.weight.shape) for layer in layers]


@FAST
@given(networks(), requests())
def test_random_networks(net: Net, request: dict[str, Any]) -> None:
    try:
        plan, choice = planned(net, SHAPE, **request)
    except BudgetError as error:
        assert "cannot be met" in str(error)
        return
    except PrecropError as error:
        assert "runs other code at this batch size" in str(error)
        return
    built = plan.build(net)
    if not gaps(plan, net) and kinds(built) == kinds(net):
        check_built(plan, built, SHAPE, request)
    check_full(plan, choice)
    assert Plan.from_json(plan.to_json()) == plan
    again = precrop.plan(net, SHAPE, **request)
    assert dataclasses.replace(again, seconds=plan.seconds) == plan
