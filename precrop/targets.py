"""Layer densities that a user gives, checked."""

import difflib
from collections.abc import Mapping, Sequence
from numbers import Real
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
    known = set(names)
    for name in densities:
        if name not in known:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"layers are {', '.join(names[:3])}, …"
            raise PrecropError(f"densities name a layer {name!r} that is not there; {hint}")
    return {name: check_density(name, density) for name, density in densities.items()}


def check_density(name: str, density: Any) -> float:
    """The density of a layer as a float.

    Raises:
        PrecropError: it is no number in (0, 1].
    """
    number = isinstance(density, Real) and not isinstance(density, bool)
    if not (number and 0 < density <= 1):
        raise PrecropError(f"the density of {name} is {density!r}: write a number in (0, 1]")
    return float(density)
