"""Attributes that are a power of a width, such as an attention's ``scale``.

A wrong one does not raise an error but makes another function, and a hyper-parameter that happens
to equal the root of a width must stay as it is. So an attribute only follows a width if its use
proves it: a sum, a norm, a distance or a product of two activations is divided by the size, or its
root, of the axes summed over (or divides it); a weight, or a convolution's input, is divided by the
root of the fan-in; an embedding or a normalised vector is multiplied by the root of its width. That
a factor comes from the attribute is proved by changing it and running the module again.
"""

import math
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn

from precrop.fit.attributes import Edit
from precrop.fit.held import is_integer, is_own
from precrop.fit.probing import Prober
from precrop.modules.copying import submodule
from precrop.read.axes import Axis, axis_size, resolve
from precrop.read.network import Network, Sizes
from precrop.read.reader import CONVOLUTIONS
from precrop.read.trace import Call, Operation
from precrop.read.values import TensorValue

SCALING = ("mul", "div")
PRODUCTS = ("mm", "bmm", "baddbmm")
# Operations that pass on a tensor's values, all or some, perhaps masked.
PASSING = (
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "clone", "contiguous",
    "unsqueeze", "squeeze", "detach", "_to_copy", "alias", "unfold", "slice", "select", "split",
    "unbind", "split_with_sizes", "masked_fill", "where", "dropout", "native_dropout", "unflatten",
)  # fmt: skip
# A bias may be added to the product of queries and keys.
BIASED = (*PASSING, "add")
# The powers of a width that a number may be; PyTorch's attention scales q and k by a fourth root.
POWERS = (0.5, -0.5, 0.25, -0.25, 1, -1)
# Operations that sum over axes, and the powers of their size that may scale the total: -1 for a
# mean, -0.5 as for the product of queries and keys.
TOTALS = {
    "sum": (-1.0, -0.5),
    "linalg_vector_norm": (-0.5,),
    "_cdist_forward": (-1.0, -0.5),
    "_euclidean_dist": (-1.0, -0.5),
    **dict.fromkeys(CONVOLUTIONS, (-1.0,)),
}
# Operations that may lie between a total and a division by it, to keep it above zero.
ABOVE_ZERO = (*PASSING, "add", "clamp_min", "clamp", "maximum")
MOVE = 1.25


@dataclass(frozen=True)
class Root:
    """What a factor or an attribute is proved to be: a constant times the axes' size to a power.

    An integer attribute is the width itself or a multiple of it; forward takes the power.
    """

    axes: tuple[Axis, ...]
    power: float

    def value(self, before: float, sizes: Sizes) -> float:
        """Return what the attribute must be if the axes have other sizes."""
        old, new = _size(self.axes), math.prod(map(sizes.size, self.axes))
        return before * new // old if type(before) is int else before * (new / old) ** self.power


def _size(axes: Sequence[Axis]) -> int:
    return math.prod(map(axis_size, axes))


