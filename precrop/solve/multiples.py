"""Which layers have no multiple of the divisor, and why."""

from collections.abc import Iterable

from precrop.solve.program import Choices, Integers, kept_share, produced
from precrop.solve.steps import has_choice
from precrop.solve.structure import Layer, Structure

FIXED, NARROW, TIED, WHOLE, PARTS = "fixed", "narrow", "tied", "whole", "parts"
"""Reasons, as plans name them.

The width is the network's own end or frozen; it is too narrow for a multiple below it; it is wide
enough, but cut in portions (groups of a convolution, a reshape) that leave no such multiple; it was
better kept as it was; it is the sum of several widths.
"""


def no_multiples(structure: Structure, choices: Choices, units: Integers) -> dict[str, list[str]]:
    """Per reason the layers whose output channels are no multiple of the divisor."""
    ratios = units / choices.units
    found: dict[str, list[str]] = {}
    for layer in structure.layers:
        width = round(layer.out_channels * kept_share(produced(layer), ratios))
        if width % choices.divisor:
            reason = _reason(structure, choices, layer, kept=width == layer.out_channels)
            found.setdefault(reason, []).append(layer.name)
    return found


def _reason(structure: Structure, choices: Choices, layer: Layer, *, kept: bool) -> str:
    owners = [structure.groups[group] for group in produced(layer)]
    if not owners:
        return FIXED
    stuck = [group for group in owners if not has_choice(group, choices.divisor)]
    if stuck:
        narrow: Iterable[bool] = (group.narrowest <= choices.divisor for group in stuck)
        return NARROW if any(narrow) else TIED
    return WHOLE if kept else PARTS
