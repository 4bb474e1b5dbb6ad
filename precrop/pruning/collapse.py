"""Layer collapse: all weights of a layer are removed (Tanaka et al. 2020, 2006.05467)."""

from collections.abc import Mapping

from torch import Tensor


class LayerCollapseWarning(UserWarning):
    """A method leaves no weight in some layer, or a mask leaves nothing of it."""


def collapsed_masks(masks: Mapping[str, Tensor]) -> list[str]:
    """Names of the masks that keep nothing."""
    return [name for name, mask in masks.items() if not mask.any()]