@dataclass
class Roots:
    """Finds attributes that are powers of widths; each class of modules is probed once."""

    prober: Prober
    _moves: dict[tuple[type[nn.Module], str, int], tuple[int, ...]] = field(default_factory=dict)

    def edits(self, network: Network, sizes: Sizes) -> Iterator[Edit]:
        """Yield edits of attributes whose width changes."""
        for number in self._numbers(network):
            value = number.value if number.root is None else number.root.value(number.value, sizes)
            if value != number.value:
                yield number.path, number.name, value

    def lookalikes(
        self, network: Network, sizes: Sizes, edited: Set[tuple[str, str]]
    ) -> Iterator[str]:
        """Yield attributes that scale something and equal a power of a changing width, but stay.

        Nothing proves that they mean that width, but whoever chose them may have meant it.
        """
        for number in self._numbers(network):
            if number.root is not None or (number.path, number.name) in edited:
                continue
            powers = (1,) if type(number.value) is int else (0.5, -0.5, 1, -1)
            if any(
                sizes.size(axis) != axis_size(axis) > 1
                and any(_close(axis_size(axis) ** power, number.value) for power in powers)
                for call, reading in network.passes[0].pairs
                if call.frame == number.frame
                for axis in reading.axes
            ):
                yield f"{number.path}.{number.name}".lstrip(".")

    def _numbers(self, network: Network) -> "Iterator[_Number]":
        """Yield attributes that scale something in forward, with what is proved of them."""
        flow = _Flow(network)
        done = set()
        for index, frame in enumerate(flow.forward.trace.frames):
            if frame.path in done or not (index in flow.scalings or index in flow.sums):
                continue
            done.add(frame.path)
            for name, value in _numbers(submodule(network.model, frame.path)):
                scalings = flow.scalings.get(index, [])
                related = any(_relation(factor, value) for _, factor in scalings)
                moving = self._moving(flow, index, name, value) if related else ()
                if moving:
                    root = self._root(flow, [scalings[place] for place in moving], value)
                else:
                    root = self._unread(flow, index, name, value)
                if moving or root is not None:
                    yield _Number(index, frame.path, name, value, root)

    def _root(self, flow: "_Flow", uses: Sequence[tuple[int, float]], value: float) -> Root | None:
        """Return the root that an attribute is, if all calls that scale by it prove the same."""
        proofs = [
            flow.proof(place, factor) or flow.rooted(place, factor, value) for place, factor in uses
        ]
        shown = [proof for proof in proofs if proof is not None]
        if not shown or len(shown) < len(proofs) or len({_size(one.axes) for one in shown}) > 1:
            return None
        axes, power, factor = shown[0].axes, shown[0].power, uses[0][1]
        if type(value) is int:
            return Root(axes, 1) if value % _size(axes) == 0 else None
        if _close(value**0.5, factor):  # PyTorch's attention scales both q and k
            power = 2 * power
        elif _close(1 / value, factor):
            power = -power
        elif not _close(value, factor):
            return None
        return Root(axes, power)

    def _unread(self, flow: "_Flow", frame: int, name: str, value: float) -> Root | None:
        """Return the root that an unread attribute is: PyTorch's attention takes it by itself."""
        axes = [axis for axis in flow.sums.get(frame, []) if _close(axis_size(axis) ** -0.5, value)]
        if type(value) is int or not axes:
            return None
        key = (flow.forward.trace.frames[frame].kind, name, -1)
        if key not in self._moves:
            made = self.prober.rerun(flow.forward, frame, name, value * MOVE)
            same = all(_numbers_of(flow.calls[i]) == _numbers_of(new) for i, new in made.items())
            self._moves[key] = (1,) if made and same else ()
        return Root((axes[0],), -0.5) if self._moves[key] else None

    def _moving(self, flow: "_Flow", frame: int, name: str, value: float) -> tuple[int, ...]:
        """Return which of a module's scalings move with an attribute; probed once per class."""
        places = [place for place, _ in flow.scalings[frame]]
        key = (flow.forward.trace.frames[frame].kind, name, len(places))
        if key not in self._moves:
            other = value + 1 if type(value) is int else value * MOVE
            made = self.prober.rerun(flow.forward, frame, name, other)
            self._moves[key] = tuple(
                index
                for index, place in enumerate(places)
                if place in made and _factor(made[place]) != _factor(flow.calls[place])
            )
        return self._moves[key]


@dataclass(frozen=True)
class _Number:
    """A number in a module's attribute that scales something in a frame."""

    frame: int
    path: str
    name: str
    value: float
    root: Root | None


