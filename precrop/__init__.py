"""Crop any convolutional network to a budget of parameters and MACs, before training.

Names are imported when first used, so that ``import precrop`` itself loads next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from precrop.version import __version__ as __version__

if TYPE_CHECKING:
    from precrop.api import crop as crop
    from precrop.api import plan as plan
    from precrop.costs.layered import cost as cost
    from precrop.counting import count as count
    from precrop.errors import BudgetError as BudgetError
    from precrop.errors import PlanError as PlanError
    from precrop.errors import PrecropError as PrecropError
    from precrop.linear.expected import expected_output as expected_output
    from precrop.linear.expected import synexp as synexp
    from precrop.linear.operations import op as op
    from precrop.plans.comparison import compare as compare
    from precrop.plans.plan import Plan as Plan
    from precrop.pretrained import from_pretrained as from_pretrained
    from precrop.pretrained import push_to_hub as push_to_hub
    from precrop.pretrained import save_pretrained as save_pretrained
    from precrop.pruning.api import densities as densities
    from precrop.pruning.api import scores as scores
    from precrop.pruning.masking import apply_masks as apply_masks
    from precrop.pruning.masking import masks as masks
    from precrop.pruning.methods import method as method
    from precrop.pruning.problem import LayerCollapseWarning as LayerCollapseWarning
    from precrop.pruning.problem import MaskSizeWarning as MaskSizeWarning
    from precrop.read.reading import Reading as Reading
    from precrop.strategies.exact import Exact as Exact
    from precrop.strategies.match import Match as Match
    from precrop.strategies.objectives import objective as objective
    from precrop.strategies.strategy import Strategy as Strategy
    from precrop.strategies.synexp import SynExp as SynExp
    from precrop.strategies.two_step import TwoStep as TwoStep
    from precrop.strategies.uniform import Uniform as Uniform
    from precrop.strategies.widths import Widths as Widths
    from precrop.trained.channels import SlicedChannelsWarning as SlicedChannelsWarning
    from precrop.trained.statistics import recalibrate as recalibrate

_EXPORTS = {
    "api": "crop plan",
    "costs.layered": "cost",
    "counting": "count",
    "errors": "BudgetError PlanError PrecropError",
    "linear.expected": "expected_output synexp",
    "linear.operations": "op",
    "plans.comparison": "compare",
    "plans.plan": "Plan",
    "pretrained": "from_pretrained push_to_hub save_pretrained",
    "pruning.api": "densities scores",
    "pruning.masking": "apply_masks masks",
    "pruning.methods": "method",
    "pruning.problem": "LayerCollapseWarning MaskSizeWarning",
    "read.reading": "Reading",
    "strategies.exact": "Exact",
    "strategies.match": "Match",
    "strategies.objectives": "objective",
    "strategies.strategy": "Strategy",
    "strategies.synexp": "SynExp",
    "strategies.two_step": "TwoStep",
    "strategies.uniform": "Uniform",
    "strategies.widths": "Widths",
    "trained.channels": "SlicedChannelsWarning",
    "trained.statistics": "recalibrate",
}
"""Public names by the modules that define them."""

_HOMES = {name: f"precrop.{module}" for module, names in _EXPORTS.items() for name in names.split()}
__all__ = sorted(_HOMES)


if not TYPE_CHECKING:  # a type checker that sees a __getattr__ accepts any name

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
