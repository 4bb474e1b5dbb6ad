"""Crop any convolutional network to a budget of parameters and MACs, before training.

Names are imported when first used, so that ``import precrop`` costs nothing beyond this file.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precrop.api import crop, densities, plan
    from precrop.errors import BudgetError, PlanError, PrecropError
    from precrop.plans import Plan

__version__ = "0.1.0"

__all__ = [
    "BudgetError",
    "Plan",
    "PlanError",
    "PrecropError",
    "crop",
    "densities",
    "plan",
]

_HOMES = {
    "BudgetError": "precrop.errors",
    "Plan": "precrop.plans",
    "PlanError": "precrop.errors",
    "PrecropError": "precrop.errors",
    "crop": "precrop.api",
    "densities": "precrop.api",
    "plan": "precrop.api",
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
