"""Convolutions in float32 where bf16 is slow, and without strides where a kernel writes too far."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precrop.training.convolutions import overwrites_memory, slow_in_bf16
from precrop.training.kernels import CpuKernels

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


@pytest.fixture
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


@pytest.mark.parametrize("stride", [2, (2,), (1, 3), [2, 1]])
@pytest.mark.parametrize("groups", [1, 2])
def test_strided_pixels_are_picked_out(avx2: None, stride: Any, groups: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, CHANNELS, 7, 8).to(memory_format=torch.channels_last)
    weight, bias = torch.randn(4, CHANNELS // groups, 1, 1), torch.randn(4)
    found, exact = (
        [t.to(dtype, copy=True).requires_grad_() for t in (images, weight, bias)]
        for dtype in (torch.float32, torch.float64)
    )
    assert overwrites_memory(images, weight, stride, 0)
    options: Any = {"stride": stride, "groups": groups}
    with CpuKernels():
        result = F.conv2d(found[0], found[1], found[2], **options)
    expected = F.conv2d(exact[0], exact[1], exact[2], **options)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    result.square().sum().backward()
    expected.square().sum().backward()
    for mine, right in zip(found, exact, strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad.double(), right.grad, rtol=1e-4, atol=1e-4)


def test_what_overwrites_memory(avx2: None, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, wide = torch.randn(2, 7, 9, 9), torch.randn(2, 8, 9, 9)
    weight = torch.randn(4, 7, 1, 1)
    assert overwrites_memory(narrow, weight, (2, 2), (0, 0))
    assert not overwrites_memory(wide, torch.randn(4, 8, 1, 1), 2, 0)
    assert not overwrites_memory(narrow, weight, 1, 0)
    assert not overwrites_memory(narrow, weight, 2, 1)
    assert not overwrites_memory(narrow, torch.randn(4, 7, 3, 3), 2, 0)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert not overwrites_memory(narrow, weight, (2, 2), (0, 0))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="no x86 instructions")
def test_a_narrow_shortcut_trains_without_avx512() -> None:
    """In a process of its own: without what is done here it is killed, most of the time."""
    script = """
import torch
from torch import nn
from precrop.training.kernels import CpuKernels

layer = nn.Conv2d(5, 10, 1, stride=2)
for _ in range(4):
    images = torch.randn(64, 5, 32, 32).to(memory_format=torch.channels_last)
    with CpuKernels():
        layer(images).square().mean().backward()
"""
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **limits, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
