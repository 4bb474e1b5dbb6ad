"""Stores measured passes in a file, so that interrupted profiling can be resumed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from precrop.costs.work import FEATURES
from precrop.deployment.operations import Sample
from precrop.deployment.rates import CountedWork, TimedPass
from precrop.errors import MALFORMED, PrecropError
from precrop.files import figure, read_text, write_text

SCHEMA = 1
_KIND = "measured passes"
Place = tuple[str, str, float]
"""A network's name, its inputs, and the share of its MACs that is kept."""


class PassFile:
    """The passes of one profile, each saved as soon as it is measured.

    The first line of the file describes the setting; each further line is a pass.

    Args:
        path: the file; None keeps the passes in memory.
        setting: the device, libraries and options of the measurements.

    Raises:
        PrecropError: the file is of another kind, or has passes of another setting.
    """

    def __init__(self, path: Path | None, setting: Mapping[str, Any]) -> None:
        self.path, self.setting = path, dict(setting)
        self.step: int | None = None
        self.found: dict[Place, TimedPass | None] = {}
        if path is not None and path.exists():
            self._read(path)

    @property
    def passes(self) -> list[TimedPass]:
        """All passes that were measured."""
        return [one for one in self.found.values() if one is not None]

    def begin(self, step: int) -> None:
        """Save the number of channels that kernels process at once, measured before all passes."""
        self.step = step
        self._write()

    def add(self, place: Place, found: TimedPass | None) -> None:
        """Save a measured pass, or None if the network cannot be made this small."""
        self.found[place] = found
        self._write()

    def _write(self) -> None:
        if self.path is None:
            return
        first = {"schema": SCHEMA, "setting": self.setting, "step": self.step}
        lines = [first, *(_written(place, found) for place, found in self.found.items())]
        write_text(self.path, "".join(f"{json.dumps(line)}\n" for line in lines))

    def _read(self, path: Path) -> None:
        text = read_text(path, _KIND)
        try:
            first, *others = [json.loads(line) for line in text.splitlines()]
            if first["schema"] != SCHEMA:
                raise ValueError(f"schema {first['schema']!r}")
            setting, self.step = dict(first["setting"]), int(first["step"])
            if self.step < 1:
                raise ValueError(f"step {self.step}")
            self.found = dict(map(_entry, others))
        except MALFORMED as error:
            raise PrecropError(
                f"{path} holds no {_KIND}: remove it, or choose another file with -o"
            ) from error
        for name, value in self.setting.items():
            if setting.get(name) != value:
                raise PrecropError(
                    f"{path} was measured with {name} {setting.get(name)}, not {value}: remove it, "
                    "or choose another file with -o"
                )


def _written(place: Place, found: TimedPass | None) -> dict[str, Any]:
    line: dict[str, Any] = dict(zip(("network", "inputs", "share"), place, strict=True))
    if found is None:
        return {**line, "seconds": None}
    samples = [[one.kind, one.seconds, _numbers(one.amounts)] for one in found.samples]
    works = [[one.kind, _numbers(one.amounts)] for one in found.works]
    return {**line, "seconds": found.seconds, "samples": samples, "works": works}


def _numbers(amounts: Mapping[str, float]) -> list[float]:
    return [amounts[name] for name in FEATURES]


def _entry(content: Any) -> tuple[Place, TimedPass | None]:
    network, share = str(content["network"]), figure(content["share"])
    place = network, str(content["inputs"]), share
    if content["seconds"] is None:
        return place, None
    seconds = figure(content["seconds"])
    samples = [Sample(str(k), _amounts(numbers), figure(s)) for k, s, numbers in content["samples"]]
    works = [CountedWork(str(kind), _amounts(numbers)) for kind, numbers in content["works"]]
    if not 0 < share <= 1 or not seconds or not samples or not works:
        raise ValueError("a pass takes time, and has operations")
    return place, TimedPass(network, share, seconds, tuple(samples), tuple(works))


def _amounts(numbers: Sequence[Any]) -> dict[str, float]:
    return dict(zip(FEATURES, map(figure, numbers), strict=True))
