"""Batch norms of few channels, at a CPU cost in proportion to their size.

PyTorch's CPU kernels for channels_last images vectorise over the channels. Channels that do not
fill whole vectors of 16 numbers are computed one by one: a layer cropped from 16 channels to 8 then
takes longer than before (docs/speed-of-training.md). Here k neighbouring pixels are read as one
pixel with k times as many channels, and the statistics of the k parts are combined afterwards. The
result equals that of `torch.nn.functional.batch_norm` up to rounding.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_VECTOR = 16
"""Channels in multiples of it fill vectors already."""
_FILLED = 32
"""Other channels are filled up to multiples of it: the bf16 numbers of a 512-bit register."""
_aten = torch.ops.aten


def batch_norm(
    images: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Compute `torch.nn.functional.batch_norm`, by the code of this module where that is faster."""
    times = pixels_together(images)
    given = [t for t in (running_mean, running_var, weight, bias) if t is not None]
    if times == 1 or len(given) < 4 or any(t.dtype != torch.float32 for t in given):
        return F.batch_norm(
            images, running_mean, running_var, weight, bias, training, momentum, eps
        )
    if not training:
        past_mean, past_var, weights, biases = (tensor.repeat(times) for tensor in given)
        normalised = F.batch_norm(
            _pixels(images, times), past_mean, past_var, weights, biases, eps=eps
        )
        return _images(normalised, images)
    past_mean, past_var, *affine = given
    result, mean, var = _Together.apply(images, *affine, times, eps)
    count = images.numel() // len(mean)
    past_mean.lerp_(mean, momentum)
    past_var.mul_(1 - momentum).add_(var, alpha=momentum * count / (count - 1))
    return cast(Tensor, result)


def pixels_together(images: Tensor) -> int:
    """Return how many neighbouring pixels to read as one, so that their channels fill vectors."""
    if images.device.type != "cpu" or images.ndim != 4 or not images.numel():
        return 1
    channels = images.shape[1]
    if not channels % _VECTOR or not images.is_contiguous(memory_format=torch.channels_last):
        return 1
    return math.gcd(images.numel() // channels, _FILLED // math.gcd(channels, _FILLED))


class _Together(torch.autograd.Function):
    """Maps images to normalised images, and to the mean and variance of each channel."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, times: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise each channel over all pixels of all images."""
        pixels = _pixels(images, times)
        # Given float32 to update, the kernel returns float32 statistics of bf16 images, too.
        unused = torch.zeros(pixels.shape[1])
        means, variances = _aten.batch_norm_update_stats(pixels, unused, unused.clone(), 0.0)
        means = means.view(times, -1)
        mean = means.mean(0)
        var = variances.view(times, -1).mean(0) + means.var(0, correction=0)
        affine = _repeated(torch.stack((weight, bias, mean, var)), times)
        result, _, _ = _aten.native_batch_norm(pixels, *affine.unbind(), False, 0.0, eps)
        ctx.save_for_backward(images, affine)
        ctx.times, ctx.eps = times, eps
        ctx.mark_non_differentiable(mean, var)
        return _owned(_images(result, images)), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Return the gradient for constant mean and variance, plus what flows through these."""
        images, affine = ctx.saved_tensors
        weight, _, mean, var = affine.unbind()
        pixels = _pixels(images, ctx.times)
        given = _pixels(gradient.contiguous(memory_format=torch.channels_last), ctx.times)
        direct, *sums = _aten.native_batch_norm_backward(
            given, pixels, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        channels = images.shape[1]
        by_channel = torch.stack(sums).view(2, ctx.times, channels).sum(1)
        scale = weight[:channels] * (var[:channels] + ctx.eps).rsqrt()
        through = by_channel * (scale * (-channels / images.numel()))
        slope, level = _repeated(through, ctx.times).unbind()
        added, _, _ = _aten.native_batch_norm(pixels, slope, level, mean, var, False, 0.0, ctx.eps)
        return _images(direct.add_(added), images), *by_channel.unbind(), None, None


def _pixels(images: Tensor, times: int) -> Tensor:
    """View (B, C, H, W) in channels_last as (pixels / times, C * times), without a copy."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1] * times)


def _owned(view: Tensor) -> Tensor:
    """Return a tensor on the same memory that is not a view: an activation may not change a view
    that a function returns in place.
    """
    memory = view.untyped_storage(), view.storage_offset(), view.shape, view.stride()
    return view.new_empty(0).set_(*memory)


def _repeated(rows: Tensor, times: int) -> Tensor:
    """Repeat (R, C) as (R, C * times); `Tensor.repeat` takes twice as long."""
    # With one channel the expanded rows are a view, whose strides the kernels ignore.
    return rows.unsqueeze(1).expand(-1, times, -1).flatten(1).contiguous()


def _images(pixels: Tensor, like: Tensor) -> Tensor:
    batch, channels, height, width = like.shape
    return pixels.view(batch, height, width, channels).permute(0, 3, 1, 2)
