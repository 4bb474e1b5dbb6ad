"""Runs operations on meta tensors more quickly than PyTorch's own meta kernels do.

Those are written in Python and take most of a trace's time. Shortcuts compute the outputs of the
few operations that convolutional networks mostly consist of, a cache answers repeated calls, and
PyTorch does everything else, errors included.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from precrop.modules.random import drawn
from precrop.read.operations import per_operation

aten = torch.ops.aten

Shortcut = Callable[..., Any]
"""Takes an operation's positional arguments; returns its result, or None if it is not certain."""


def _key(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (value.shape, value.stride(), value.dtype)
    if isinstance(value, (list, tuple)):
        return tuple(map(_key, value))
    # 1, 1.0 and True are equal as keys, but not to an operation.
    return value if value is None else (type(value), value)


class MetaKernels:
    """Runs operations on meta tensors; equal calls are computed once."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def __call__(self, op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the operation's result."""
        shortcut, functional = _kind(op)
        if shortcut is not None and not kwargs:
            result = shortcut(*args)
            if result is not None:
                return result
        if not functional:
            return op(*args, **kwargs)
        try:
            key = (id(op), _key(args), _key(tuple(kwargs.items())) if kwargs else ())
            known = self._known.get(key)
        except TypeError:  # an unhashable argument, such as a random generator
            return op(*args, **kwargs)
        if known is None:
            return self._remember(key, op(*args, **kwargs))
        several, specs = known
        made = tuple(
            torch.empty_strided(shape, stride, dtype=dtype, device="meta")
            for shape, stride, dtype in specs
        )
        return made if several else made[0]

    def _remember(self, key: Any, result: Any) -> Any:
        outputs = result if isinstance(result, tuple) else (result,)
        if all(isinstance(o, Tensor) and o.is_meta for o in outputs):
            specs = [(o.shape, o.stride(), o.dtype) for o in outputs]
            self._known[key] = (isinstance(result, tuple), specs)
        return result


def _like(x: Tensor) -> Tensor:
    """Return an empty tensor of the same layout; ``empty_like`` takes twenty times as long."""
    if not x.is_contiguous():
        return torch.empty_like(x)
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def _empty(shape: Sequence[int], x: Tensor) -> Tensor:
    return torch.empty(tuple(shape), dtype=x.dtype, device="meta")


def _like_first(x: Tensor, *others: Any) -> Tensor | None:
    """Return an elementwise operation's result if all operands have the same layout."""
    return _like(x) if _same_layout(x, others) else None


def _first(x: Tensor, *others: Any) -> Tensor | None:
    """Return an in-place operation's result under the same condition."""
    return x if _same_layout(x, others) else None


def _same_layout(x: Tensor, others: Sequence[Any]) -> bool:
    return x.is_floating_point() and all(
        other.shape == x.shape and other.dtype == x.dtype and other.stride() == x.stride()
        if isinstance(other, Tensor)
        else not isinstance(other, complex)
        for other in others
    )


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    *_: Any,
) -> tuple[Tensor, ...] | None:
    channels = x.shape[1:2]
    if x.dtype != torch.float32 or any(
        v is not None and (v.shape != channels or v.dtype != x.dtype)
        for v in (weight, bias, mean, variance)
    ):
        return None
    # In eval mode the saved statistics are empty.
    saved = channels if training else (0,)
    return _like(x), _empty(saved, x), _empty(saved, x)


def _mean(x: Tensor, dims: Sequence[int] | None, keep: bool = False) -> Tensor | None:
    """Return a mean that keeps its axes (``keepdim``), as in a global pool."""
    if not keep or not dims or not x.is_floating_point():
        return None
    if not all(-x.dim() <= dim < x.dim() for dim in dims):
        return None
    meant = {dim % x.dim() for dim in dims}
    return _empty([1 if i in meant else n for i, n in enumerate(x.shape)], x)


def _plain(tensors: Sequence[Tensor | None]) -> bool:
    """Whether tensors are float32 and have the strides of new ones."""
    return all(
        tensor is None or (tensor.dtype == torch.float32 and tensor.stride() == _strides(tensor))
        for tensor in tensors
    )


