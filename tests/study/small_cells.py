"""Cells that are prepared and trained in a second."""

import dataclasses
from datetime import UTC, datetime
from typing import Any

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


def cell(how: Variant = PRECROP, limits: Limits = HALF, **changes: Any) -> Cell:
    made = Cell("small", ModelSpec(NET, {}), how, limits, 0, RECIPE, "digits", "digits")
    return dataclasses.replace(made, **changes)
