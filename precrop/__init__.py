"""Crop any convolutional network to a budget of parameters and MACs, before training.

Names are imported when first used, so that ``import precrop`` costs nothing beyond this file.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precrop.api import crop, plan
    from precrop.errors import BudgetError, PlanError, PrecropError
    from precrop.flow.expected import expected_output, synexp
    from precrop.pai.api import densities, scores
    from precrop.pai.collapse import LayerCollapseWarning
    from precrop.pai.masking import apply_masks, masks
    from precrop.plans import Plan
    from precrop.trained.channels import SlicedChannelsWarning
    from precrop.trained.statistics import recalibrate
    from precrop.views import compare

__version__ = "0.1.0"

__all__ = [
    "BudgetError",
    "LayerCollapseWarning",
    "Plan",
    "PlanError",
    "PrecropError",
    "SlicedChannelsWarning",
    "apply_masks",
    "compare",
    "crop",
    "densities",
    "expected_output",
    "masks",
    "plan",
    "recalibrate",
    "scores",
    "synexp",
]

_HOMES = {
    "BudgetError": "precrop.errors",
    "LayerCollapseWarning": "precrop.pai.collapse",
    "Plan": "precrop.plans",
    "PlanError": "precrop.errors",
    "PrecropError": "precrop.errors",
    "SlicedChannelsWarning": "precrop.trained.channels",
    "apply_masks": "precrop.pai.masking",
    "compare": "precrop.views",
    "crop": "precrop.api",
    "densities": "precrop.pai.api",
    "expected_output": "precrop.flow.expected",
    "masks": "precrop.pai.masking",
    "plan": "precrop.api",
    "recalibrate": "precrop.trained.statistics",
    "scores": "precrop.pai.api",
    "synexp": "precrop.flow.expected",
}


if not TYPE_CHECKING:  # a type checker takes any name for known where it sees a __getattr__

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
