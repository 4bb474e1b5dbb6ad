"""Describes how a network is run: the runtime, batch size, number of threads and device."""

import importlib.util
import os
import time
from dataclasses import dataclass
from functools import partial

import torch

from precrop.costs.profiles import DEVICE
from precrop.deployment.timing import Clock, Stopwatch, cuda_stopwatch, host_stopwatch
from precrop.errors import PrecropError, check_known

LIBRARIES = {"eager": (), "compiled": (), "ort": ("onnx", "onnxscript", "onnxruntime")}
"""Libraries that each runtime (eager and compiled PyTorch, ONNX Runtime) needs besides PyTorch."""
_FINE = 1e-6
"""Coarsest resolution, in seconds, of a clock that can time single passes."""


@dataclass(frozen=True)
class Setting:
    """How a network is run.

    Attributes:
        runtime: a name in `LIBRARIES`.
        batch: batch size.
        threads: CPU threads that work on one operation.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        channels_last: whether PyTorch uses this memory format for images and weights; ONNX Runtime
            chooses its own.

    Raises:
        PrecropError: the runtime or device is unknown or missing, or a number is out of range.
    """

    runtime: str = "eager"
    batch: int = 1
    threads: int = 1
    device: str = "cpu"
    channels_last: bool = False

    def __post_init__(self) -> None:
        check_runtime(self.runtime)
        if self.batch < 1 or self.threads < 1:
            raise PrecropError(
                f"batch {self.batch} on {self.threads} threads: give 1 or more of both"
            )
        cores = os.cpu_count() or self.threads
        if self.threads > cores:
            raise PrecropError(f"{self.threads} threads: this machine has {cores} CPU cores")
        check_device(self.device)

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.runtime}, batch {self.batch}, {threads}, {self.device}"

    @property
    def clock(self) -> Clock:
        """The wall clock, or for one CPU thread its own clock if the resolution is fine enough.

        A thread's own clock stops while other programs use its core.
        """
        alone = self.device == "cpu" and self.threads == 1
        fine = time.get_clock_info("thread_time").resolution <= _FINE
        return time.thread_time if alone and fine else time.perf_counter

    @property
    def stopwatch(self) -> Stopwatch:
        """Times networks: by the `clock`, or by CUDA events for PyTorch on a GPU."""
        # ONNX Runtime synchronizes its own CUDA stream: PyTorch's events would measure nothing.
        if self.device != "cpu" and self.runtime != "ort":
            return partial(cuda_stopwatch, device=self.device)
        return partial(host_stopwatch, clock=self.clock)


def check_runtime(runtime: str) -> None:
    """Refuse a runtime that is unknown or not installed."""
    check_known(f"runtime {runtime!r}", runtime, LIBRARIES)
    for library in LIBRARIES[runtime]:
        if importlib.util.find_spec(library) is None:
            raise PrecropError(f"{library} is not installed: pip install 'precrop[deploy]'")


def check_device(device: str) -> None:
    """Refuse devices other than the CPU and this machine's GPUs."""
    kind, _, number = device.partition(":")
    if not DEVICE.fullmatch(device):
        raise PrecropError(f"device {device!r} is unknown: write cpu, cuda or cuda:1")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise PrecropError(f"device {device} is not there: PyTorch sees no such GPU; write cpu")
