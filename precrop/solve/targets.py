"""Layer densities and widths that a user gives, checked."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from precrop.errors import PrecropError


def check_densities(densities: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The densities as floats.

    Args:
        densities: ``{layer name: density}``.
        names: of the network's layers.

    Raises:
        PrecropError: a density outside (0, 1], or of a layer that is not there.
    """
    _check_names("densities", densities, names)
    return {name: check_density(name, density) for name, density in densities.items()}


def check_widths(widths: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """The widths as integers.

    Args:
        widths: ``{layer name: output channels}``.
        names: of the network's layers.

    Raises:
        PrecropError: a width that is not a number of channels, or of a layer that is not there.
    """
    _check_names("widths", widths, names)
    return {name: _check_width(name, width) for name, width in widths.items()}


def _check_width(name: str, width: Any) -> int:
    whole = isinstance(width, Integral) and not isinstance(width, bool)
    if not (whole and width > 0):
        raise PrecropError(f"the width of {name} is {width!r}: write output channels, 1 or more")
    return int(width)


def _check_names(what: str, given: Iterable[str], names: Sequence[str]) -> None:
    known = set(names)
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"layers are {', '.join(names[:3])}, …"
            raise PrecropError(f"{what} name a layer {name!r} that is not there; {hint}")


def check_density(name: str, density: Any) -> float:
    """The density of a layer as a float.

    Raises:
        PrecropError: it is no number in (0, 1].
    """
    number = isinstance(density, Real) and not isinstance(density, bool)
    if not (number and 0 < density <= 1):
        raise PrecropError(f"the density of {name} is {density!r}: write a number in (0, 1]")
    return float(density)
