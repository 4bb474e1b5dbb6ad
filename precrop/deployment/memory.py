"""Peak memory of a forward pass, as PyTorch's allocators record it."""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from precrop.deployment.runtimes import Setting, placed_copy
from precrop.errors import PrecropError
from precrop.modules.copying import first_line
from precrop.read.inputs import Inputs


def peak_activation_memory(
    model: nn.Module, inputs: Inputs, *, batch: int, device: str = "cpu"
) -> int:
    """Most bytes that one forward pass holds at once, parameters and buffers not among them.

    The pass is eager, in evaluation and inference mode, in PyTorch's default memory format, and
    comes after one that fills whatever is filled once. The input counts, and what operations
    allocate for themselves too as long as PyTorch's allocator gives it to them: unfolded or
    reordered images, cuDNN's workspaces. oneDNN's scratchpads and what libraries allocate by
    themselves on the CPU do not go through it and are not counted.

    On a GPU it is the caching allocator's own maximum. On a CPU it is the largest sum of the
    allocations and releases that `torch.profiler` records, in their order. PyTorch chooses kernels
    by the number of threads too: one image on one thread is often unfolded, on two it is not.

    Args:
        model: the network; it is only looked at.
        inputs: shapes without the batch.
        batch: images at once.
        device: ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        PrecropError: the device is not there, the batch makes no sense, or the network fails.
    """
    setting = Setting(batch=batch, device=device)
    network = placed_copy(model, setting)
    try:
        if device == "cpu":
            return _peak_on_cpu(network, inputs, batch)
        return _peak_on_gpu(network, inputs, batch, torch.device(device))
    except RuntimeError as error:
        raise PrecropError(f"the network cannot run: {first_line(error)}") from error


def _forward(network: nn.Module, inputs: Inputs, batch: int, device: torch.device) -> None:
    """Make the input, run the network on it and drop both."""
    args, kwargs = inputs.make(batch, network, str(device))
    network(*args, **kwargs)


def _peak_on_gpu(network: nn.Module, inputs: Inputs, batch: int, device: torch.device) -> int:
    with torch.inference_mode():
        _forward(network, inputs, batch, device)
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _forward(network, inputs, batch, device)
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(network: nn.Module, inputs: Inputs, batch: int) -> int:
    device = torch.device("cpu")
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler reports its own start
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.inference_mode():
        _forward(network, inputs, batch, device)
        with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
            _forward(network, inputs, batch, device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profile.export_chrome_trace(str(path))
        trace = json.loads(path.read_text(encoding="utf-8"))
    records = [event for event in trace["traceEvents"] if event.get("name") == "[memory]"]
    if not records:
        raise PrecropError("this PyTorch records no memory: its profiler (Kineto) is missing")
    records.sort(key=lambda event: event["ts"])
    return highest(int(event["args"]["Bytes"]) for event in records)


def highest(changes: Iterable[int]) -> int:
    """The largest sum that a series of changes comes to, 0 at its start."""
    total = most = 0
    for change in changes:
        total += change
        most = max(most, total)
    return most
