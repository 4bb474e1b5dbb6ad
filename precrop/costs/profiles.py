"""Device profiles: seconds per launch, byte and multiply-accumulate for each kind of work.

A profile is measured once per device (``precrop profile``) and saved as JSON. Without a
measurement, `roofline` makes one from a device's peak FLOP/s and memory bandwidth.
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
"""Valid names of devices."""

_SLOWEST, _WIDEST = 1e6, 1 << 20
"""Upper limits for valid profiles: seconds per unit, and channels that a kernel handles at once."""

OTHER = "other"
"""The kind whose coefficients are used for all kinds without any."""

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
"""By kind of layer, the most similar kind, whose coefficients are used if it has none."""


@dataclass(frozen=True)
class DeviceProfile:
    """The speed of one device under one runtime.

    Attributes:
        name: the device's name, for people.
        device: ``cpu`` or ``cuda``.
        runtime: ``eager`` (PyTorch) or ``ort`` (ONNX Runtime).
        threads: CPU threads; None if not applicable.
        coefficients: by kind of work, seconds per unit of each feature in
            `precrop.costs.work.FEATURES`.
        step: channels that its kernels process at once; ``divisor="auto"`` uses it.
        machine: the machine that it was measured on, with library versions; empty for rooflines.
        fitted: which networks it was fitted to, and how well it predicts them.
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
        """Return the coefficients of a kind, or of a similar kind that has some, or of `OTHER`."""
        seen: list[str] = []
        while kind not in self.coefficients and kind in STANDS_FOR and kind not in seen:
            seen.append(kind)
            kind = STANDS_FOR[kind]
        return self.coefficients.get(kind, self.coefficients[OTHER])

    @property
    def digest(self) -> str:
        """A short hash of everything that predictions depend on."""
        rates = {kind: dict(found) for kind, found in self.coefficients.items()}
        return digest_of([self.device, self.runtime, rates, self.step])[:12]

    def save(self, path: str | Path) -> None:
        """Write the profile as JSON, whole or not at all."""
        write_text(path, json_text({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "DeviceProfile":
        """Load a profile that `save` wrote.

        Raises:
            PrecropError: the file is missing, or is not a profile that this version can read.
        """
        content = read_json(Path(path), "a device profile")
        if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
            raise PrecropError(f"{path} is not a device profile: make one with precrop profile")
        broken = f"{path} is a broken device profile"
        with errors_as(broken, TypeError):
            profile = cls(**content)
        return _checked(profile, broken)


def _checked(profile: DeviceProfile, refusal: str) -> DeviceProfile:
    """Return the profile; raise a PrecropError that begins with ``refusal`` if it is not valid."""
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
    """Whether a plan can hold a value: JSON types, with finite numbers that fit in 64 bits."""
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
    """Make a profile from two peaks: each operation takes its arithmetic's plus its traffic's time.

    Their sum, rather than their maximum, keeps time a posynomial; it is at most twice as long. A
    multiply-accumulate is two floating-point operations.

    Args:
        flops: floating-point operations per second.
        bandwidth: bytes per second from and to memory.
        launch: seconds for launching an operation.
        name: the device's name.
        device: ``cpu`` or ``cuda``.
        runtime: the runtime whose operations are counted.
        step: channels that kernels process at once.

    Raises:
        PrecropError: a peak is not a positive number, or another argument is not valid.
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
"""Profiles that need no measurement: two cores with AVX-512, and a data-centre GPU in fp32.

Relative latencies hardly depend on the size of the two peaks, only on their ratio.
"""


def find_profile(given: "DeviceProfile | str | Path | None") -> DeviceProfile:
    """Return a profile given as such, a name in `ROOFLINES`, a file, or None for the CPU roofline.

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
