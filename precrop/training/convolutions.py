"""Convolutions that PyTorch's CPU kernels are slow or wrong at.

In bf16 they are fast for depthwise convolutions of 3x3 without stride. The backward pass of others
(a stride, another kernel, several filters a channel, maps smaller than the kernel) takes up to 50
times as long as in float32: here they are computed in float32.

Without AVX-512, in float32 and channels last, the gradient of the weights of a 1x1 convolution with
a stride and fewer than 8 input channels overwrites memory that is not its own, which crashes the
process (`scripts/convolution_crash.py`). Here the pixels that it looks at are picked out first.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = int | tuple[int, ...]
"""One number for both sides, or one for each."""
_VECTOR = 8
"""Numbers of float32 in a register of AVX2."""


def conv2d(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`; what is computed in float32 for speed comes back in bf16."""
    if overwrites_memory(images, weight, stride, padding):
        rows, columns = _sides(stride)
        images, stride = images[..., ::rows, ::columns], 1
    options: Any = (stride, padding, dilation, groups)
    if not slow_in_bf16(images, weight, stride, groups):
        return F.conv2d(images, weight, bias, *options)
    with torch.autocast("cpu", enabled=False):
        given = None if bias is None else bias.float()
        return F.conv2d(images.float(), weight.float(), given, *options).bfloat16()


def slow_in_bf16(images: Tensor, weight: Tensor, stride: Pair, groups: int) -> bool:
    """Whether the convolution would be done by a slow kernel."""
    if groups == 1 or weight.shape[1] != 1 or images.device.type != "cpu":
        return False
    if not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return False
    usual = len(weight) == groups and weight.shape[2:] == (3, 3) and _sides(stride) == (1, 1)
    return not usual or min(images.shape[2:]) < 3


def overwrites_memory(images: Tensor, weight: Tensor, stride: Pair, padding: Pair | str) -> bool:
    """Whether the gradient of the weights would be computed by a kernel that writes too far."""
    if images.device.type != "cpu" or weight.shape[2:] != (1, 1) or images.shape[-3] >= _VECTOR:
        return False
    strided = _sides(stride) != (1, 1) and padding in (0, (0, 0), "valid")
    return strided and torch.backends.cpu.get_cpu_capability() == "AVX2"


def _sides(pair: Pair) -> tuple[int, int]:
    both = (pair,) if isinstance(pair, int) else pair
    return both[0], both[-1]
