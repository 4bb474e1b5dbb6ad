"""Plain operations in place of those that PyTorch fuses.

What a layer computes must show, whatever it is fused into and on whatever device it runs. The
switches that PyTorch has for this are one for all threads, so a trace replaces fused operations
where it meets them, by the operations that meta tensors show and MACs are counted of.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from precrop.read.operations import OfOperations

aten = torch.ops.aten


class PlainLayers(TorchFunctionMode):
    """Keeps layers from their fused paths, which give way to any function mode.

    What is of the default type is of float32, unless the network is of the default type itself: a
    network reads the same whatever the default is when it is read.

    Args:
        own: the network's floating type.
    """

    def __init__(self, own: torch.dtype = torch.float32) -> None:
        super().__init__()
        default = torch.get_default_dtype()
        self.default = None if default in (own, torch.float32) else default

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.default is not None and function in (torch.rand, torch.randn):
            kwargs = {"dtype": torch.float32, **kwargs}  # other types draw other numbers
        result = function(*args, **kwargs)
        if self.default is not None and _is_by_default(self.default, result, args, kwargs):
            return result.to(torch.float32)
        return result


def _is_by_default(
    default: torch.dtype, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bool:
    """Whether a result is of the default type, and nothing that it was made of is."""
    if not isinstance(result, Tensor) or result.dtype != default:
        return False
    given = (*args, *kwargs.values())
    return not any(
        value is default or (isinstance(value, Tensor) and value.dtype == default)
        for value in given
    )


class OtherAttention(PlainLayers):
    """Computes attention in another way; also that of PyTorch's attention blocks.

    Args:
        attention: takes the arguments of `torch.nn.functional.scaled_dot_product_attention`.
        own: the network's floating type.
    """

    def __init__(self, attention: Callable[..., Tensor], own: torch.dtype = torch.float32) -> None:
        super().__init__(own)
        self.attention = attention
        # PyTorch's function for attention blocks, for which alone these names mean others.
        block = F.multi_head_attention_forward
        others = {"scaled_dot_product_attention": attention, "has_torch_function": lambda _: False}
        names = {**block.__globals__, **others}
        self.block = FunctionType(block.__code__, names, argdefs=block.__defaults__)

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is F.scaled_dot_product_attention:
            function = self.attention
        elif function is F.multi_head_attention_forward:
            function = self.block
        return super().__torch_function__(function, types, args, kwargs)


def plain(op: Any) -> Callable[..., Any] | None:
    """What computes a fused operation in plain ones; None if it is plain."""
    return _PLAIN.get(op)


def _parts(op: Any) -> Callable[..., Any] | None:
    if op in _FUSED:
        return _FUSED[op]
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(
        op.name(), "CompositeImplicitAutograd"
    )
    # Where gradients are out of the question (inference tensors) these are not taken apart yet.
    return op.decompose if composite else None


_PLAIN = OfOperations(_parts)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> Any:
    """Attention as two products with a table of weights between them, which is returned too."""
    grouped = query.shape[-3] != key.shape[-3]
    return aten._scaled_dot_product_attention_math.default(
        query, key, value, attn_mask, dropout, causal, scale=scale, enable_gqa=grouped
    )


def _lstm_layer(
    x: Tensor,
    input_weight: Tensor,
    state_weight: Tensor,
    input_bias: Tensor,
    state_bias: Tensor,
    state: Tensor,
    cell: Tensor,
    backwards: bool,
    batch_sizes: Any,
    mode: int,
    hidden_size: int,
    num_layers: int,
    has_biases: bool,
    *rest: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One direction of one layer of an LSTM over ``x`` of shape (steps, batch, channels)."""
    biases = (input_bias, state_bias) if has_biases else (None, None)
    steps = F.linear(x, input_weight, biases[0]).unbind(0)
    outputs = []
    for step in reversed(steps) if backwards else steps:
        gates = F.linear(state, state_weight, biases[1]).add_(step).unsafe_chunk(4, 1)
        taken, kept, shown = (gates[i].sigmoid_() for i in (0, 1, 3))
        cell = (kept * cell).add_(taken * gates[2].tanh_())
        state = shown * cell.tanh()
        outputs.append(state)
    output = torch.stack(outputs[::-1] if backwards else outputs)
    return output, state, cell, cell  # the last one stands for what only a backward pass needs


_FUSED: dict[Any, Callable[..., Any]] = {
    aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
    aten.mkldnn_rnn_layer.default: _lstm_layer,
}
