"""What a way to widths is asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from precrop.solve.budgets import Budget

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class VariantRequest:
    """What a way needs to know.

    Attributes:
        model: with its initial weights; it is only looked at.
        input_shape: of one image.
        budgets: by cost, as written in the study.
        options: of the way.
        densities: by layer name, where widths should come close to some.
        seed: of every random choice.
    """

    model: "nn.Module"
    input_shape: tuple[int, ...]
    budgets: Mapping[str, Budget]
    options: Mapping[str, Any]
    densities: Mapping[str, float] | None = None
    seed: int = 0
