"""How fast a device is: seconds per launch, byte and multiply-accumulate for each kind of work.

A profile is measured once a device (``precrop profile``) and kept as JSON. Where nothing was
measured, `roofline` makes one from a device's peak speed and its memory's bandwidth.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from precrop.costs.work import FEATURES
from precrop.errors import MALFORMED, PrecropError, brief, errors_as
from precrop.files import digest_of, is_sound, json_text, read_json, write_text

SCHEMA = 1
RUNTIMES = ("eager", "ort")
DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,3})?")
"""The names of what networks run on."""

_SLOWEST, _WIDEST = 1e6, 1 << 20
"""Seconds of one operation, and channels that a kernel works on at once: more make no sense."""

OTHER = "other"
"""The kind that stands for all kinds without coefficients of their own."""

STANDS_FOR = {
    "stem": "conv",
    "grouped": "conv",
    "unblocked": "grouped",
    "transposed": "conv",
    "conv": "pointwise",
    "pointwise": "conv",
    "matmul": "linear",
    "linear": "pointwise",
}
"""Kinds of layers that are the most alike."""


@dataclass(frozen=True)
class DeviceProfile:
    """The speed of one device under one runtime.

    Attributes:
        name: of the device, for people.
        device: ``cpu`` or ``cuda``.
        runtime: ``eager`` (PyTorch) or ``ort`` (ONNX Runtime).
        threads: of the CPU; None where that has no meaning.
        coefficients: per kind of work, seconds per unit of each feature in
            `precrop.costs.work.FEATURES`.
        step: channels that its kernels work on at once; ``divisor="auto"`` takes it.
        machine: what it was measured on, and with which versions.
        fitted: how well it describes what was measured, and which networks that was.
    """

    name: str
    device: str
    runtime: str
    threads: int | None
    coefficients: Mapping[str, Mapping[str, float]]
    step: int = 1
    machine: Mapping[str, Any] = field(default_factory=dict)
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def of(self, kind: str) -> Mapping[str, float]:
        """Coefficients of a kind, or of the kind that stands for it."""
        seen: list[str] = []
        while kind not in self.coefficients and kind in STANDS_FOR and kind not in seen:
            seen.append(kind)
            kind = STANDS_FOR[kind]
        return self.coefficients.get(kind, self.coefficients[OTHER])

    @property
    def digest(self) -> str:
        """A short hash of all that predictions depend on."""
        rates = {kind: dict(found) for kind, found in self.coefficients.items()}
        return digest_of([self.device, self.runtime, rates, self.step])[:12]

    def save(self, path: str | Path) -> None:
        """Write the profile as JSON, whole or not at all."""
        write_text(path, json_text({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "DeviceProfile":
        """Read what `save` wrote.

        Raises:
            PrecropError: the file is missing or no profile that this version reads.
        """
        content = read_json(Path(path), "a device profile")
        if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
            raise PrecropError(f"{path} is not a device profile: make one with precrop profile")
        broken = f"{path} is a broken device profile"
        with errors_as(broken, TypeError):
            profile = cls(**content)
        return _checked(profile, broken)


def _checked(profile: DeviceProfile, refusal: str) -> DeviceProfile:
    """The profile itself; a PrecropError that begins with ``refusal`` where it makes no sense."""
    threads = profile.threads
    with errors_as(refusal, *MALFORMED):
        if profile.runtime not in RUNTIMES:
            raise ValueError(f"runtime {profile.runtime!r} is not {' or '.join(RUNTIMES)}")
        if OTHER not in profile.coefficients:
            raise ValueError(f"it has no coefficients for {OTHER!r}")
        if threads is not None and (type(threads) is not int or threads < 1):
            raise ValueError(f"threads {threads!r} is not a number of threads")
        if not isinstance(profile.device, str) or not DEVICE.fullmatch(profile.device):
            raise ValueError(f"device {profile.device!r} is not cpu, cuda or cuda:1")
        if not isinstance(profile.name, str):
            raise ValueError(f"name {brief(profile.name)} is not a text")
        for what, said in {"machine": profile.machine, "fitted": profile.fitted}.items():
            if not isinstance(said, Mapping) or not _is_plain(said):
                raise ValueError(f"{what} {brief(said)} is not a description")
        if type(profile.step) is not int or not 1 <= profile.step <= _WIDEST:
            raise ValueError(f"step {profile.step!r} is not a number of channels")
        for kind, coefficients in profile.coefficients.items():
            for name, value in coefficients.items():
                if name not in FEATURES or not _is_rate(value):
                    raise ValueError(f"{kind}.{name} is {brief(value)}")
    return profile


def _is_plain(value: Any) -> bool:
    """Whether a plan can hold a value: numbers are finite, and none has more than 64 bits."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or (isinstance(value, (str, int, float)) and is_sound(value))


def _is_rate(value: Any) -> bool:
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and 0 <= value <= _SLOWEST


def roofline(
    flops: float,
    bandwidth: float,
    *,
    launch: float = 5e-6,
    name: str = "roofline",
    device: str = "cpu",
    runtime: str = "ort",
    step: int = 16,
) -> DeviceProfile:
    """A profile from two peaks: every operation takes its arithmetic plus its traffic.

    The sum, rather than the longer of the two, keeps time a posynomial; it is at most twice as
    long. A multiply-accumulate is two floating-point operations.

    Args:
        flops: floating-point operations per second.
        bandwidth: bytes per second from and to memory.
        launch: seconds that starting an operation takes.
        name: of the device.
        device: ``cpu`` or ``cuda``.
        runtime: whose operations are counted.
        step: channels that kernels work on at once.

    Raises:
        PrecropError: a peak is not a positive number, or another argument makes no sense.
    """
    for what, value in {"flops": flops, "bandwidth": bandwidth}.items():
        if not 0 < value < math.inf:
            raise PrecropError(f"{what}={value!r} is not a positive number per second")
    if not _is_rate(launch):
        raise PrecropError(f"launch={launch!r} is not a time in seconds")
    byte = 1 / bandwidth
    every = {"calls": launch, "reads": byte, "writes": byte, "weights": byte, "macs": 2 / flops}
    made = DeviceProfile(name, device, runtime, None, {OTHER: every, "view": {}}, step)
    return _checked(made, "this roofline is not a device profile")


ROOFLINES = {
    "cpu": roofline(2.0e11, 2.0e10, launch=5e-6, name="cpu roofline"),
    "cuda": roofline(2.0e13, 1.5e12, launch=5e-6, name="cuda roofline", device="cuda"),
}
"""Profiles that need no measurement: two cores with AVX-512, and a data centre's GPU in fp32.

Shares of a latency hardly depend on the size of the two peaks, only on their ratio.
"""


def find_profile(given: "DeviceProfile | str | Path | None") -> DeviceProfile:
    """A profile as users give it: itself, a name in `ROOFLINES`, a file, or None for the CPU's.

    Raises:
        PrecropError: it names no profile, or its file is broken.
    """
    if isinstance(given, DeviceProfile):
        return _checked(given, "device_profile= is broken")
    if given is None:
        return ROOFLINES["cpu"]
    if str(given) in ROOFLINES:
        return ROOFLINES[str(given)]
    if not isinstance(given, (str, Path)) or not given or not Path(given).exists():
        raise PrecropError(
            f"device profile {given if isinstance(given, Path) else repr(given)} is not there: "
            f"write {' or '.join(ROOFLINES)}, or a file that precrop profile made"
        )
    return DeviceProfile.load(given)
