"""One reading of a network serves many plans, each as if the network had been read for it alone."""

import copy
import dataclasses
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.models import resnet20


class Branches(nn.Module):
    """A residual sum, a grouped convolution, a width that code states, a module never called."""

    def __init__(self) -> None:
        super().__init__()
        self.part = 16
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.left = nn.Conv2d(16, 24, 3, padding=1)
        self.right = nn.Conv2d(16, 24, 1)
        self.head = nn.Linear(24, 10)
        self.never = nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = (x + self.grouped(x)).relu()
        first, second = x.split([self.part, self.part], 1)
        return self.head((self.left(first) + self.right(second)).mean((2, 3)))


OPTIONS: list[dict[str, Any]] = [
    {"params": 0.5, "macs": 0.5},
    {"macs": 0.4, "ignore": ["left"]},
    {"params": 0.6, "divisor": "auto"},
    {"memory": 0.7, "batch_size": 2},
    {"latency": 0.9},
    {"params": 1.0, "macs": 1.0, "expand": True, "balance": 3.0},
    {"params": 0.5, "rule": "uniform"},
    {"params": 0.5, "objective": "exact-output"},
    {"params": 0.5, "residual": "crop"},
    {"params": 0.5, "groups": "scale"},
    {"params": 0.5, "drop_unused": True},
    {"params": 0.5, "macs": 0.5},
]


def content(plan: precrop.Plan) -> precrop.Plan:
    return dataclasses.replace(plan, seconds=0.0)


def test_plans_of_a_reading_are_those_of_the_network() -> None:
    torch.manual_seed(0)
    model = Branches()
    reading = precrop.Reading(model, (3, 8, 8))
    for options in OPTIONS:
        alone = precrop.plan(model, (3, 8, 8), **options)
        assert content(precrop.plan(reading, **options)) == content(alone), options


def test_plans_of_a_residual_network_are_those_of_the_network() -> None:
    model = resnet20()
    reading = precrop.Reading(model, (3, 32, 32))
    for residual in ("tie", "crop", "tie", "crop"):
        alone = precrop.plan(model, (3, 32, 32), params=0.4, residual=residual)
        assert content(precrop.plan(reading, params=0.4, residual=residual)) == content(alone)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]
)
def test_a_reading_is_copied(copied: Callable[[precrop.Reading], precrop.Reading]) -> None:
    reading = precrop.Reading(Branches(), (3, 8, 8))
    plan = precrop.plan(reading, params=0.5)
    other = copied(reading)
    assert content(precrop.plan(other, params=0.5)) == content(plan)
    with torch.no_grad():
        other.model.get_parameter("stem.weight").fill_(1.0)
    shared = other.model is reading.model
    assert bool(reading.model.get_parameter("stem.weight").eq(1.0).all()) == shared


def test_threads_share_a_reading() -> None:
    model = Branches()
    reading = precrop.Reading(model, (3, 8, 8))
    shares = [0.3, 0.4, 0.5, 0.6] * 3
    with ThreadPoolExecutor(4) as pool:
        plans = list(pool.map(lambda share: precrop.plan(reading, params=share), shares))
    for share, plan in zip(shares, plans, strict=True):
        assert content(plan) == content(precrop.plan(model, (3, 8, 8), params=share))


def test_a_refused_budget_leaves_the_reading_as_it_was() -> None:
    model = Branches()
    reading = precrop.Reading(model, (3, 8, 8))
    with pytest.raises(precrop.BudgetError):
        precrop.plan(reading, params=0.001)
    alone = precrop.plan(model, (3, 8, 8), params=0.5)
    assert content(precrop.plan(reading, params=0.5)) == content(alone)


def test_a_reading_is_cropped_too() -> None:
    reading = precrop.Reading(Branches(), (3, 8, 8))
    small = precrop.crop(reading, params=0.5)
    plan = precrop.plan(reading, params=0.5)
    assert sum(parameter.numel() for parameter in small.parameters()) == plan.params


def test_a_reading_has_its_inputs() -> None:
    reading = precrop.Reading(Branches(), (3, 8, 8))
    with pytest.raises(precrop.PrecropError, match="has its inputs already"):
        precrop.plan(reading, (3, 8, 8), params=0.5)
    with pytest.raises(precrop.PrecropError, match="has its inputs already"):
        precrop.plan(reading, example_inputs=torch.zeros(1, 3, 8, 8), params=0.5)


def test_only_a_network_is_read() -> None:
    with pytest.raises(precrop.PrecropError, match="is a class"):
        precrop.Reading(Branches, (3, 8, 8))  # type: ignore[arg-type]
