"""Counts each operation's work: bytes that it reads and writes, and multiply-accumulates.

Work is counted by *kind*. Layers are divided into kinds by how their kernels behave (`stem`,
`conv`, `pointwise`, `depthwise`, `grouped`, `unblocked`, `transposed`, `linear`, `matmul`); any
other operation's kind is its ATen name. A profile has a few coefficients for each kind
(`precrop.costs.profiles`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

from precrop.costs.batches import Batch, at_batch
from precrop.read.known import CallReading, Product
from precrop.read.lifetimes import Lifetimes
from precrop.read.network import Network
from precrop.read.trace import Call

FEATURES = ("calls", "reads", "writes", "weights", "macs")
"""Time is linear in these: launches, bytes of activations read and written and of weights, MACs."""

MAP_AXES = 4
"""Axes of maps (batch, channels, height, width) and kernels, the tensors with a blocked layout."""
_STEM = 4
"""A convolution with at most this many input channels, an image's, has kernels of its own."""
_BLOCK = 16
"""Channels per block of the layout that convolutions use (with AVX-512; 8 elsewhere)."""
UNBLOCKED = "unblocked"
"""A grouped convolution whose groups do not fill whole blocks. It cannot use the blocked layout:
it is computed group by group, at a rate of its own, and its channels are not padded.
"""
SILENT = (
    "empty", "_local_scalar_dense", "sym_size", "dropout", "tensor_of_numbers", "scalar_tensor",
)  # fmt: skip
"""Operations that do nothing at inference."""
_RESHAPED = ("_unsafe_view", "alias", "stream_read")
_BUILT = {"stream_write": "constant_pad_nd"}
"""What traced hooks' operations become in a built network; see `precrop.modules.streams`."""


@dataclass
class Work:
    """One operation's work: `FEATURES` except its one launch, as lists of products of axes."""

    kind: str
    reads: list[Product] = field(default_factory=list)
    writes: list[Product] = field(default_factory=list)
    weights: list[Product] = field(default_factory=list)
    macs: list[Product] = field(default_factory=list)

    def products(self, feature: str) -> list[Product]:
        """Return a feature as products; the launch is the constant 1."""
        if feature == "calls":
            return [Product(1, [])]
        found: list[Product] = getattr(self, feature)
        return found


WorkReader = Callable[[Network, Lifetimes], list[Work]]
"""Lists the operations of a network in a pass that `precrop.costs.batches.follow` followed."""


def each_call(network: Network, lives: Lifetimes) -> list[Work]:
    """Return the work of every ATen call, each of which eager PyTorch runs as one operation."""
    batch = at_batch(network, lives)
    return [
        call_work(call, reading, batch)
        for call, reading in zip(batch.calls, batch.readings, strict=True)
        if call.outputs and call.name not in SILENT
    ]


def call_work(call: Call, reading: CallReading, batch: Batch) -> Work:
    """Return the work of one call on its own; a view only costs its launch."""
    work = Work(kind(call))
    if is_view(call):
        return work
    for value, axes in zip(call.inputs, reading.inputs, strict=True):
        operands = work.weights if batch.fixed(value) else work.reads
        operands.append(batch.bytes(value, axes))
    work.writes = [*map(batch.bytes, call.outputs, reading.outputs)]
    grown = batch.scale(call.outputs[0])
    work.macs = [Product(product.coefficient * grown, product.axes) for product in reading.macs]
    return work


def is_view(call: Call) -> bool:
    """Whether the outputs are only views of the inputs' memory."""
    if call.name in _RESHAPED:
        return True
    aliases = [result.alias_info for result in call.op._schema.returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)


def kind(call: Call) -> str:
    """Return the kind of a call's work."""
    if is_view(call):
        return "view"
    if call.name in ("convolution", "_convolution"):
        if call.arg("transposed"):
            return "transposed"
        x, weight = call.arg("input"), call.arg("weight")
        return convolution_kind(x.shape[1], weight.shape)
    if call.name in ("mm", "addmm", "bmm", "baddbmm"):
        return "matmul" if call.name.endswith("bmm") else "linear"
    return _BUILT.get(call.name, call.name)


def convolution_kind(channels: int, weight: Sequence[int]) -> str:
    """Return the kind of a convolution.

    Args:
        channels: channels of its input.
        weight: shape (outputs, inputs of one group, height, width).
    """
    groups = channels // weight[1]
    if groups > 1:
        if weight[1] == 1:
            return "depthwise"
        return UNBLOCKED if weight[1] % _BLOCK else "grouped"
    if prod(weight[2:]) == 1:
        return "pointwise"
    return "stem" if channels <= _STEM else "conv"
