"""Checks of layer densities that a user gives."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from precrop.errors import PrecropError, check_kind, hint

WHOLE_UNITS = 0.05
"""Share by which masks of whole units may keep more than was asked for without a warning."""


def check_densities(densities: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Return the densities as floats; ``names`` are the names of the network's layers.

    Raises:
        PrecropError: a density is outside (0, 1], or its layer does not exist.
    """
    check_names("densities", densities, names)
    return {name: check_density(name, density) for name, density in densities.items()}


def check_density(name: str, density: Any) -> float:
    """Return the density of a layer as a float.

    Raises:
        PrecropError: it is not a number in (0, 1].
    """
    number = isinstance(density, Real) and not isinstance(density, bool)
    if not (number and 0 < density <= 1):
        raise PrecropError(f"the density of {name} is {density!r}: write a number in (0, 1]")
    return float(density)


def check_names(what: str, given: Mapping[str, Any], names: Sequence[str]) -> None:
    """Check that ``given`` is a mapping whose keys are all layers of the network.

    Raises:
        PrecropError: it is not; the message starts with ``what`` and suggests a similar name.
    """
    check_kind(what, given, Mapping, "a dict by the name of a layer")
    for name in given:
        if name not in names:
            meant = hint(str(name), names) or f"; layers are {', '.join(names[:3])}, …"
            raise PrecropError(f"{what} name a layer {name!r} that is not there{meant}")
