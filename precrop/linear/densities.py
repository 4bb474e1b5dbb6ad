"""Layer densities that a user gives, checked; and how far a mask may be from them."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from precrop.errors import PrecropError, check_kind, hint

WHOLE_UNITS = 0.05
"""Share of a budget by which a mask of whole units may exceed it without a word."""


def check_densities(densities: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The densities as floats; ``names`` are those of the network's layers.

    Raises:
        PrecropError: a density outside (0, 1], or of a layer that is not there.
    """
    check_names("densities", densities, names)
    return {name: check_density(name, density) for name, density in densities.items()}


def check_density(name: str, density: Any) -> float:
    """The density of a layer as a float.

    Raises:
        PrecropError: it is not a number in (0, 1].
    """
    number = isinstance(density, Real) and not isinstance(density, bool)
    if not (number and 0 < density <= 1):
        raise PrecropError(f"the density of {name} is {density!r}: write a number in (0, 1]")
    return float(density)


def check_names(what: str, given: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse what is no dict by name, and names of layers that the network does not have.

    Raises:
        PrecropError: naming ``what`` they are given as, and what may have been meant.
    """
    check_kind(what, given, Mapping, "a dict by the name of a layer")
    for name in given:
        if name not in names:
            meant = hint(str(name), names) or f"; layers are {', '.join(names[:3])}, …"
            raise PrecropError(f"{what} name a layer {name!r} that is not there{meant}")
