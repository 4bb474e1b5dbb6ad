"""The devices and the precision of a run."""

import os
from dataclasses import dataclass

import torch

from precrop.errors import PrecropError
from precrop.training.data import ImageData, Images

_MOST_PROCESSES = 64
"""Most processes of a run on a CPU."""
_MOST_READERS = 16


@dataclass(frozen=True)
class ProcessLayout:
    """A run's processes, as Lightning's Trainer needs them."""

    accelerator: str  # cuda, mps or cpu
    devices: int  # processes on this machine
    nodes: int = 1  # machines

    @property
    def processes(self) -> int:
        """The number of processes on all machines together."""
        return self.devices * self.nodes

    @property
    def device(self) -> torch.device:
        """The device of the first process on this machine."""
        return torch.device(self.accelerator)


def layout(devices: int) -> ProcessLayout:
    """Return ``devices`` processes on the best kind of device, or those that ``torchrun`` started.

    Raises:
        PrecropError: this machine has fewer devices, or ``torchrun`` started another number.
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
    """Return how many workers decode images for each training process; 0 for images in memory."""
    if isinstance(data.train, Images):
        return 0
    return max(1, min(_MOST_READERS, (os.cpu_count() or 1) // places.devices))


def is_first_process() -> bool:
    """Whether this process prints and writes on behalf of all of a run's processes."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK"))


def uses_bf16(asked: str, device: torch.device) -> bool:
    """Whether to compute in bf16; with ``auto``, where the device supports it natively."""
    if asked != "auto":
        return asked == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Not all supported versions of PyTorch have a public function for this.
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in tests)
