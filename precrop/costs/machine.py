"""What a measurement was taken on, and how that differs from here: else seconds say little."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from precrop.costs.profiles import DeviceProfile
from precrop.errors import one_line

NOT_MEASURED = "estimated by a roofline, not measured; precrop profile measures a machine"
"""What a latency is that comes from two peaks."""
LIBRARY = {"ort": "onnxruntime", "eager": "torch"}
"""Per runtime the library whose version decides on times."""
_SHOWN = 60
_LIBRARIES = ("precrop", "torch", "onnxruntime", "onnx", "numpy", "scipy")


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """The machine, its libraries and the date, in JSON's types.

    Returns:
        ``cpu`` (its model), ``cores`` (that this process may use), ``instructions`` (the widest
        that PyTorch uses), ``system``, ``python``, ``versions``, ``date`` (UTC) and, for a GPU,
        ``gpu`` and ``cuda``.
    """
    import torch

    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: known for name in _LIBRARIES if (known := version(name))},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if device != "cpu":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
    return found


def _cpu_model() -> str:
    """As Linux tells it, else what Python knows."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def version(library: str) -> str | None:
    """The installed version of a library; None if there is none."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def basis(profile: DeviceProfile) -> str:
    """What a latency rests on that this profile predicts, in words that follow "latency is"."""
    if not profile.machine:
        return NOT_MEASURED
    library, device = LIBRARY[profile.runtime], profile.device
    versions = profile.machine.get("versions")
    then = _brief(versions.get(library) if isinstance(versions, Mapping) else None)
    there, here = _brief(profile.machine.get(part(device))), _brief(_processor(device))
    threads = "" if profile.threads is None else f", {profile.threads} threads"
    text = f"{there}{threads}, {library} {then}"
    if there != here:
        return f"predicted by a profile of another machine ({text}), not measured on this {here}"
    now = _brief(version(library))
    if then != now:
        changed = f"{text}; now {now}"
        return f"predicted by a profile of this machine with another {library} ({changed})"
    return f"predicted by a profile measured on this machine ({text})"


def part(device: str) -> str:
    """What of a machine decides on its times: the entry of `describe_machine` that names it."""
    return "cpu" if device == "cpu" else "gpu"


def _processor(device: str) -> str:
    """The processor that a device's name stands for here; a GPU need not be there."""
    import torch

    if device == "cpu":
        return _cpu_model()
    number = int(device.partition(":")[2] or 0)
    there = number < torch.cuda.device_count()
    return torch.cuda.get_device_name(device) if there else "machine without such a GPU"


def _brief(value: Any) -> str:
    """What a file says, as a part of a line."""
    return one_line(str(value or "unknown"))[:_SHOWN]
