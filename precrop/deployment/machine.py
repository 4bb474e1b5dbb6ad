"""What a measurement was taken on: without it seconds say little."""

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from precrop.costs.profiles import DeviceProfile
from precrop.deployment.runtimes import check_device
from precrop.errors import PrecropError

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
        "versions": _versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if device != "cpu":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
    return found


def _cpu_model() -> str:
    """As Linux tells it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _versions() -> dict[str, str]:
    """Of the libraries that are installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def check_here(profile: DeviceProfile) -> None:
    """Refuse a profile that was measured on another machine than this one.

    Raises:
        PrecropError: it was.
    """
    check_device(profile.device)
    part = "cpu" if profile.device == "cpu" else "gpu"
    there = profile.machine.get(part)
    if there is None:  # a roofline
        return
    here = describe_machine(profile.device)[part]
    if here != there:
        raise PrecropError(
            f"this profile is of another device, {there}, and this is {here}: measure here with "
            "precrop profile, or plan without calibrating"
        )
