"""Which devices and which arithmetic a run gets."""

import os
from dataclasses import dataclass

import torch

from precrop.errors import PrecropError
from precrop.training.data import ImageData, Images

_MOST_PROCESSES = 64
"""On one CPU."""
_MOST_READERS = 16


@dataclass(frozen=True)
class ProcessLayout:
    """Processes of a run, as Lightning's Trainer wants them."""

    accelerator: str  # cuda, mps or cpu
    devices: int  # processes on this machine
    nodes: int = 1  # machines

    @property
    def processes(self) -> int:
        """On all machines together."""
        return self.devices * self.nodes

    @property
    def device(self) -> torch.device:
        """Of the first process on this machine."""
        return torch.device(self.accelerator)


def layout(devices: int) -> ProcessLayout:
    """The best kind of device here; under ``torchrun`` the processes that it started.

    Raises:
        PrecropError: so many devices are not there, or not what ``torchrun`` was told.
    """
    kind = "cpu"
    if torch.cuda.is_available():
        kind = "cuda"
    elif torch.backends.mps.is_available():
        kind = "mps"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        if devices not in (1, local):
            raise PrecropError(f"torchrun started {local} processes here: drop --devices {devices}")
        return ProcessLayout(kind, local, world // local)
    there = {"cuda": torch.cuda.device_count(), "mps": 1}.get(kind, _MOST_PROCESSES)
    if not 1 <= devices <= there:
        raise PrecropError(f"{devices} devices: there are 1 to {there} here ({kind})")
    return ProcessLayout(kind, devices)


def reading_processes(data: ImageData, places: ProcessLayout) -> int:
    """Processes that decode images for each process that trains; none where they are in memory."""
    if isinstance(data.train, Images):
        return 0
    return max(1, min(_MOST_READERS, (os.cpu_count() or 1) // places.devices))


def is_first_process() -> bool:
    """Whether this process speaks and writes for all of a run's processes."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK"))


def uses_bf16(asked: str, device: torch.device) -> bool:
    """Whether to compute in bf16, which ``auto`` does where the device has it built in."""
    if asked != "auto":
        return asked == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # PyTorch has no public name for this in all of the versions that we run on.
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in tests)
