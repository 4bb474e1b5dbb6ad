"""A convolution that PyTorch's CPU kernels get wrong, computed another way.

Without AVX-512, in float32 and channels last, the gradient of the weights of a 1x1 convolution with
a stride and fewer than 8 input channels overwrites memory that is not its own, which crashes the
process (`scripts/convolution_crash.py`). Here the pixels that it looks at are picked out first.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from precrop.modules.instead import Instead

Pair = int | tuple[int, ...]
"""One number for both sides, or one for each."""
_VECTOR = 8
"""Numbers of float32 in a register of AVX2."""
WITHOUT_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX2"
"""Whether the kernel is used here; asked once, as a compiled network cannot ask."""


def conv2d(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`, whose gradients are safe on every CPU."""
    if overwrites_memory(images, weight, stride, padding):
        rows, columns = sides(stride)
        images, stride = images[..., ::rows, ::columns], 1
    options: Any = (stride, padding, dilation, groups)
    return F.conv2d(images, weight, bias, *options)


def overwrites_memory(images: Tensor, weight: Tensor, stride: Pair, padding: Pair | str) -> bool:
    """Whether the gradient of the weights would be computed by a kernel that writes too far."""
    if not WITHOUT_AVX512 or images.device.type != "cpu":
        return False
    if weight.shape[2:] != (1, 1) or images.shape[-3] >= _VECTOR:
        return False
    return sides(stride) != (1, 1) and padding in (0, (0, 0), "valid")


SafeConvolutions = partial(Instead, {F.conv2d: conv2d})
"""Within it, convolutions are those of `conv2d`, also of a network that is compiled."""


def sides(pair: Pair) -> tuple[int, int]:
    """The number for rows and that for columns."""
    both = (pair,) if isinstance(pair, int) else pair
    return both[0], both[-1]
