"""Convolutions in float32 where bf16 is slow."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precrop.training.kernels import CpuKernels, slow_in_bf16

CHANNELS = 6


def layer(kernel: int = 3, stride: int = 1, filters: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(
        CHANNELS,
        filters * CHANNELS,
        kernel,
        stride,
        padding=kernel // 2,
        groups=CHANNELS,
        bias=bias,
    )


def trained(module: nn.Conv2d, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Result, gradient of the images, gradient of the weights."""
    images = images.clone().requires_grad_()
    module.zero_grad()
    with torch.autocast("cpu", torch.bfloat16), CpuKernels():
        result = module(images)
    result.float().square().sum().backward()
    assert images.grad is not None
    assert module.weight.grad is not None
    return result, images.grad, module.weight.grad


@pytest.mark.parametrize(
    "module",
    [layer(stride=2), layer(5), layer(7, 2, bias=True), layer(filters=2), layer(bias=True)],
    ids=str,
)
def test_results_and_gradients(module: nn.Conv2d) -> None:
    torch.manual_seed(0)
    images = torch.randn(4, CHANNELS, 9, 9)
    result, *gradients = trained(module, images)
    assert result.dtype == torch.bfloat16
    exact = images.double().requires_grad_()
    weight = module.weight.detach().double().requires_grad_()
    bias = None if module.bias is None else module.bias.detach().double()
    options: Any = (module.stride, module.padding, module.dilation, module.groups)
    expected = F.conv2d(exact, weight, bias, *options)
    torch.testing.assert_close(result.double(), expected, rtol=1e-2, atol=1e-2)
    # The loss's gradient is twice the result, which bf16 rounds to 8 bits.
    expected.square().sum().backward()
    for found, right in zip(gradients, (exact.grad, weight.grad), strict=True):
        assert right is not None
        torch.testing.assert_close(
            found.double(), right, rtol=2e-2, atol=2e-2 * right.abs().max().item()
        )


def test_float32_is_more_precise_than_bf16() -> None:
    """What is computed in float32 is rounded once, at the end."""
    torch.manual_seed(0)
    module, images = layer(stride=2), torch.randn(4, CHANNELS, 9, 9)
    with torch.autocast("cpu", torch.bfloat16), CpuKernels():
        result = module(images)
    assert torch.equal(result, module(images).bfloat16())


def test_what_is_slow() -> None:
    images, small = torch.randn(2, CHANNELS, 9, 9), torch.randn(2, CHANNELS, 9, 2)
    weight, larger = torch.randn(CHANNELS, 1, 3, 3), torch.randn(CHANNELS, 1, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        for stride in (2, (1, 2)):
            assert slow_in_bf16(images, weight, stride, CHANNELS)
        assert slow_in_bf16(images, larger, 1, CHANNELS)
        assert slow_in_bf16(small, weight, 1, CHANNELS)
        for stride in (1, (1, 1)):
            assert not slow_in_bf16(images, weight, stride, CHANNELS)
        assert slow_in_bf16(images, weight.repeat(2, 1, 1, 1), 1, CHANNELS)
        assert not slow_in_bf16(images, torch.randn(CHANNELS, 3, 5, 5), 2, CHANNELS // 3)
        assert not slow_in_bf16(images, torch.randn(4, CHANNELS, 3, 3), 2, 1)
    assert not slow_in_bf16(images, weight, 2, CHANNELS)


def test_other_precisions_are_left_alone() -> None:
    torch.manual_seed(0)
    module, images = layer(stride=2), torch.randn(4, CHANNELS, 9, 9)
    with CpuKernels():
        assert torch.equal(module(images), F.conv2d(images, module.weight, None, 2, 1, 1, CHANNELS))
    with torch.autocast("cpu", torch.bfloat16), CpuKernels():
        assert module.double()(images.double()).dtype == torch.bfloat16
