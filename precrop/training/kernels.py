"""Replacements for PyTorch's CPU kernels in training, where these are slow or wrong.

Batch norms of few channels use `precrop.training.narrow`. Depthwise convolutions in bf16 are fast
in PyTorch if they are 3x3 with stride 1. The backward pass of others (a stride, another kernel
size, several filters per channel, maps smaller than the kernel) takes up to 50 times as long as in
float32, so they are computed in float32 here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from precrop.modules import convolutions
from precrop.modules.convolutions import Pair, sides
from precrop.modules.instead import Instead
from precrop.training.narrow import batch_norm


class CpuKernels(Instead):
    """Within it, batch norms of few channels and some convolutions use this module's functions.

    They only take over on a CPU, and only where that is faster or safer.
    """

    def __init__(self) -> None:
        super().__init__({F.batch_norm: batch_norm, F.conv2d: conv2d})


def conv2d(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Call `precrop.modules.convolutions.conv2d`; what is slow in bf16 is computed in float32."""
    options = (stride, padding, dilation, groups)
    if not slow_in_bf16(images, weight, stride, groups):
        return convolutions.conv2d(images, weight, bias, *options)
    with torch.autocast("cpu", enabled=False):
        given = None if bias is None else bias.float()
        return convolutions.conv2d(images.float(), weight.float(), given, *options).bfloat16()


def slow_in_bf16(images: Tensor, weight: Tensor, stride: Pair, groups: int) -> bool:
    """Whether PyTorch has only a slow kernel for this convolution in bf16."""
    if groups == 1 or weight.shape[1] != 1 or images.device.type != "cpu":
        return False
    if not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return False
    usual = len(weight) == groups and weight.shape[2:] == (3, 3) and sides(stride) == (1, 1)
    return not usual or min(images.shape[2:]) < 3
