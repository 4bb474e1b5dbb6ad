"""Finds the layers whose widths are not a multiple of the divisor, and why."""

from precrop.solve.choices import Choices, has_choice
from precrop.solve.structure import Integers, Layer, Structure

REASONS = {
    "fixed": "the network's output, or frozen",
    "narrow": "too narrow",
    "tied": "tied or in groups that leave no narrower multiple",
    "whole": "as wide as in the original",
    "parts": "the sum of several widths",
}
"""The reasons in words, by the names that plans store.

``tied`` are widths that are wide enough but change only in larger steps, because of a grouped
convolution or a reshape.
"""


def uneven_layers(structure: Structure, choices: Choices, units: Integers) -> list[Layer]:
    """Return the layers whose width is neither a multiple of the divisor nor the original one.

    The width of each group is one of the two, but a layer with several groups may mix both.
    """
    found = []
    for layer in structure.layers if choices.divisor > 1 else ():
        width = layer.width(units.tolist())
        # Of two divisors the smaller divides the larger.
        if width != layer.out_channels and width % min(choices.divisors[[*layer.produced]]):
            found.append(layer)
    return found


def no_multiples(structure: Structure, choices: Choices, units: Integers) -> dict[str, list[str]]:
    """Return by reason the layers whose output channels are not a multiple of the divisor."""
    found: dict[str, list[str]] = {}
    for layer in structure.layers:
        width = layer.width(units.tolist())
        if width % choices.divisor:
            reason = _reason(structure, choices, layer, kept=width == layer.out_channels)
            found.setdefault(reason, []).append(layer.name)
    return found


def _reason(structure: Structure, choices: Choices, layer: Layer, *, kept: bool) -> str:
    owners = [structure.groups[group] for group in layer.produced]
    if not owners:
        return "fixed"
    stuck = [group for group in owners if not has_choice(group, choices.divisor)]
    if stuck:
        return "narrow" if any(group.narrowest <= choices.divisor for group in stuck) else "tied"
    return "whole" if kept else "parts"
