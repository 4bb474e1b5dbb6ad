"""Describes the machine of a measurement and how it differs from this one."""

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
"""How a latency from a roofline came about."""
LIBRARY = {"ort": "onnxruntime", "eager": "torch"}
"""By runtime, the library whose version affects times."""
_SHOWN = 60
_LIBRARIES = ("precrop", "torch", "onnxruntime", "onnx", "numpy", "scipy")


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """Describe the machine, its libraries and the date, in JSON types.

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
    """Return the CPU's model name as Linux reports it, else what Python knows."""
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
    """Return the installed version of a library; None if it is not installed."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def basis(profile: DeviceProfile) -> str:
    """Say what a latency predicted by a profile is based on, in words that follow "latency is"."""
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
    """Return the entry of `describe_machine` with a device's processor, which decides on times."""
    return "cpu" if device == "cpu" else "gpu"


def _processor(device: str) -> str:
    """Return this machine's processor for a device's name; there may be no such GPU."""
    import torch

    if device == "cpu":
        return _cpu_model()
    number = int(device.partition(":")[2] or 0)
    there = number < torch.cuda.device_count()
    return torch.cuda.get_device_name(device) if there else "machine without such a GPU"


def _brief(value: Any) -> str:
    """Shorten a value from a file, to be part of a line."""
    return one_line(str(value or "unknown"))[:_SHOWN]
