"""Budgets as people write them, turned into exact limits.

A budget is a share of the original (``0.5``, ``"50%"``; ``1.0`` is all of it) or an absolute number
(``2_500_000``, ``"2.5M"``; memory in bytes or ``"64MB"``, latency only as ``"8ms"``). Everything is
computed in decimal, so that ``0.29`` of 100 is 29.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real

from precrop.errors import BudgetError

Budget = float | int | str


@dataclass(frozen=True)
class Unit:
    """How a cost is counted, and how people write and read it.

    Attributes:
        suffixes: what an absolute number may end with, in lower case, and what that multiplies it
            by; the first one is how large numbers are shown.
        absolute: an example of an absolute budget.
        plain: whether a number without suffix is an absolute budget.
    """

    suffixes: Mapping[str, int]
    absolute: str
    plain: bool = True


_COUNT = Unit({"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}, "'2.5M'")
_BYTES = Unit(
    {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30},
    "'64MB'",
)
_FEMTOSECONDS = Unit(
    {"s": 10**15, "ms": 10**12, "us": 10**9, "\N{MICRO SIGN}s": 10**9, "ns": 10**6},
    "'8ms'",
    plain=False,
)
UNITS = {"params": _COUNT, "macs": _COUNT, "memory": _BYTES, "latency": _FEMTOSECONDS}
"""Per cost its unit: parameters, multiply-accumulates, bytes, femtoseconds."""

_TEXT = re.compile(r"(\d+(?:_\d+)*)?(\.\d+)?\s*(%|[a-zµ]*)", re.IGNORECASE)
_LARGEST_SHARE = 100
_LARGEST = 2**63


def parse_budgets(asked: Mapping[str, Budget | None], bases: Mapping[str, int]) -> dict[str, int]:
    """The limit of every budget that was given.

    Args:
        asked: per cost name the budget; None stands for no budget.
        bases: per cost name what the original network costs.

    Raises:
        BudgetError: no budget at all, a cost that is not known, or a budget without sense.
    """
    given = {name: budget for name, budget in asked.items() if budget is not None}
    if not given:
        raise missing(next(iter(bases), "params"))
    unknown = [name for name in given if name not in bases]
    if unknown:
        raise BudgetError(f"no cost is called {unknown[0]!r}: budgets are {', '.join(bases)}")
    return {name: parse_budget(name, budget, bases[name]) for name, budget in given.items()}


def missing(example: str = "params") -> BudgetError:
    """The error where no budget was given at all."""
    return BudgetError(f"no budget given: write for instance {example}=0.5 or {example}='2.5M'")


def parse_budget(name: str, asked: Budget, base: int) -> int:
    """The limit, in units of the cost, that a budget stands for.

    Args:
        name: the cost's name, for its unit and for messages.
        asked: a float is a share of ``base``; an int is absolute; a string is a share with ``%`` or
            a decimal point (``"50%"``, ``"0.5"``), else absolute (``"2.5M"``, ``"1_000_000"``).
        base: what the original network costs.

    Raises:
        BudgetError: the budget is not a positive number or looks like a slip (``params=1``).
    """
    unit = UNITS.get(name, _COUNT)
    hint = f"write a share ({name}=0.5 or '50%') or an absolute number ({name}={unit.absolute})"
    number, scale = _read(name, asked, unit, hint)
    if not number.is_finite() or number <= 0:
        raise BudgetError(f"{name}={asked!r} is not a positive number: {hint}")
    if scale == 1 and not unit.plain:
        raise BudgetError(f"{name}={asked!r} has no unit: {hint}")
    if scale == 1 and number == 1:
        raise BudgetError(f"{name}={asked!r} is a single unit: write {name}=1.0 for all of it")
    if scale is None and number > _LARGEST_SHARE:
        raise BudgetError(f"{name}={asked!r} is a share above {_LARGEST_SHARE}: {hint}")
    limit = int(number * (base if scale is None else scale))
    if limit < 1:
        raise BudgetError(f"{name}={asked!r} of {base} leaves nothing: {hint}")
    if limit >= _LARGEST:
        raise BudgetError(f"{name}={asked!r} is more than any network costs: {hint}")
    return limit


def parse_share(name: str, asked: Budget, base: int) -> float:
    """The share of what the original costs that a budget stands for, not rounded to whole units.

    The arguments and errors are those of `parse_budget`.
    """
    limit = parse_budget(name, asked, base)
    number, scale = _read(name, asked, UNITS.get(name, _COUNT), "")
    return float(number) if scale is None else limit / base


def written(name: str, number: int) -> str:
    """A cost as people read it: ``2,500,000`` parameters, ``64.0 MB``, ``8.00 ms``."""
    unit = UNITS.get(name, _COUNT)
    if unit is _FEMTOSECONDS:
        return f"{number / unit.suffixes['ms']:,.3f} ms"
    return f"{number / unit.suffixes['mb']:,.2f} MB" if unit is _BYTES else f"{number:,}"


_SHOWN = {
    "memory": {"GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1},
    "latency": {"s": 10**15, "ms": 10**12, "us": 10**9, "ns": 10**6},
}
"""Units of bounds, by cost; other costs are counted in ones."""


def bound(name: str, number: int, *, up: bool) -> str:
    """A cost as a budget that is just enough for it (``up``), or not more than it."""
    units = _SHOWN.get(name, {"": 1})
    suffix, scale = list(units.items())[-1]
    suffix, scale = next(((s, n) for s, n in units.items() if n <= number), (suffix, scale))
    thousandths = -(-1000 * number // scale) if up else 1000 * number // scale
    return f"{Decimal(thousandths) / 1000:.3f}".rstrip("0").rstrip(".") + suffix


def _read(name: str, asked: object, unit: Unit, hint: str) -> tuple[Decimal, int | None]:
    """The number that was written, and what it counts: so many units each, or None for a share."""
    if isinstance(asked, str):
        match = _TEXT.fullmatch(asked.strip())
        if match is None or (match[1] is None and match[2] is None):
            raise BudgetError(f"{name}={asked!r} is not understood: {hint}")
        whole, fraction, suffix = (part or "" for part in match.groups())
        number = Decimal(f"{whole or 0}{fraction}")
        if suffix == "%":
            return number / 100, None
        if suffix.lower() in unit.suffixes:
            return number, unit.suffixes[suffix.lower()]
        if suffix:
            raise BudgetError(f"{name}={asked!r} is not understood: {hint}")
        return number, None if fraction else 1
    if isinstance(asked, bool) or not isinstance(asked, Real):
        raise BudgetError(f"{name}={asked!r} is not a number: {hint}")
    if isinstance(asked, Integral):
        return Decimal(int(asked)), 1
    return Decimal(repr(float(asked))), None
