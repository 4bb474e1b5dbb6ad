"""Convolutions that PyTorch's CPU kernels are slow at in bf16.

They are fast for depthwise convolutions of 3x3 without stride. The backward pass of others (a
stride, another kernel, several filters a channel, maps smaller than the kernel) takes up to 50
times as long as in float32: here they are computed in float32.
"""

import torch
from torch import Tensor

from precrop.modules import convolutions
from precrop.modules.convolutions import Pair, sides


def conv2d(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """`precrop.modules.convolutions.conv2d`; what is computed in float32 comes back in bf16."""
    options = (stride, padding, dilation, groups)
    if not slow_in_bf16(images, weight, stride, groups):
        return convolutions.conv2d(images, weight, bias, *options)
    with torch.autocast("cpu", enabled=False):
        given = None if bias is None else bias.float()
        return convolutions.conv2d(images.float(), weight.float(), given, *options).bfloat16()


def slow_in_bf16(images: Tensor, weight: Tensor, stride: Pair, groups: int) -> bool:
    """Whether the convolution would be done by a slow kernel."""
    if groups == 1 or weight.shape[1] != 1 or images.device.type != "cpu":
        return False
    if not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return False
    usual = len(weight) == groups and weight.shape[2:] == (3, 3) and sides(stride) == (1, 1)
    return not usual or min(images.shape[2:]) < 3
