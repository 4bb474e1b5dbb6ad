"""What PyTorch's allocator really did in one forward pass: the oracle of lifetimes and memory."""

import itertools
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from precrop.read.inputs import Inputs
from precrop.read.lifetimes import Watch, watched
from precrop.read.network import read_network
from precrop.read.plain import PlainLayers


def allocated_peak(model: nn.Module, shape: Any, batch: int) -> int:
    """Run a network on the CPU and see how many bytes of tensors were alive at most.

    A kernel's own memory (unfolded images, reordered weights) is what is allocated and released
    within one ATen call, as they are met when the network is read.
    """
    inputs = Inputs(shape)
    calls = read_network(model, inputs).passes[0].trace.calls
    kernels = {call.op._schema.name for call in calls}
    events = _events(model.eval(), inputs, batch)
    spans = [(e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") in kernels]
    records = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    ends = _releases(records)
    left_out = {i for i, record in enumerate(records) if record["args"]["Bytes"] < 0}
    left_out -= set(ends.values())  # now these are of what the pass before had kept
    for index, end in ends.items():
        made, gone = records[index]["ts"], records[end]["ts"]
        if any(first <= made and gone <= last for first, last in spans):
            left_out |= {index, end}
    changes = (r["args"]["Bytes"] for i, r in enumerate(records) if i not in left_out)
    return max(itertools.accumulate(changes, initial=0))


def tensor_peak(model: nn.Module, shape: Any, batch: int) -> int:
    """Bytes of all tensors alive at once in a real pass, whatever kernels allocate for themselves.

    It leaves `nn.MultiheadAttention` to its layers and to the kernel of attention.
    """
    args, kwargs = Inputs(shape).make(batch, model, "cpu")
    watch = _Kernels(None, [*model.parameters(), *model.buffers()])
    return watched(watch, PlainLayers(), model.eval(), args, kwargs).peak


class _Kernels(Watch):
    """Leaves fused operations to the kernels that PyTorch has for them."""

    def parts(self, op: Any) -> None:
        return None


def _events(model: nn.Module, inputs: Inputs, batch: int) -> list[dict[str, Any]]:
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler reports its own start

    def forward() -> None:
        args, kwargs = inputs.make(batch, model, "cpu")
        model(*args, **kwargs)

    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.no_grad():
        forward()
        with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
            forward()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profile.export_chrome_trace(str(path))
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return events


def _releases(records: list[dict[str, Any]]) -> dict[int, int]:
    """Per index of an allocation the index of its release; records are in order."""
    live: dict[int, int] = {}
    found = {}
    for index, record in enumerate(records):
        address = record["args"]["Addr"]
        if record["args"]["Bytes"] > 0:
            live[address] = index
        elif address in live:
            found[live.pop(address)] = index
    return found
