"""Scales work to a batch size: networks are read at batch 1, costs are needed at any.

If a pass at the batch size makes the same calls as the pass that was read, each of its tensors is
larger by a factor. But a reshape that is a view at batch 1 may need a copy for more images, and
PyTorch may then split a linear layer into two operations: such a pass is read anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from precrop.errors import PrecropError
from precrop.own import calling_own
from precrop.read.axes import atoms
from precrop.read.copies import with_pass
from precrop.read.examples import tensors_in
from precrop.read.known import Axes, CallReading, Product
from precrop.read.lifetimes import INPUT, Lifetimes, kernel_attention, lifetimes
from precrop.read.network import Network
from precrop.read.recording import run
from precrop.read.trace import Call, Trace, numbered
from precrop.read.tracer import TracedPass
from precrop.read.values import TensorValue

_LAYOUT = ("clone", "view", "_unsafe_view", "_reshape_alias", "transpose", "empty")
"""Operations whose presence depends on the memory layout of tensors."""
_STEPS = {"addmm": ("mm", "add"), "baddbmm": ("bmm", "add")}
"""Operations that PyTorch splits if the memory layout of their input does not suit them."""


@dataclass(frozen=True)
class Batch:
    """One pass at a batch size, described by its calls.

    Attributes:
        calls: calls of the pass, or the same calls at batch 1, with their ``readings``.
        trace: the trace that the calls are from.
        growth: how many times larger each output of each call is in the pass than in ``calls``.
        inputs: how many times larger the network's inputs are.
    """

    calls: Sequence[Call]
    readings: Sequence[CallReading]
    trace: Trace
    growth: Sequence[tuple[int, ...]]
    inputs: int

    def axes(self, call: int, output: int) -> Axes:
        """Return the axes of an output of a call."""
        return self.readings[call].outputs[output]

    def scale(self, value: TensorValue) -> int:
        """Return how many times larger a tensor is in the pass than in ``calls``."""
        # A tensor that no call made is a parameter, a buffer or an input.
        return self._made.get(value.number, 1 if self.fixed(value) else self.inputs)

    def fixed(self, value: TensorValue) -> bool:
        """Whether a tensor is a parameter or a buffer, or a view of one."""
        return self.trace.values.memories[value.number] in self._fixed

    def bytes(self, value: TensorValue, axes: Axes) -> Product:
        """Return the bytes of a tensor in the pass."""
        return Product(value.dtype.itemsize * self.scale(value), list(axes))

    @cached_property
    def _made(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for call, ratios in zip(self.calls, self.growth, strict=True):
            for value, ratio in zip(call.outputs, ratios, strict=True):
                found.setdefault(value.number, ratio)
        return found

    @cached_property
    def _fixed(self) -> set[int]:
        return {self.trace.values.memories[number] for number in self.trace.used}


def follow(network: Network, batch_size: int) -> tuple[Network, Lifetimes]:
    """Return the network, and the lifetimes of the tensors in an eval pass at ``batch_size``.

    If that pass makes other calls than the one that was read, the returned network includes it.

    Raises:
        PrecropError: the network fails at this batch size or runs other code at it.
    """
    if batch_size > 1 and not network.inputs.has_batch:
        raise PrecropError(f"batch_size={batch_size}: the example inputs have no batch axis")
    tracer = network.tracer
    device, meta = ("cpu", None) if tracer.real else ("meta", tracer.meta)
    model = tracer.replica().eval()
    args, kwargs = network.inputs.make(batch_size, model, device)
    with calling_own(f"the network fails at batch size {batch_size}"), tracer.tables.lent():
        found = lifetimes(model, args, kwargs, meta)
    known = _names(network.passes[0].trace)
    if found.names != known:
        again = tracer.replica().eval()
        with tracer.tables.lent():
            recording = run(again, args, kwargs, meta, layers=kernel_attention())
        trace = numbered(recording, again)
        if found.names != _names(trace) or _steps(found.names) != _steps(known):
            raise PrecropError(_BY_VALUES if batch_size == 1 else _OTHER_CODE)
        before = _widths(network)
        network = with_pass(network, TracedPass(False, trace))
        if _widths(network)[: len(before)] != before:
            raise PrecropError(_OTHER_CODE)
    return network, found


def at_batch(network: Network, lives: Lifetimes) -> Batch:
    """Return the calls of the pass that `follow` followed, with their axes."""
    forward = network.beside or network.passes[0]
    made = _made(forward.trace)
    calls = [forward.trace.calls[index] for index in made]
    growth = [
        tuple(_ratio(n, prod(shape)) for n, shape in zip(sizes, call.shapes, strict=True))
        for call, sizes in zip(calls, lives.sizes, strict=True)
    ]
    inputs = 1 if network.beside is not None else _input_growth(network, lives)
    readings = [forward.readings[index] for index in made]
    return Batch(calls, readings, forward.trace, growth, inputs)


def _ratio(elements: int, base: int) -> int:
    return max(elements // base, 1) if base else 1


def _input_growth(network: Network, lives: Lifetimes) -> int:
    """Return how many times larger the inputs are than at batch 1."""
    args, kwargs = network.inputs.make(1, network.model, "meta")
    sizes = [tensor.numel() for tensor in tensors_in((args, kwargs))]
    found = [life for life in lives.lives if life.call == INPUT]
    return max((life.elements // sizes[life.output] for life in found), default=1)


def _made(trace: Trace) -> list[int]:
    """Return the indices of the calls that the network itself makes.

    PyTorch adds a ``detach`` if something else, such as the recording, holds a new tensor.
    """
    found, made = [], None
    for index, call in enumerate(trace.calls):
        if call.name != "detach" or call.inputs[0].number != made:
            found.append(index)
        new = not call.inputs or call.name.endswith("_like")
        made = call.outputs[0].number if call.outputs and new else None
    return found


def _names(trace: Trace) -> list[str]:
    return [trace.calls[index].name for index in _made(trace)]


def _steps(names: Sequence[str]) -> list[str]:
    """Return the operations of a pass, without those for memory layout and with `_STEPS` split."""
    return [step for n in names if n not in _LAYOUT for step in _STEPS.get(n, (n,))]


def _widths(network: Network) -> list[tuple[int, int, str | None]]:
    """Return the group of each width in order (numbered), its quantum, and why it is frozen."""
    axes = [axis for axes in network.known.tensors.values() for axis in axes]
    roots = [atom.tie.root() for axis in axes for atom in atoms(axis)]
    numbers: dict[int, int] = {}
    return [
        (numbers.setdefault(id(root), len(numbers)), root.quantum, root.frozen) for root in roots
    ]


_BY_VALUES = (
    "what the network computes depends on values, so its latency and memory cannot be counted: "
    "give budgets of params and macs"
)
_OTHER_CODE = "the network runs other code at this batch size: write batch_size=1"
