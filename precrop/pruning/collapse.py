"""Layer collapse: all weights of a layer are removed (Tanaka et al. 2020, 2006.05467)."""

from collections.abc import Mapping

from torch import Tensor


class LayerCollapseWarning(UserWarning):
    """A method or a mask removes all weights of some layer."""


def collapsed_masks(masks: Mapping[str, Tensor]) -> list[str]:
    """Names of the masks that remove everything."""
    return [name for name, mask in masks.items() if not mask.any()]
