"""Work as an inference runtime such as ONNX Runtime does it, which joins what follows a layer.

A batch norm after a convolution disappears in its weights; an activation after it, and a residual
sum, are done while its output is written. What cannot be joined is an operation of its own, and
where it does not understand the blocked layout of convolutions its tensors are reordered.
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


def fused_calls(network: Network, lives: Lifetimes) -> list[Work]:
    """The operations that are left once everything is joined that can be."""
    return _Fusion(at_batch(network, lives)).works


Shaped = tuple[TensorValue, Axes]
"""A tensor and its axes."""
Content = tuple[int, int]
"""A tensor's number, and how often it had been overwritten in place."""


class _Fusion:
    """Follows the calls; ``open`` maps contents to the layer that could still do more to them."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.works: list[Work] = []
        self.open: dict[Content, Work] = {}
        self.uses: Counter[Content] = Counter()
        last: dict[int, Content] = {}
        for _, operands, output in _contents(batch.calls):
            self.uses.update(operands)
            last[output[0]] = output
        self.uses.update(last[v.number] for v in batch.trace.outputs if v.number in last)
        for index, operands, output in _contents(batch.calls):
            self.operands, self.output = operands, output
            self.follow(batch.calls[index], batch.readings[index])

    def follow(self, call: Call, reading: CallReading) -> None:
        """Join a call to the layer before it, or note it as an operation of its own."""
        work = call_work(call, reading, self.batch)
        layer = self.joins(call)
        if is_view(call):
            if call.name == "permute" and len(call.shapes[0]) == MAP_AXES:
                self.works.append(self.moved("permute", _largest(call, reading)))
            return
        if layer is not None and call.name == "native_batch_norm":
            self.open[self.output] = layer
        elif layer is not None and call.name == "add":
            layer.reads += work.reads[1:]  # one of the two is the layer's own output
            layer.weights += work.weights
            self.open[self.output] = layer
        elif layer is None:
            self.alone(call, reading, work)

    def joins(self, call: Call) -> Work | None:
        """The layer before a call that can do the call's work too."""
        operands = call.inputs
        ready = [self.open[c] for c in self.operands if c in self.open and self.uses[c] == 1]
        if not ready or call.name not in (*ACTIVATIONS, "native_batch_norm", "add"):
            return None
        same = len(operands) == 2 and operands[0].shape == operands[1].shape
        return None if call.name == "add" and not same else ready[-1]

    def alone(self, call: Call, reading: CallReading, work: Work) -> None:
        """An operation of its own; layers stay open for what follows."""
        if call.name == "native_batch_norm":
            # It runs as a depthwise convolution with a window of one.
            work.kind = "depthwise"
            size = call.outputs[0].dtype.itemsize
            work.macs = [Product(p.coefficient // size, p.axes) for p in work.writes[:1]]
        self.works.append(work)
        if work.kind in LAYERS:
            self.open[self.output] = work
        if call.name in _REORDERED or _broadcasts(call):
            self.works.append(self.moved("reorder", _largest(call, reading)))
        if work.kind == UNBLOCKED:
            ends = (call.arg("input"), reading.inputs[0]), (call.outputs[0], reading.outputs[0])
            self.works += [self.moved("reorder", end) for end in ends]

    def moved(self, kind: str, shaped: Shaped) -> Work:
        """A copy of a tensor in another layout."""
        copy = [self.batch.bytes(*shaped)]
        return Work(kind, reads=copy, writes=copy)


def _largest(call: Call, reading: CallReading) -> Shaped:
    """A concatenation's output, or a call's largest input.

    Of several maps that are concatenated another may be the largest at other widths.
    """
    if call.name == "cat":
        return call.outputs[0], reading.outputs[0]
    pairs = zip(call.inputs, reading.inputs, strict=True)
    return max(pairs, key=lambda pair: pair[0].numel())


def _contents(calls: Sequence[Call]) -> Iterator[tuple[int, list[Content], Content]]:
    """Every call that does something: its index, the contents it reads, the content it makes."""
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
    """Whether maps are scaled or shifted channel by channel, as by a squeeze-and-excitation."""
    shapes = {value.shape for value in call.inputs if value.dim() == MAP_AXES}
    return call.name in ("mul", "add") and len(shapes) > 1