def _strides(x: Tensor) -> tuple[int, ...]:
    """Return a new tensor's strides; contiguous ones may differ from them at axes of size 1."""
    sizes = [max(size, 1) for size in x.shape[1:]]
    return tuple(prod(sizes[axis:]) for axis in range(x.dim()))


def _addmm(bias: Tensor, x: Tensor, weight: Tensor, *_: Any) -> Tensor | None:
    """Return a linear layer's product; None for sizes that do not fit, so that PyTorch raises."""
    if (x.dim(), weight.dim()) != (2, 2) or not _plain((bias, x, weight.t())):
        return None
    shape = x.shape[0], weight.shape[1]
    return _empty(shape, x) if x.shape[1] == weight.shape[0] and bias.shape == shape[1:] else None


def _layer_norm(
    x: Tensor, axes: Sequence[int], weight: Tensor | None, bias: Tensor | None, *_: Any
) -> tuple[Tensor, ...] | None:
    kept = x.dim() - len(axes)
    shapes = [x.shape[kept:], *(v.shape for v in (weight, bias) if v is not None)]
    if not axes or any(list(shape) != [*axes] for shape in shapes) or not _plain((x, weight, bias)):
        return None
    each = (*x.shape[:kept], *[1] * len(axes))
    return _like(x), _empty(each, x), _empty(each, x)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    axes = tensors[0].dim() if tensors else 0
    if not -axes <= dim < axes or {x.dim() for x in tensors} != {axes} or not _plain(tensors):
        return None
    dim %= axes
    if len({(*x.shape[:dim], *x.shape[dim + 1 :]) for x in tensors}) != 1:
        return None
    made = [*tensors[0].shape]
    made[dim] = sum(x.shape[dim] for x in tensors)
    return _empty(made, tensors[0])


Kernels = Callable[[Any, Sequence[Any], Mapping[str, Any]], Any]
"""Computes an operation's result on meta tensors, as `MetaKernels` does."""


def computed(
    meta: Kernels | None,
    op: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    tensors: Sequence[Tensor],
    random: torch.Generator,
) -> Any:
    """Return an operation's result in a pass on meta tensors, or on real ones if ``meta`` is None.

    ``tensors`` are the tensors among its arguments. Random numbers come from ``random``.
    """
    devices = {tensor.is_meta for tensor in tensors}
    if meta is None or True not in devices:
        return drawn(op, args, kwargs, random)
    if False in devices:
        return _mixed(meta, op, args, kwargs)
    return meta(op, args, kwargs)


def _mixed(run: Kernels, op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return an operation's result where CPU constants made in forward meet meta tensors.

    If it writes into a constant, the result is the constant itself, as later calls expect.
    """
    written: dict[int, Tensor] = {}

    def moved(tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            return tensor
        made = tensor.to("meta")
        written[id(made)] = tensor
        return made

    args, kwargs = tree_map_only(Tensor, moved, (args, kwargs))
    out = run(op, args, kwargs)
    return tree_map_only(Tensor, lambda tensor: written.get(id(tensor), tensor), out)


_ELEMENTWISE = (
    "relu", "hardtanh", "silu", "sigmoid", "hardswish", "hardsigmoid", "gelu", "add", "mul",
)  # fmt: skip


@per_operation
def _kind(op: Any) -> tuple[Shortcut | None, bool]:
    """Return an operation's shortcut, and whether it neither writes to nor views its arguments."""
    schema = op._schema
    functional = all(a.alias_info is None for a in (*schema.arguments, *schema.returns))
    if schema.name.removeprefix("aten::").rstrip("_") in _ELEMENTWISE:
        return (_like_first if functional else _first), functional
    return _SHORTCUTS.get(op), functional


_SHORTCUTS: dict[Any, Shortcut] = {
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.addmm.default: _addmm,
    aten.cat.default: _cat,
    aten.mean.dim: _mean,
}
