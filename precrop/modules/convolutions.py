"""Works around a convolution whose gradient crashes in PyTorch's CPU kernels.

Without AVX-512, in float32 and channels last, the gradient of the weights of a strided 1x1
convolution with fewer than 8 input channels writes beyond its memory, which crashes the process
(`scripts/convolution_crash.py`). Here the image is subsampled first, so that the stride is 1.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from precrop.modules.instead import Instead

Pair = int | tuple[int, ...]
"""One number for height and width, or one for each."""
_VECTOR = 8
"""Float32 numbers in an AVX2 register."""
WITHOUT_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX2"
"""Whether this CPU uses the faulty kernel; asked on import, as a compiled network cannot ask."""


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
    """Whether the kernel that writes beyond its memory might compute the weights' gradient."""
    if not WITHOUT_AVX512 or images.device.type != "cpu":
        return False
    if weight.shape[2:] != (1, 1) or images.shape[-3] >= _VECTOR:
        return False
    return sides(stride) != (1, 1) and padding in (0, (0, 0), "valid")


SafeConvolutions = partial(Instead, {F.conv2d: conv2d})
"""A context in which convolutions are computed by `conv2d`, also in compiled networks."""


def sides(pair: Pair) -> tuple[int, int]:
    """Return the number for rows and the number for columns."""
    both = (pair,) if isinstance(pair, int) else pair
    return both[0], both[-1]
