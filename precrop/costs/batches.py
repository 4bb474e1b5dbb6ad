"""How calls grow with the batch: networks are read at batch 1, costs are asked at any.

Where a pass at the batch size asked makes the calls that were read, its tensors are those at
batch 1, larger by a factor each. What lies in memory as a reshape needs it at batch 1 may have to
be copied for more images, and PyTorch then also takes a linear layer apart: such a pass is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from precrop.errors import PrecropError
from precrop.modules.names import named_tensors
from precrop.read.axes import atoms
from precrop.read.examples import tensors_in
from precrop.read.lifetimes import INPUT, Lifetimes, kernel_attention, lifetimes
from precrop.read.network import Network
from precrop.read.reader import Axes, CallReading
from precrop.read.trace import Call, Trace, input_tensors, run

_LAYOUT = ("clone", "view", "_unsafe_view", "_reshape_alias", "transpose", "empty")
"""Operations that come and go with how tensors lie in memory."""
_STEPS = {"addmm": ("mm", "add"), "baddbmm": ("bmm", "add")}
"""Operations that are taken apart where their input does not lie in memory as they need it."""


@dataclass(frozen=True)
class Batch:
    """One pass at a batch size, by the calls that it makes.

    Attributes:
        calls: of the pass, or equal ones at batch 1.
        readings: of the calls.
        outputs: of the network, as the calls made them.
        growth: by how much each output of each call is larger in the pass than in ``calls``.
        inputs: by how much the network's inputs are larger.
    """

    calls: Sequence[Call]
    readings: Sequence[CallReading]
    outputs: Sequence[Tensor]
    growth: Sequence[tuple[int, ...]]
    inputs: int

    def axes(self, call: int, output: int) -> Axes:
        """Axes of an output of a call."""
        return self.readings[call].outputs[output]


def follow(network: Network, batch_size: int) -> Lifetimes:
    """How long the tensors of an eval pass at ``batch_size`` live.

    Raises:
        PrecropError: the network fails at this batch size or runs other code at it.
    """
    if batch_size > 1 and not network.inputs.has_batch:
        raise PrecropError(f"batch_size={batch_size}: the example inputs have no batch axis")
    device, meta = ("cpu", None) if network.real else ("meta", network.meta)
    model = network.replica().eval()
    args, kwargs = network.inputs.make(batch_size, model, device)
    try:
        with network.tables.lent():
            found = lifetimes(model, args, kwargs, meta)
    except Exception as error:  # whatever the network's own forward raises
        raise PrecropError(f"the network fails at batch size {batch_size}: {error}") from error
    known = _names(network.passes[0].trace)
    if found.names != known:
        again = network.replica().eval()
        with network.tables.lent():
            trace = run(again, args, kwargs, meta, layers=kernel_attention())
        if found.names != _names(trace) or _steps(found.names) != _steps(known):
            raise _depends_on_values() if batch_size == 1 else _other_code()
        found.again = again, trace
    at_batch(network, found)
    return found


def at_batch(network: Network, lives: Lifetimes) -> Batch:
    """The calls of the pass that was followed, with their axes.

    Raises:
        PrecropError: reading the pass ties or holds widths that the network's own passes do not.
    """
    trace, readings = network.passes[0].trace, network.passes[0].readings
    if lives.again is not None:
        trace = lives.again[1]
        readings = _read(network, *lives.again)
    made = _made(trace)
    calls = [trace.calls[index] for index in made]
    growth = [
        tuple(_ratio(n, prod(shape)) for n, shape in zip(sizes, call.shapes, strict=True))
        for call, sizes in zip(calls, lives.sizes, strict=True)
    ]
    inputs = 1 if lives.again is not None else _input_growth(network, lives)
    return Batch(calls, [readings[index] for index in made], trace.outputs, growth, inputs)


def _ratio(elements: int, base: int) -> int:
    return max(elements // base, 1) if base else 1


def _input_growth(network: Network, lives: Lifetimes) -> int:
    """By how much the inputs are larger than at batch 1."""
    args, kwargs = network.inputs.make(1, network.model, "meta")
    sizes = [tensor.numel() for tensor in tensors_in((args, kwargs))]
    found = [life for life in lives.lives if life.call == INPUT]
    return max((life.elements // sizes[life.output] for life in found), default=1)


def _made(trace: Trace) -> list[int]:
    """Indices of the calls that the network makes.

    Where something else holds a new tensor, as a record does, PyTorch detaches it once more.
    """
    found, made = [], None
    for index, call in enumerate(trace.calls):
        operands = input_tensors(call)
        if call.name != "detach" or operands[0] is not made:
            found.append(index)
        made = call.outputs[0] if call.outputs and not operands else None
    return found


def _names(trace: Trace) -> list[str]:
    return [trace.calls[index].name for index in _made(trace)]


def _steps(names: Sequence[str]) -> list[str]:
    """What a pass computes, whatever it has to copy for that."""
    return [step for n in names if n not in _LAYOUT for step in _STEPS.get(n, (n,))]


def _read(network: Network, model: nn.Module, trace: Trace) -> list[CallReading]:
    """Read a pass of a replica; nothing about the network's widths may change by that."""
    reader = network.reader
    if reader.trace is trace:
        return reader.readings
    before = _widths(network)
    for name, tensor in named_tensors(model).items():
        reader.names.setdefault(id(tensor), name)
    readings = reader.read(trace, macs=False)
    if _widths(network)[: len(before)] != before:
        raise _other_code()
    return readings


def _widths(network: Network) -> list[tuple[int, int, str | None]]:
    """The widths of parameters and buffers, in order: which of them are tied, and what holds."""
    axes = [axis for axes in network.reader.tensors.values() for axis in axes]
    roots = [atom.tie.root() for axis in axes for atom in atoms(axis)]
    numbers: dict[int, int] = {}
    return [
        (numbers.setdefault(id(root), len(numbers)), root.quantum, root.frozen) for root in roots
    ]


def _depends_on_values() -> PrecropError:
    return PrecropError(
        "what the network computes depends on values, so its latency and memory cannot be counted: "
        "give budgets of params and macs"
    )


def _other_code() -> PrecropError:
    return PrecropError("the network runs other code at this batch size: write batch_size=1")
