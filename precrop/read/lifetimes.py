"""Finds how long the tensors of a forward pass live: from the call that makes each to its release.

The network runs once more on meta tensors. Only the network itself holds tensors in that run, so a
storage is freed where it would be in a real one; a weak reference to it shows when.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from precrop.modules.apart import apart
from precrop.modules.names import named_tensors
from precrop.read.examples import tensors_in
from precrop.read.meta import MetaKernels, computed
from precrop.read.plain import OtherAttention, PlainLayers, plain
from precrop.read.trace import base_name, tensors_among

INPUT = -1
"""Stands for the index of the call that makes the network's inputs."""

_READ = "stream_read"
"""The traced operation by which a layer reads its part of a residual stream."""
_SHARING = (torch.ops.aten._unsafe_view.default, torch.ops.aten._reshape_alias.default)
"""Operations whose output shares its input's memory although their schema does not say so."""
_HEADED = 4
"""Number of axes of the operands of attention kernels: batch, heads, positions, channels."""


@dataclass(slots=True)
class Life:
    """One storage: where it is made, and how long it lives.

    Attributes:
        call: index of the ATen call that made it; `INPUT` for a network's input.
        output: index among the call's outputs or the network's inputs.
        elements: number of elements of the tensor that it was made for.
        bytes: size of one element.
        last: index of the last call at whose end it is alive.
    """

    call: int
    output: int
    elements: int
    bytes: int
    last: int = -1


@dataclass
class Lifetimes:
    """All storages of one forward pass.

    Attributes:
        lives: the life of every storage.
        names: the names of the calls.
        sizes: the numbers of elements of each call's outputs.
    """

    lives: list[Life] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    sizes: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """The most bytes of all storages that are alive at one time."""
        return max(
            sum(one.elements * one.bytes for one in self.lives if one.call <= call <= one.last)
            for call in range(INPUT, len(self.sizes))
        )


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes when storages are made and freed; those in ``fixed`` (the model's) are not counted."""

    def __init__(self, meta: MetaKernels | None, fixed: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.meta, self.found = meta, Lifetimes()
        self.random = torch.Generator().manual_seed(0)
        self.known: dict[int, tuple[Any, Life | None]] = {
            reference.cdata: (reference, None) for reference in map(_reference, fixed)
        }

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        parts = self.parts(op)
        if parts is not None:
            with self:
                return parts(*args, **kwargs)
        index = len(self.found.sizes)
        self.bury(index - 1)
        meta = None if self.meta is None else self._run
        tensors = tensors_among((*args, *kwargs.values()))
        out = computed(meta, op, args, kwargs, tensors, self.random)
        outputs = tensors_among((out,))
        self.found.names.append(base_name(op))
        self.found.sizes.append(tuple(tensor.numel() for tensor in outputs))
        for position, tensor in enumerate(outputs):
            self.note(index, position, tensor)
        return out

    def _run(self, op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return an operation's result on meta tensors."""
        if base_name(op) == _READ:
            return _leading(*args)
        if op in _SHARING or self.meta is None:
            return op(*args, **kwargs)
        return self.meta(op, args, kwargs)

    def parts(self, op: Any) -> Callable[..., Any] | None:
        """Return a function that computes a fused operation by plain ones, or None."""
        return plain(op)

    def note(self, call: int, output: int, tensor: Tensor) -> None:
        """Note the storage of a call's output, unless it is known (of a view, say)."""
        reference = _reference(tensor)
        if reference.cdata not in self.known:
            life = Life(call, output, tensor.numel(), tensor.element_size())
            self.found.lives.append(life)
            self.known[reference.cdata] = (reference, life)

    def bury(self, call: int) -> None:
        """Note that storages freed since the last look were alive until the end of ``call``."""
        for key, (reference, life) in list(self.known.items()):
            if life is not None and reference.expired():
                life.last = call
                del self.known[key]

    def join(self, first: int) -> None:
        """Treat the calls from ``first`` on as one kernel: forget storages freed since then."""
        self.bury(len(self.found.sizes) - 1)
        alive = {id(life) for _, life in self.known.values()}
        self.found.lives = [x for x in self.found.lives if x.call < first or id(x) in alive]


def kernel_attention(watch: Watch | None = None) -> OtherAttention:
    """Make attention use as much memory as PyTorch's fused kernels do.

    In a trace, `scaled_dot_product_attention` is two matrix products with a matrix of attention
    weights between them. A fused kernel keeps only one number per row of that matrix, and its
    output lies in memory as (batch, positions, heads, channels).

    Args:
        watch: forgets the tensors that a kernel would not hold.
    """

    def attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        first = len(watch.found.sizes) if watch is not None else 0
        output = F.scaled_dot_product_attention(query, key, value, *args, **kwargs)
        if query.dim() == _HEADED and query.shape[-1] == value.shape[-1]:
            output = output.transpose(1, 2).contiguous().transpose(1, 2)
            dtype = max(query.dtype, torch.float32, key=lambda one: one.itemsize)
            row_sums = torch.empty(query.shape[:-1], dtype=dtype, device=query.device)
            if watch is not None:
                watch.join(first)
            del row_sums
        return output

    return OtherAttention(attention)


def _leading(x: Tensor, dim: int, size: int, path: str) -> Tensor:
    """Return what a layer reads of a residual stream: in a built network, a view of the stream.

    It has the strides of a contiguous tensor, so that the calls after it stay the same.
    """
    shape = [size if axis == dim else n for axis, n in enumerate(x.shape)]
    return x.as_strided(shape, x.new_empty(shape).stride())


def _reference(tensor: Tensor) -> Any:
    """Return a weak reference to a tensor's storage."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def lifetimes(
    model: nn.Module, args: Sequence[Tensor], kwargs: Mapping[str, Tensor], meta: MetaKernels | None
) -> Lifetimes:
    """Return the lives of all storages in ``model(*args, **kwargs)``; the caller holds the inputs.

    The model is on meta tensors, or on real ones if ``meta`` is None.
    """
    watch = Watch(meta, [*named_tensors(model).values()])
    return watched(watch, kernel_attention(watch), model, args, kwargs)


def watched(
    watch: Watch,
    layers: PlainLayers,
    model: nn.Module,
    args: Sequence[Tensor],
    kwargs: Mapping[str, Tensor],
) -> Lifetimes:
    """Run ``model(*args, **kwargs)`` under a watch; ``layers`` takes fused layers apart."""
    for position, tensor in enumerate(tensors_in((args, kwargs))):
        watch.note(INPUT, position, tensor)
    with apart(), torch.no_grad(), layers, watch:
        output = model(*args, **kwargs)
    last = len(watch.found.sizes) - 1
    watch.bury(last)
    for _, life in watch.known.values():
        if life is not None:
            life.last = last
    del output
    return watch.found
