"""Counts the work of an inference runtime such as ONNX Runtime, which fuses operations into layers.

A batch norm after a convolution is folded into its weights; an activation and a residual sum are
computed while its output is written. What cannot be fused is an operation of its own; if it does
not support the blocked layout of convolutions, its tensors are reordered.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from precrop.costs.batches import Batch, at_batch
from precrop.costs.work import MAP_AXES, SILENT, UNBLOCKED, Work, call_work, is_view
from precrop.read.known import Axes, CallReading, Product
from precrop.read.lifetimes import Lifetimes
from precrop.read.network import Network
from precrop.read.trace import Call
from precrop.read.values import TensorValue

ACTIVATIONS = ("relu", "hardtanh", "clamp", "sigmoid", "tanh", "leaky_relu", "hardsigmoid")
LAYERS = ("stem", "conv", "pointwise", "depthwise", "grouped", UNBLOCKED, "transposed")
_REORDERED = ("mean", "permute", "cat", "adaptive_avg_pool2d")


Shaped = tuple[TensorValue, Axes]
"""A tensor and its axes."""
Content = tuple[int, int]
"""A tensor's number, and how often it has been overwritten in place."""


def fused_calls(network: Network, lives: Lifetimes) -> list[Work]:
    """Return the operations that remain when everything that can be fused is."""
    batch = at_batch(network, lives)
    contents = list(_contents(batch.calls))
    uses = Counter(content for _, operands, _ in contents for content in operands)
    last = {output[0]: output for _, _, output in contents}
    uses.update(last[v.number] for v in batch.trace.outputs if v.number in last)
    works: list[Work] = []
    ready: dict[Content, Work] = {}  # layers that can fuse more, by their output
    for index, operands, output in contents:
        call, reading = batch.calls[index], batch.readings[index]
        if is_view(call):
            if call.name == "permute" and len(call.shapes[0]) == MAP_AXES:
                works.append(_moved("permute", _largest(call, reading), batch))
            continue
        work = call_work(call, reading, batch)
        before = [ready[c] for c in operands if c in ready and uses[c] == 1]
        if not before or not _joins(call):
            works += _alone(call, reading, work, batch)
            if work.kind in LAYERS:
                ready[output] = work
        elif call.name not in ACTIVATIONS:
            layer = ready[output] = before[-1]
            if call.name == "add":
                layer.reads += work.reads[1:]  # one of the two is the layer's own output
                layer.weights += work.weights
    return works


def _joins(call: Call) -> bool:
    """Whether a call can be fused into a layer before it."""
    if call.name == "add":
        return len(call.inputs) == 2 and call.inputs[0].shape == call.inputs[1].shape
    return call.name in (*ACTIVATIONS, "native_batch_norm")


def _alone(call: Call, reading: CallReading, work: Work, batch: Batch) -> list[Work]:
    """Return an unfused operation, and the copies of its tensors to another layout."""
    if call.name == "native_batch_norm":
        # It runs as a depthwise convolution with a 1 x 1 kernel.
        work.kind = "depthwise"
        size = call.outputs[0].dtype.itemsize
        work.macs = [Product(p.coefficient // size, p.axes) for p in work.writes[:1]]
    moved: list[Shaped] = []
    if call.name in _REORDERED or _broadcasts(call):
        moved.append(_largest(call, reading))
    if work.kind == UNBLOCKED:
        moved.append((call.arg("input"), reading.inputs[0]))
        moved.append((call.outputs[0], reading.outputs[0]))
    return [work, *(_moved("reorder", shaped, batch) for shaped in moved)]


def _moved(kind: str, shaped: Shaped, batch: Batch) -> Work:
    """Return the work of copying a tensor to another layout."""
    copy = [batch.bytes(*shaped)]
    return Work(kind, reads=copy, writes=copy)


def _largest(call: Call, reading: CallReading) -> Shaped:
    """Return a concatenation's output, or a call's largest input.

    Which input of a concatenation is the largest would depend on the widths.
    """
    if call.name == "cat":
        return call.outputs[0], reading.outputs[0]
    pairs = zip(call.inputs, reading.inputs, strict=True)
    return max(pairs, key=lambda pair: pair[0].numel())


def _contents(calls: Sequence[Call]) -> Iterator[tuple[int, list[Content], Content]]:
    """Yield the index of every call that does something, and the contents it reads and makes."""
    versions: Counter[int] = Counter()
    for index, call in enumerate(calls):
        if not call.outputs or call.name in SILENT:
            continue
        operands = [(value.number, versions[value.number]) for value in call.inputs]
        made = call.outputs[0].number
        if any(made == number for number, _ in operands):
            versions[made] += 1
        yield index, operands, (made, versions[made])


def _broadcasts(call: Call) -> bool:
    """Whether maps are scaled or shifted per channel, as in squeeze-and-excitation."""
    shapes = {value.shape for value in call.inputs if value.dim() == MAP_AXES}
    return call.name in ("mul", "add") and len(shapes) > 1
