"""What the rest of the package knows of a network: its independent widths, its layers, its costs.

Reading a network (``precrop.read``) ends here and choosing widths starts here; nothing in this
module knows of tensors or modules.

A *group* is one independent width. Its channels come in `units` equal portions, so every axis that
belongs to it has ``size * j / units`` channels when the group keeps ``j`` of its units. The log
ratio of a group is ``x = log(j / units)``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

INPUT_AXES = {
    "transposed": (0,),
    "matrix": (0,),
    "mixed": (2,),
    "experts": (2,),
    "bilinear": (1, 2),
}
"""By a layer's kind, the axes of its weight that it sums over; axis 1 of others."""


@dataclass(frozen=True)
class Group:
    """One independent width of a network.

    Attributes:
        name: the first layer that produces it.
        width: channels of that layer in the original network.
        units: portions that the width can be cut into; ``width // units`` channels each.
        grain: the largest number that divides one portion of every layer output in the group, so
            that ``j`` units are a multiple of ``d`` channels everywhere if ``j * grain % d == 0``.
        narrowest: channels of the narrowest layer output in the group, in the original network.
        most: units that it may keep at most, whatever the options say; None is no bound.
    """

    name: str
    width: int
    units: int
    grain: int
    narrowest: int
    most: int | None = None


@dataclass(frozen=True)
class Layer:
    """A layer with a weight tensor (convolution, transposed convolution, linear).

    ``inputs`` and ``outputs`` map a group's index to the share of the axis that it holds; what is
    missing from a total of 1 is fixed. The log density of the layer is
    ``sum(share * x[group])`` over both. A depthwise layer has no ``outputs``: its two ends are one.

    Attributes:
        name: module path, such as ``layer1.0.conv1``.
        kind: ``conv``, ``depthwise``, ``grouped``, ``transposed``, ``linear``, ``matrix`` (the same
            with the weight as ``(in, out)``), ``experts`` (the weights of several, one at a time
            or in a batch), ``mixed`` (kernels summed of several experts') or ``bilinear``.
        weights: number of weights n_l in the original network.
        macs: multiply-accumulates m_l at batch 1 in the original network.
        in_channels: input channels of the original layer.
        out_channels: output channels of the original layer.
    """

    name: str
    kind: str
    weights: int
    macs: int
    in_channels: int
    out_channels: int
    inputs: Mapping[int, float] = field(default_factory=dict)
    outputs: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """An integer polynomial with positive coefficients in the groups' units.

    ``terms[(a, b)]`` is the coefficient of ``j_a * j_b`` (indices sorted, repeated for squares),
    ``terms[()]`` the constant.
    """

    terms: Mapping[tuple[int, ...], int]

    def __call__(self, units: Sequence[int]) -> int:
        """The exact cost when group ``g`` keeps ``units[g]`` units."""
        total = 0
        for groups, coefficient in self.terms.items():
            for group in groups:
                coefficient *= int(units[group])
            total += coefficient
        return total

    def continuous(self, units: Sequence[float]) -> float:
        """The cost at units that need not be whole."""
        return float(sum(c * prod(units[group] for group in key) for key, c in self.terms.items()))


@dataclass(frozen=True)
class Peak:
    """The largest of several costs, such as the memory that is alive at each moment."""

    parts: tuple[Cost, ...]

    def __call__(self, units: Sequence[int]) -> int:
        """The exact cost when group ``g`` keeps ``units[g]`` units."""
        return max(part(units) for part in self.parts)

    def continuous(self, units: Sequence[float]) -> float:
        """The cost at units that need not be whole."""
        return max(part.continuous(units) for part in self.parts)


def parts(cost: Cost | Peak) -> tuple[Cost, ...]:
    """The polynomials of which the cost is the largest."""
    return cost.parts if isinstance(cost, Peak) else (cost,)


@dataclass(frozen=True)
class Structure:
    """Groups, layers and costs of one network.

    ``params`` and ``macs`` (at batch 1) are always among the costs; what else was asked for is too.
    """

    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]
    costs: Mapping[str, Cost | Peak]

    @property
    def units(self) -> list[int]:
        """The units of every group in the original network."""
        return [group.units for group in self.groups]