class _Flow:
    """Finds the calls of the first pass that scale by a number, and what they scale."""

    def __init__(self, network: Network) -> None:
        self.network, self.forward = network, network.passes[0]
        self.calls = self.forward.trace.calls

    @cached_property
    def scalings(self) -> dict[int, list[tuple[int, float]]]:
        """By frame, the calls in it and its children that multiply by a number, with the number."""
        found: dict[int, list[tuple[int, float]]] = {}
        for place, call in enumerate(self.calls):
            factor = _factor(call)
            if factor is not None:
                for frame in self.forward.trace.around(place)[:2]:
                    found.setdefault(frame, []).append((place, factor))
        return found

    @cached_property
    def sums(self) -> dict[int, list[Axis]]:
        """By frame, the axes over which its own products of two activations sum."""
        found: dict[int, list[Axis]] = {}
        for place, call in enumerate(self.calls):
            for axis in self._contracted(place):
                found.setdefault(call.frame, []).append(axis)
        return found

    @cached_property
    def _makers(self) -> dict[int, int]:
        return {v.number: place for place, call in enumerate(self.calls) for v in call.outputs}

    @cached_property
    def _readers(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for place, call in enumerate(self.calls):
            for value in call.inputs:
                found.setdefault(value.number, []).append(place)
        return found

    def proof(self, place: int, factor: float) -> Root | None:
        """Return the width of which the factor of a call is a power, if its use proves one."""
        call = self.calls[place]
        scaled = call.inputs[0]
        for axis in self._summed(place, scaled):
            power = next((p for p in POWERS if _close(axis_size(axis) ** p, factor)), None)
            if power is not None and power < 0:
                return Root((axis,), power)
        for axes, power in self._totals(scaled):
            size = _size(axes)
            if _close(size**power, factor) or (power == -1 and _close(1 / (size - 1), factor)):
                return Root(tuple(filter(self.network.varies, axes)) or axes, power)
        for axis in self._own_widths(scaled):
            if _close(axis_size(axis) ** 0.5, factor):
                return Root((axis,), 0.5)
        weight = self.forward.readings[place].made_of
        fans = [fan for fan in (self._fan(weight), *self._kernels(call)) if fan]
        proved = (fan for fan in fans if scales_by_fan(factor, _size(fan)))
        return next((Root(fan, -0.5) for fan in proved), None)

    def _fan(self, weight: str | None) -> tuple[Axis, ...]:
        """Return the axes of a layer's weight that make up its fan-in."""
        layer = self.network.known.layers.get(weight or "")
        if weight is None or layer is None:
            return ()
        axes = self.network.known.tensors[weight]
        outputs, first = resolve(layer.outputs), int(layer.kind == "transposed")
        out = next((i for i, axis in enumerate(axes) if resolve(axis) == outputs), first)
        return axes[:out] + axes[out + 1 :]

    def _kernels(self, call: Call) -> Iterator[tuple[Axis, ...]]:
        """Yield the fan-ins of convolutions, except 1x1 ones, that read a call's output.

        Their input is scaled in place of the weight. A 1x1 kernel could match too easily by chance.
        """
        for value in call.outputs:
            for place in self._readers.get(value.number, []):
                reading = self.forward.readings[place]
                if self.calls[place].name in CONVOLUTIONS and _size(reading.inputs[1][2:]) > 1:
                    yield self._fan(reading.weight)

    def rooted(self, place: int, factor: float, value: float) -> Root | None:
        """Return an axis that is scaled by a root of its own size, an integer (T5's logits)."""
        power = next((p for p in (0.5, -0.5) if _close(value**p, factor)), None)
        if type(value) is not int or power is None:
            return None
        axes = [a for a in self.forward.readings[place].inputs[0] if axis_size(a) == value]
        return Root((axes[-1],), power) if axes else None

    def _summed(self, place: int, scaled: TensorValue) -> Iterator[Axis]:
        """Yield the axes that products of activations sum over, before and after the scaling."""
        before = self._made(scaled, BIASED)
        if before is not None:
            yield from self._contracted(before)
        frontier, seen = [place], set()
        while frontier:
            for value in self.calls[frontier.pop()].outputs:
                for reader in self._readers.get(value.number, []):
                    if reader in seen:
                        continue
                    seen.add(reader)
                    if self.calls[reader].name in PASSING:
                        frontier.append(reader)
                    else:
                        yield from self._contracted(reader)

    def _contracted(self, place: int) -> Iterator[Axis]:
        reading = self.forward.readings[place]
        if self.calls[place].name in PRODUCTS and reading.weight is None:
            yield reading.inputs[-1][-2]

    def _made(self, value: TensorValue, passing: Sequence[str]) -> int | None:
        """Return the call that made a tensor, looking through operations in ``passing``."""
        place = self._makers.get(value.number)
        while place is not None and self.calls[place].name in passing:
            operands = self.calls[place].inputs
            place = self._makers.get(operands[0].number) if operands else None
        return place

    def _totals(self, scaled: TensorValue) -> Iterator[tuple[tuple[Axis, ...], float]]:
        """Yield the axes that a tensor, or its inverse, is a total over, with possible powers."""
        place, sign = self._made(scaled, PASSING), 1
        if place is not None and self.calls[place].name == "reciprocal":
            place, sign = self._made(self.calls[place].inputs[0], ABOVE_ZERO), -1
        if place is not None and self.calls[place].name == "sqrt":  # of a sum of squares
            place = self._made(self.calls[place].inputs[0], ABOVE_ZERO)
        if place is None:
            return
        summed = self._summed_over(place)
        if _size(summed) > 1:
            for power in TOTALS.get(self.calls[place].name, ()):
                yield summed, sign * power

    def _summed_over(self, place: int) -> tuple[Axis, ...]:
        """Return the axes that a total is over; none for a layer's convolution.

        A convolution by another kernel (of ones) counts the entries under it.
        """
        call, reading = self.calls[place], self.forward.readings[place]
        if call.name in CONVOLUTIONS:
            return reading.inputs[1][1:] if reading.weight is None else ()
        axes = reading.inputs[0]
        if call.name not in ("sum", "linalg_vector_norm"):
            return axes[-1:]
        dims = call.arg("dim")
        dims = [dims] if type(dims) is int else dims or range(len(axes))
        return tuple(axes[dim] for dim in dims)

    def _own_widths(self, scaled: TensorValue) -> Iterator[Axis]:
        """Yield the width of an embedding or of a vector that was divided by its norm."""
        place = self._made(scaled, PASSING)
        if place is None:
            return
        call, reading = self.calls[place], self.forward.readings[place]
        if call.name == "embedding":
            yield reading.outputs[0][-1]
        if call.name == "div" and len(call.inputs) > 1:
            norm = self._made(call.inputs[1], (*PASSING, "clamp_min", "clamp"))
            if norm is not None and self.calls[norm].name == "linalg_vector_norm":
                dims = self.calls[norm].arg("dim")
                if isinstance(dims, (list, tuple)) and len(dims) == 1:
                    yield self.forward.readings[norm].inputs[0][dims[0]]


def scales_by_fan(factor: float, fan: int) -> bool:
    """Whether a factor is the root of one, or of two (after a ReLU), divided by the fan-in."""
    return any(_close((gain / fan) ** 0.5, factor) for gain in (1, 2))


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9)


