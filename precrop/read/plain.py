"""Replaces operations that PyTorch fuses by plain ones.

A trace must show what a layer computes, whatever PyTorch fuses it into and on whatever device it
runs. PyTorch's own switches for this affect all threads. So a trace replaces each fused operation
that it meets by those that run on meta tensors and whose MACs are counted.
"""

import math
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from precrop.modules.instead import Instead
from precrop.read.operations import per_operation

aten = torch.ops.aten


class PlainLayers(Instead):
    """Keeps layers off their fused paths, which PyTorch does not take under a function mode.

    If the default dtype is neither float32 nor the network's own, tensors that would get it are
    made float32, so that a network reads the same whatever the default is.

    Args:
        own: the network's floating type.
    """

    def __init__(self, own: torch.dtype = torch.float32) -> None:
        super().__init__({F.one_hot: _one_hot})
        default = torch.get_default_dtype()
        self.default = None if default in (own, torch.float32) else default

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        function = self.others.get(function, function)
        if self.default is None:
            return function(*args, **kwargs)
        if function in (torch.rand, torch.randn):
            kwargs = {"dtype": torch.float32, **kwargs}  # the numbers drawn depend on the dtype
        result = function(*args, **kwargs)
        if not isinstance(result, Tensor) or result.dtype != self.default:
            return result
        given = (*args, *kwargs.values())
        types = (value.dtype if isinstance(value, Tensor) else value for value in given)
        return result if any(one is self.default for one in types) else result.to(torch.float32)


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Compute one-hot rows without a look at the values, unless their length must be found.

    PyTorch's own refuses a value that is too large, as one from a pass with longer rows may be.
    """
    if num_classes < 0:
        return F.one_hot(tensor)
    places = torch.arange(num_classes, device=tensor.device)
    return (tensor.unsqueeze(-1) == places).long()


class OtherAttention(PlainLayers):
    """Computes attention by another function, also in PyTorch's attention blocks.

    Args:
        attention: has the arguments of `torch.nn.functional.scaled_dot_product_attention`.
        own: the network's floating type.
    """

    def __init__(self, attention: Callable[..., Tensor], own: torch.dtype = torch.float32) -> None:
        super().__init__(own)
        # A copy of PyTorch's function for attention blocks, in which these two names are replaced.
        block = F.multi_head_attention_forward
        names = {
            **block.__globals__,
            "scaled_dot_product_attention": attention,
            "has_torch_function": lambda _: False,
        }
        other = FunctionType(block.__code__, names, argdefs=block.__defaults__)
        self.others = {**self.others, F.scaled_dot_product_attention: attention, block: other}


@per_operation
def plain(op: Any) -> Callable[..., Any] | None:
    """Return a function that computes a fused operation by plain ones; None if it is plain."""
    if op in _FUSED:
        return _FUSED[op]
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(
        op.name(), "CompositeImplicitAutograd"
    )
    # Composite operations arrive here undecomposed on inference tensors.
    return op.decompose if composite else None


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
    """Compute attention by two matrix products; the attention weights are returned, too."""
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
    """Compute one direction of one LSTM layer over ``x`` of shape (steps, batch, channels)."""
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
    return output, state, cell, cell  # the last one stands for a workspace of the backward pass


def _attention_block(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_head: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    mask: Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute PyTorch's attention block in eval mode, as scripted modules call it."""
    width = embed_dim // num_head
    if query is key and key is value:
        ends = F.linear(query, qkv_weight, qkv_bias).chunk(3, -1)
    else:
        weights, biases = qkv_weight.chunk(3), qkv_bias.chunk(3)
        given = zip((query, key, value), weights, biases, strict=True)
        ends = tuple(F.linear(x, weight, bias) for x, weight, bias in given)
    q, k, v = (end.reshape(*end.shape[:2], num_head, width).transpose(1, 2) for end in ends)
    scores = (q * width**-0.5) @ k.transpose(-2, -1)
    if mask is not None:
        hidden = mask[:, None, None, :] if mask_type == _BY_KEY else mask
        scores = scores.masked_fill(hidden, -math.inf)
    shares = scores.softmax(-1)
    mixed = (shares @ v).transpose(1, 2).reshape(*query.shape[:2], embed_dim)
    if not need_weights:
        shares = shares.new_empty(0)
    elif average_attn_weights:
        shares = shares.mean(1)
    return F.linear(mixed, proj_weight, proj_bias), shares


_BY_KEY = 1
"""The ``mask_type`` of a key padding mask."""


def _encoder_layer(
    x: Tensor,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Tensor,
    norm_bias_1: Tensor,
    norm_weight_2: Tensor,
    norm_bias_2: Tensor,
    ffn_weight_1: Tensor,
    ffn_bias_1: Tensor,
    ffn_weight_2: Tensor,
    ffn_bias_2: Tensor,
    mask: Tensor | None = None,
    mask_type: int | None = None,
) -> Tensor:
    """Compute PyTorch's encoder layer in eval mode, as scripted modules call it."""

    def attend(x: Tensor) -> Tensor:
        ends = (qkv_weight, qkv_bias, proj_weight, proj_bias)
        block = _attention_block(
            x, x, x, embed_dim, num_heads, *ends, mask, need_weights=False, mask_type=mask_type
        )
        return block[0]

    def feed(x: Tensor) -> Tensor:
        x = F.linear(x, ffn_weight_1, ffn_bias_1)
        return F.linear(F.gelu(x) if use_gelu else x.relu(), ffn_weight_2, ffn_bias_2)

    norms = ((norm_weight_1, norm_bias_1), (norm_weight_2, norm_bias_2))
    for step, (weight, bias) in zip((attend, feed), norms, strict=True):
        if norm_first:
            x = x + step(F.layer_norm(x, weight.shape, weight, bias, eps))
        else:
            x = x + step(x)
            x = F.layer_norm(x, weight.shape, weight, bias, eps)
    return x


@torch.library.custom_op("precrop::tensor_of_numbers", mutates_args=())
def _numbers(x: Tensor, size: Sequence[int]) -> Tensor:
    """Stand for a tensor that code makes from a list or an array; the call states its sizes."""
    return x.clone()


_numbers.register_fake(lambda x, size: torch.empty_like(x))


_FUSED: dict[Any, Callable[..., Any]] = {
    aten._native_multi_head_attention.default: _attention_block,
    aten._transformer_encoder_layer_fwd.default: _encoder_layer,
    aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
    aten.mkldnn_rnn_layer.default: _lstm_layer,
    aten.lift_fresh.default: lambda x: torch.ops.precrop.tensor_of_numbers.default(x, x.shape),
}
