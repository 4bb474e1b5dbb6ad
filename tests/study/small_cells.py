"""Cells that are prepared and trained in a second."""

import dataclasses
from datetime import UTC, datetime
from typing import Any

from torch import nn

from precrop.model_spec import ModelSpec
from precrop.study.cells import Cell
from precrop.study.spec import Limits, StudyNetwork
from precrop.study.variants import Variant
from precrop.training.recipes import RECIPES

NET = "tests.training.small_runs:batch_net"


RECIPE = RECIPES["digits"].changed({"epochs": 1})


HALF = Limits(params=0.5, macs=0.5)


DENSE, PRECROP = Variant("dense"), Variant("PreCrop", "plan")


SYNFLOW = Variant("SynFlow", densities="synflow", mask="weight")


TIMES: dict[str, Any] = {
    "started": datetime(2026, 1, 1, tzinfo=UTC),
    "ended": datetime(2026, 1, 2, tzinfo=UTC),
    "device": "cpu",
}


OURS = StudyNetwork(ModelSpec(NET, {}), RECIPE)


def fixed_net(num_classes: int = 10) -> nn.Module:
    """With a filter bank that is not trained."""
    bank = nn.Conv2d(3, 32, 3, bias=False).requires_grad_(False)
    end = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes)
    return nn.Sequential(bank, nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), *end)


def cell(how: Variant = PRECROP, limits: Limits = HALF, **changes: Any) -> Cell:
    made = Cell("small", ModelSpec(NET, {}), how, limits, 0, RECIPE, "digits", "digits")
    return dataclasses.replace(made, **changes)
