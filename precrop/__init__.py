"""Crop any convolutional network to a budget of parameters and MACs, before training.

Names are imported when first used, so that ``import precrop`` costs nothing beyond this file.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from precrop.version import __version__ as __version__

if TYPE_CHECKING:
    from precrop.api import crop, plan
    from precrop.costs.layered import cost
    from precrop.counting import count
    from precrop.errors import BudgetError, PlanError, PrecropError
    from precrop.linear.expected import expected_output, synexp
    from precrop.linear.operations import op
    from precrop.plans.comparison import compare
    from precrop.plans.plan import Plan
    from precrop.pretrained import from_pretrained, push_to_hub, save_pretrained
    from precrop.pruning.api import densities, scores
    from precrop.pruning.masking import apply_masks, masks
    from precrop.pruning.methods import method
    from precrop.pruning.problem import LayerCollapseWarning
    from precrop.read.reading import Reading
    from precrop.strategies.exact import Exact
    from precrop.strategies.match import Match
    from precrop.strategies.objectives import objective
    from precrop.strategies.strategy import Strategy
    from precrop.strategies.synexp import SynExp
    from precrop.strategies.two_step import TwoStep
    from precrop.strategies.uniform import Uniform
    from precrop.strategies.widths import Widths
    from precrop.trained.channels import SlicedChannelsWarning
    from precrop.trained.statistics import recalibrate

__all__ = [
    "BudgetError",
    "Exact",
    "LayerCollapseWarning",
    "Match",
    "Plan",
    "PlanError",
    "PrecropError",
    "Reading",
    "SlicedChannelsWarning",
    "Strategy",
    "SynExp",
    "TwoStep",
    "Uniform",
    "Widths",
    "apply_masks",
    "compare",
    "cost",
    "count",
    "crop",
    "densities",
    "expected_output",
    "from_pretrained",
    "masks",
    "method",
    "objective",
    "op",
    "plan",
    "push_to_hub",
    "recalibrate",
    "save_pretrained",
    "scores",
    "synexp",
]

_HOMES = {
    "BudgetError": "precrop.errors",
    "Exact": "precrop.strategies.exact",
    "LayerCollapseWarning": "precrop.pruning.problem",
    "Match": "precrop.strategies.match",
    "Plan": "precrop.plans.plan",
    "PlanError": "precrop.errors",
    "PrecropError": "precrop.errors",
    "Reading": "precrop.read.reading",
    "SlicedChannelsWarning": "precrop.trained.channels",
    "Strategy": "precrop.strategies.strategy",
    "SynExp": "precrop.strategies.synexp",
    "TwoStep": "precrop.strategies.two_step",
    "Uniform": "precrop.strategies.uniform",
    "Widths": "precrop.strategies.widths",
    "apply_masks": "precrop.pruning.masking",
    "compare": "precrop.plans.comparison",
    "cost": "precrop.costs.layered",
    "count": "precrop.counting",
    "crop": "precrop.api",
    "densities": "precrop.pruning.api",
    "expected_output": "precrop.linear.expected",
    "from_pretrained": "precrop.pretrained",
    "masks": "precrop.pruning.masking",
    "method": "precrop.pruning.methods",
    "objective": "precrop.strategies.objectives",
    "op": "precrop.linear.operations",
    "plan": "precrop.api",
    "push_to_hub": "precrop.pretrained",
    "recalibrate": "precrop.trained.statistics",
    "save_pretrained": "precrop.pretrained",
    "scores": "precrop.pruning.api",
    "synexp": "precrop.linear.expected",
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
