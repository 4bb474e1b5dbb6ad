"""Convolutions without strides where a kernel of PyTorch writes beyond its memory."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from precrop.modules import convolutions
from precrop.modules.convolutions import SafeConvolutions, overwrites_memory

CHANNELS = 6


@pytest.fixture
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "WITHOUT_AVX512", True)


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
    with SafeConvolutions():
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
    monkeypatch.setattr(convolutions, "WITHOUT_AVX512", False)
    assert not overwrites_memory(narrow, weight, (2, 2), (0, 0))


NARROW = """
import torch
from torch import nn
layer = nn.Conv2d(5, 10, 1, stride=2)
network = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())
network.to(memory_format=torch.channels_last)
images = torch.randn(64, 5, 32, 32).to(memory_format=torch.channels_last)
"""
"""A network whose gradient PyTorch's kernel writes too far."""
TRAINED = """
from {module} import {mode}
for _ in range(4):
    with {mode}():
        loss = network(images).square().mean()
    loss.backward()
"""
SCORED = """
from precrop.pruning.api import densities
data = [(images, torch.arange(64) % 10)]
for method in 4 * ["snip", "grasp"]:
    densities(network, (5, 32, 32), method=method, params=0.5, data=data)
"""
EAGER = TRAINED.format(module="precrop.training.kernels", mode="CpuKernels")
SAFE = TRAINED.format(module="precrop.modules.convolutions", mode="SafeConvolutions")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="no x86 instructions")
@pytest.mark.parametrize(
    "script",
    [
        EAGER,
        "network.compile(backend='aot_eager', fullgraph=True)\n" + SAFE,
        SCORED,
    ],
    ids=["trained", "compiled", "scored"],
)
def test_narrow_shortcuts_without_avx512(script: str) -> None:
    """In a process of its own: without what is done here it is killed, most of the time."""
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", NARROW + script],
        env={**os.environ, **limits, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