def _factor(call: Operation) -> float | None:
    """Return the number by which a call multiplies a tensor, or None."""
    if call.name not in SCALING or len(call.args) < 2:
        return None
    scaled, number = call.args[:2]
    if not isinstance(scaled, (Tensor, TensorValue)):
        return None
    if type(number) not in (int, float) or number <= 0 or number == 1:
        return None
    return 1 / number if call.name == "div" else float(number)


def _numbers_of(call: Operation) -> list[float]:
    values = (*call.args, *call.kwargs.values())
    return [value for value in values if type(value) in (int, float)]


def _relation(factor: float, value: float) -> bool:
    """Whether a factor may come from an attribute: its value, inverse or root.

    Of an integer also the inverse of a multiple, and powers of one less (as in a variance).
    """
    if type(value) is int:
        times = 1 / factor / value
        powers = (base**power for base in (value, value - 1) for power in POWERS)
        return _close(times, max(1, round(times))) or any(_close(one, factor) for one in powers)
    return any(_close(form, factor) for form in (value, 1 / value, value**0.5))


def _numbers(module: nn.Module) -> Iterator[tuple[str, float]]:
    for name, value in vars(module).items():
        if not is_own(name):
            continue
        if isinstance(value, float) and 0 < value != 1:
            yield name, float(value)
        elif is_integer(value) and value > 1:
            yield name, int(value)
