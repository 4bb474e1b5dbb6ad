"""Small networks written out as `Structure`, for tests that need no tensors."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from precrop.solve.structure import Cost, Group, Layer, Peak, Structure

Axis = tuple[int, ...]
"""A tensor's channel axis: the groups that follow one another on it; empty for a fixed axis."""


@dataclass
class Network:
    """Collects groups, layers and costs; `structure` hands them out."""

    groups: list[Group] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    params: Counter[tuple[int, ...]] = field(default_factory=Counter)
    macs: Counter[tuple[int, ...]] = field(default_factory=Counter)

    def group(self, width: int, portion: int = 1) -> int:
        """A new independent width whose units are ``portion`` channels each."""
        name = f"layer{len(self.layers)}"
        self.groups.append(Group(name, width, width // portion, portion, width))
        return len(self.groups) - 1

    def parts(self, axis: Axis, fixed: int) -> list[tuple[Axis, int]]:
        """What an axis adds up from: ``(group,)`` with the channels of a unit, or a fixed size."""
        if fixed:
            return [((), fixed)]
        sizes = [(group, self.groups[group]) for group in axis]
        return [((index,), group.width // group.units) for index, group in sizes]

    def width(self, axis: Axis, fixed: int = 0) -> int:
        """Channels of an axis in the original network."""
        return fixed or sum(self.groups[group].width for group in axis)

    def conv(
        self,
        inputs: Axis,
        outputs: Axis,
        *,
        taps: int = 9,
        pixels: int = 64,
        fixed_in: int = 0,
        fixed_out: int = 0,
        norm: bool = True,
        bias: bool = False,
        kind: str = "conv",
    ) -> None:
        """A convolution of ``taps`` weights a channel pair on ``pixels`` positions.

        ``fixed_in`` and ``fixed_out`` are the sizes of ends that belong to no group. ``norm`` adds
        two parameters an output channel, ``bias`` one.
        """
        for target, size in self.parts(outputs, fixed_out):
            self.params[target] += (2 * norm + bias) * size
            for source, extent in self.parts(inputs, fixed_in):
                key = tuple(sorted(source + target))
                self.params[key] += taps * size * extent
                self.macs[key] += taps * pixels * size * extent
        wide, high = self.width(inputs, fixed_in), self.width(outputs, fixed_out)
        self._layer(kind, taps * wide * high, pixels, wide, high, inputs, outputs)

    def depthwise(self, axis: Axis, *, taps: int = 9, pixels: int = 64) -> None:
        """A depthwise convolution with norm; its two ends are one."""
        for key, size in self.parts(axis, 0):
            self.params[key] += (taps + 2) * size
            self.macs[key] += taps * pixels * size
        width = self.width(axis)
        self._layer("depthwise", taps * width, pixels, width, width, axis, ())

    def grouped(self, inputs: int, outputs: int, count: int, *, pixels: int = 64) -> None:
        """A 3x3 convolution in ``count`` groups, which divides the portions of both ends."""
        ((source, extent),), ((target, size),) = self.parts((inputs,), 0), self.parts((outputs,), 0)
        key = tuple(sorted(source + target))
        self.params[key] += 9 * extent * size // count
        self.macs[key] += 9 * extent * size // count * pixels
        wide, high = self.width((inputs,)), self.width((outputs,))
        weights = 9 * wide * high // count
        self._layer("grouped", weights, pixels, wide, high, (inputs,), (outputs,))

    def _layer(
        self,
        kind: str,
        weights: int,
        pixels: int,
        wide: int,
        high: int,
        inputs: Axis,
        outputs: Axis,
    ) -> None:
        name = f"layer{len(self.layers)}"
        shares = self._shares(inputs), self._shares(outputs)
        one_end = kind == "depthwise"
        made, width = inputs if one_end else outputs, Counter[Axis]()
        for part, size in self.parts(made, 0 if made else high):
            width[part] += size
        ends = wide, high, Cost(width)
        layer = Layer(name, kind, weights, weights * pixels, *ends, *shares, one_end)
        self.layers.append(layer)

    def _shares(self, axis: Axis) -> Mapping[int, float]:
        total = self.width(axis)
        shares: Counter[int] = Counter()
        for group in axis:
            shares[group] += self.groups[group].width
        return {group: width / total for group, width in shares.items()}

    def structure(self) -> Structure:
        """What was collected so far."""
        costs = {"params": Cost(+self.params), "macs": Cost(+self.macs)}
        return Structure(tuple(self.groups), tuple(self.layers), costs)


def chain(widths: list[int], classes: int = 10, pixels: list[int] | None = None) -> Structure:
    """3x3 convolutions one after another with norms, then a linear layer."""
    network = Network()
    ends = [network.group(width) for width in widths]
    pixels = pixels or [64] * len(widths)
    network.conv((), (ends[0],), fixed_in=3, pixels=pixels[0])
    for source, target, size in zip(ends, ends[1:], pixels[1:], strict=False):
        network.conv((source,), (target,), pixels=size)
    linear(network, (ends[-1],), classes)
    return network.structure()


def linear(network: Network, inputs: Axis, classes: int) -> None:
    """The classifier: a linear layer with bias and fixed outputs."""
    network.conv(
        inputs, (), taps=1, pixels=1, fixed_out=classes, norm=False, bias=True, kind="linear"
    )


def vgg16() -> Structure:
    """VGG-16 with norms for 32x32 images: 13 convolutions and one linear layer."""
    widths = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    sizes = [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    return chain(widths, pixels=[size * size for size in sizes])


def residual(stages: list[int], blocks: int, classes: int = 10, pixels: int = 1024) -> Structure:
    """A CIFAR ResNet with projections: streams are shared by the blocks of a stage."""
    network = Network()
    stream = network.group(stages[0])
    network.conv((), (stream,), fixed_in=3, pixels=pixels)
    for stage, width in enumerate(stages):
        previous = stream
        if stage:
            stream, pixels = network.group(width), max(1, pixels // 4)
            network.conv((previous,), (stream,), taps=1, pixels=pixels)
        for block in range(blocks):
            hidden = network.group(width)
            network.conv((previous if block == 0 else stream,), (hidden,), pixels=pixels)
            network.conv((hidden,), (stream,), pixels=pixels)
    linear(network, (stream,), classes)
    return network.structure()


def bottlenecks(blocks: list[int], classes: int = 1000) -> Structure:
    """A ResNet of bottleneck blocks for 224x224 images; ``[3, 4, 6, 3]`` is ResNet-50."""
    network = Network()
    source = network.group(64)
    network.conv((), (source,), fixed_in=3, taps=49, pixels=112 * 112)
    for stage, count in enumerate(blocks):
        width, pixels = 64 * 2**stage, (56 >> stage) ** 2
        stream = network.group(4 * width)
        for block in range(count):
            first, second = network.group(width), network.group(width)
            entry = pixels * (4 if block == 0 and stage else 1)
            network.conv((source,), (first,), taps=1, pixels=entry)
            network.conv((first,), (second,), pixels=pixels)
            network.conv((second,), (stream,), taps=1, pixels=pixels)
            if block == 0:
                network.conv((source,), (stream,), taps=1, pixels=pixels)
            source = stream
    linear(network, (source,), classes)
    return network.structure()


def dense(blocks: list[int], growth: int = 32, stem: int = 64, classes: int = 1000) -> Structure:
    """A DenseNet; ``[6, 12, 48, 32]`` is DenseNet-201."""
    network = Network()
    axis: Axis = (network.group(stem),)
    network.conv((), axis, fixed_in=3, taps=49, pixels=112 * 112)
    for stage, count in enumerate(blocks):
        pixels = (56 >> stage) ** 2
        for _ in range(count):
            hidden, grown = network.group(4 * growth), network.group(growth)
            network.conv(axis, (hidden,), taps=1, pixels=pixels)
            network.conv((hidden,), (grown,), pixels=pixels)
            axis = (*axis, grown)
        if stage + 1 < len(blocks):
            halved = network.group(network.width(axis) // 2)
            network.conv(axis, (halved,), taps=1, pixels=pixels)
            axis = (halved,)
    linear(network, axis, classes)
    return network.structure()


def mobile(widths: list[int], expansion: int = 6, classes: int = 1000) -> Structure:
    """Inverted residual blocks: expand, depthwise, project."""
    network = Network()
    source = network.group(widths[0])
    network.conv((), (source,), fixed_in=3, pixels=112 * 112)
    for width in widths[1:]:
        hidden, target = network.group(expansion * width), network.group(width)
        network.conv((source,), (hidden,), taps=1, pixels=784)
        network.depthwise((hidden,), pixels=784)
        network.conv((hidden,), (target,), taps=1, pixels=784)
        source = target
    linear(network, (source,), classes)
    return network.structure()


def scrambled(seed: int, size: int, widest: int = 12, narrowest: int = 2) -> Structure:
    """A random network of about ``size`` groups: chains, sums, concatenations, all kinds of layers.

    Units per group lie within ``narrowest`` and ``widest``.
    """
    rng = random.Random(seed)
    network = Network()

    def group() -> int:
        portion = rng.choice([1, 1, 2])
        return network.group(portion * rng.randint(narrowest, widest), portion)

    axis: Axis = (group(),)
    network.conv((), axis, fixed_in=3, pixels=rng.choice([1, 16, 64]))
    while len(network.groups) < size:
        pixels, taps = rng.choice([1, 4, 16, 64]), rng.choice([1, 9])
        kind = rng.choice(["chain", "sum", "concat", "depthwise", "grouped"])
        target = group()
        network.conv(axis, (target,), taps=taps, pixels=pixels)
        if kind == "depthwise":
            network.depthwise((target,), pixels=pixels)
        if kind == "grouped" and network.groups[target].grain == 2:
            network.grouped(target, target, 2, pixels=pixels)
        if kind == "sum":
            network.conv((target,), axis, taps=taps, pixels=pixels)
        else:
            axis = (*axis, target) if kind == "concat" else (target,)
    linear(network, axis, rng.choice([2, 10]))
    return network.structure()


def terms_of(cost: Cost | Peak) -> Mapping[tuple[int, ...], int]:
    """The terms of a cost that is one polynomial."""
    assert isinstance(cost, Cost)
    return cost.terms


def evaluate(structure: Structure, name: str, units: Sequence[Any]) -> Any:
    """A cost by its definition, apart from `Cost.__call__`."""
    terms = terms_of(structure.costs[name])
    return sum(value * prod(units[group] for group in key) for key, value in terms.items())


def limits_of(structure: Structure, shares: Mapping[str, float]) -> dict[str, int]:
    """Limits as shares of what the original costs."""
    bases = {name: structure.costs[name](structure.units) for name in shares}
    return {name: int(share * bases[name]) for name, share in shares.items()}
