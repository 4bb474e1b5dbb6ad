"""A network as the solver sees it: its independent widths, its layers and its costs.

Reading a network (``precrop.read``) ends here and choosing widths starts here; nothing in this
module knows of tensors or modules.

A *group* is one independent width. Its channels come in `units` equal portions, so every axis that
belongs to it has ``size * j / units`` channels when the group keeps ``j`` of its units. The log
ratio of a group is ``x = log(j / units)``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
T = TypeVar("T", int, float)


@dataclass(frozen=True)
class Group:
    """One independent width of a network.

    Attributes:
        name: the first layer that produces it, or the learnt table that does.
        width: channels of that layer or table in the original network.
        units: number of equal portions, of ``width // units`` channels each.
        grain: the largest number that divides one portion of every layer output in the group, so
            that ``j`` units are a multiple of ``d`` channels everywhere if ``j * grain % d == 0``.
        narrowest: channels of the narrowest layer output in the group, in the original network.
        most, least: bounds on its units, whatever the options say; ``most`` may be None.
    """

    name: str
    width: int
    units: int
    grain: int
    narrowest: int
    most: int | None = None
    least: int = 1


@dataclass(frozen=True)
class Cost:
    """A polynomial in the groups' units with positive integer coefficients.

    ``terms[(a, b)]`` is the coefficient of ``j_a * j_b`` (indices sorted, repeated for squares),
    ``terms[()]`` the constant.
    """

    terms: Mapping[tuple[int, ...], int]

    @property
    def parts(self) -> "tuple[Cost, ...]":
        """The polynomials whose maximum this is, as in `Peak`: itself alone."""
        return (self,)

    def __call__(self, units: Sequence[T]) -> T:
        """Return the cost when group ``g`` keeps ``units[g]`` units: exact for integers."""
        total: Any = 0
        for groups, coefficient in self.terms.items():
            product: Any = 1
            for group in groups:
                product *= units[group]
            total += coefficient * product
        return total  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Layer:
    """A layer with a weight tensor (convolution, transposed convolution, linear).

    ``inputs`` and ``outputs`` map a group's index to the share of the axis that it holds; the rest
    up to a total of 1 is fixed. Groups whose product an axis is, such as heads times their width,
    hold all of it each. The log density of the layer is ``sum(share * x[group])`` over both ends.
    With ``one_end`` these are one (depthwise, groups of kept width) and ``outputs`` is empty.

    Attributes:
        name: module path, such as ``layer1.0.conv1``.
        kind: ``conv``, ``depthwise``, ``grouped``, ``transposed``, ``linear``, ``matrix`` (linear
            with the weight as ``(in, out)``), ``experts`` (weights of several experts, used one
            at a time or in a batch), ``mixed`` (a sum of several experts' kernels) or ``bilinear``.
        weights: number of weights n_l. This, ``macs`` (multiply-accumulates m_l at batch 1) and
            the channels are those of the original network.
        width: its output channels, as a polynomial in the groups' units.
    """

    name: str
    kind: str
    weights: int
    macs: int
    in_channels: int
    out_channels: int
    width: Cost
    inputs: Mapping[int, float] = field(default_factory=dict)
    outputs: Mapping[int, float] = field(default_factory=dict)
    one_end: bool = False

    @property
    def varies(self) -> bool:
        """Whether the layer's density can change."""
        return bool(self.inputs or self.outputs)

    @property
    def produced(self) -> Mapping[int, float]:
        """The share of the layer's output that each group holds."""
        return self.inputs if self.one_end else self.outputs


@dataclass(frozen=True)
class Peak:
    """The maximum of several costs, such as the memory that is alive at each moment."""

    parts: tuple[Cost, ...]

    def __call__(self, units: Sequence[T]) -> T:
        """Return the cost when group ``g`` keeps ``units[g]`` units."""
        return max(part(units) for part in self.parts)


@dataclass(frozen=True)
class Structure:
    """Groups, layers and costs of one network.

    The costs are ``params`` and ``macs`` (at batch 1), and any others that were asked for.
    """

    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]
    costs: Mapping[str, Cost | Peak]

    @property
    def units(self) -> list[int]:
        """The units of every group in the original network."""
        return [group.units for group in self.groups]
