"""Measures the peak memory of a forward pass, as PyTorch's allocators record it."""

import os
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from precrop.deployment.setting import Setting
from precrop.errors import PrecropError, errors_as, typed_reason
from precrop.modules.copying import copied
from precrop.read.inputs import Inputs


def peak_activation_memory(model: nn.Module, inputs: Inputs, setting: Setting) -> int:
    """Return a forward pass' peak memory in bytes, without parameters and buffers.

    The pass is eager, in eval and inference mode and PyTorch's default memory format, after a
    warm-up pass that fills caches. It counts the input and all that PyTorch's allocator gives to
    operations, such as unfolded images (im2col) and cuDNN's workspaces, but not oneDNN's
    scratchpads and what other libraries allocate on the CPU. PyTorch also chooses kernels by the
    number of threads: one image on one thread is often unfolded, on two it is not.

    Args:
        model: the network; it is not changed.
        inputs: shapes without the batch.
        setting: gives the batch size and the device; PyTorch's number of threads is not changed.

    Raises:
        PrecropError: the network fails, or this PyTorch cannot record memory.
    """
    device = torch.device(setting.device)
    network = copied(model, lambda _, tensor: tensor.detach().to(device)).eval()

    def forward() -> None:
        """Make the input, run the network on it and drop both."""
        args, kwargs = inputs.make(setting.batch, network, setting.device)
        network(*args, **kwargs)

    failure = "the network cannot run"
    with errors_as(failure, RuntimeError, told=typed_reason), torch.inference_mode():
        forward()
        return _peak_on_cpu(forward) if device.type == "cpu" else _peak_on_gpu(forward, device)


def _peak_on_gpu(forward: Callable[[], None], device: torch.device) -> int:
    """Return the caching allocator's peak, less what was allocated before the pass."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    forward()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(forward: Callable[[], None]) -> int:
    """Return the largest running sum of allocations and releases that `torch.profiler` records."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler logs its start
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        forward()
    profiler: Any = profile.profiler
    records = [one for one in profiler.kineto_results.events() if one.name() == "[memory]"]
    if not records:
        raise PrecropError("this PyTorch records no memory: its profiler (Kineto) is missing")
    records.sort(key=lambda one: one.start_ns())
    return max(accumulate((int(one.nbytes()) for one in records), initial=0))
