"""Parse budgets as users write them into exact integer limits.

A budget is a share of the original (``0.5``, ``"50%"``; ``1.0`` is all of it) or an absolute number
(``2_500_000``, ``"2.5M"``; memory in bytes or ``"64MB"``, latency only with a unit, ``"8ms"``).
Floats are read as the decimals that they print as, so ``0.29`` of 100 is 29.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real

from precrop.errors import BudgetError, brief, flops_hint

Budget = float | int | str


@dataclass(frozen=True)
class Unit:
    """The unit in which a cost is counted, and how users write it.

    Attributes:
        suffixes: the multiplier of each suffix that an absolute budget may have.
        example: an absolute budget, for messages.
        shown: the suffixes that messages use, the largest first.
        plain: whether a number without a suffix is an absolute budget.
    """

    suffixes: Mapping[str, int]
    example: str
    shown: tuple[str, ...] = ("",)
    plain: bool = True


_COUNT = Unit({"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}, "'2.5M'")
_BYTES = Unit(
    {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30},
    "'64MB'",
    ("GB", "MB", "kB", "B"),
)
_FEMTOSECONDS = Unit(
    {"s": 10**15, "ms": 10**12, "us": 10**9, "\N{MICRO SIGN}s": 10**9, "ns": 10**6},
    "'8ms'",
    ("s", "ms", "us", "ns"),
    plain=False,
)
UNITS = {"params": _COUNT, "macs": _COUNT, "memory": _BYTES, "latency": _FEMTOSECONDS}
"""The unit of each cost: parameters, multiply-accumulates, bytes, femtoseconds."""

_TEXT = re.compile(r"(?!.{65})(\d+(?:_\d+)*)?(\.\d+)?\s*(%|[a-zµ]*)", re.IGNORECASE)
_LARGEST_SHARE, _LARGEST = 100, 2**63


def parse_budgets(asked: Mapping[str, Budget | None], bases: Mapping[str, int]) -> dict[str, int]:
    """Return the limit of every budget that was given.

    Args:
        asked: budgets by cost name; None means no budget.
        bases: costs of the original network by cost name.

    Raises:
        BudgetError: no budget is given, a cost is unknown, or a budget makes no sense.
    """
    given = {name: budget for name, budget in asked.items() if budget is not None}
    if not given:
        raise missing(next(iter(bases), "params"))
    if unknown := [name for name in given if name not in bases]:
        known = f"budgets are {', '.join(bases)}{flops_hint(unknown[0])}"
        raise BudgetError(f"no cost is called {unknown[0]!r}: {known}")
    return {name: parse_budget(name, budget, bases[name]) for name, budget in given.items()}


def missing(example: str = "params") -> BudgetError:
    """Return the error for a call that gives no budget."""
    return BudgetError(f"no budget given: write for instance {example}=0.5 or {example}='2.5M'")


def parse_budget(name: str, asked: Budget, base: int) -> int:
    """Return the limit that a budget stands for, in whole units of its cost.

    Args:
        name: name of the cost, which determines the unit.
        asked: a float is a share of ``base``; an int is absolute; a string is a share with ``%`` or
            a decimal point (``"50%"``, ``"0.5"``), else absolute (``"2.5M"``, ``"1_000_000"``).
        base: what the original network costs.

    Raises:
        BudgetError: the budget is not a positive number or looks like a slip (``params=1``).
    """
    number, scale = _read(name, asked)
    limit = int(number * (base if scale is None else scale))
    if number <= 0:
        raise _senseless(name, asked, "is not a positive number")
    if scale == 1 and not UNITS.get(name, _COUNT).plain:
        raise _senseless(name, asked, "has no unit")
    if scale == 1 and number == 1:
        raise BudgetError(f"{name}={asked!r} is a single unit: write {name}=1.0 for all of it")
    if scale is None and number > _LARGEST_SHARE:
        raise _senseless(name, asked, f"is a share above {_LARGEST_SHARE}")
    if limit < 1:
        raise _senseless(name, asked, f"of {base} leaves nothing")
    if limit >= _LARGEST:
        raise _senseless(name, asked, "is more than any network costs")
    return limit


def _senseless(name: str, asked: object, what: str) -> BudgetError:
    example = UNITS.get(name, _COUNT).example
    return BudgetError(
        f"{name}={brief(asked)} {what}: write a share ({name}=0.5 or '50%') or an absolute number "
        f"({name}={example}){flops_hint(asked)}"
    )


def parse_share(name: str, asked: Budget, base: int) -> float:
    """Return a budget as a share of the original cost, not rounded to whole units.

    The arguments and errors are those of `parse_budget`.
    """
    limit = parse_budget(name, asked, base)
    number, scale = _read(name, asked)
    return float(number) if scale is None else limit / base


def written(name: str, number: int) -> str:
    """Format a cost for display: ``2,500,000`` parameters, ``64.00 MB``, ``8.000 ms``."""
    if name == "latency":
        return f"{number / 10**12:,.3f} ms"
    return f"{number / 10**6:,.2f} MB" if name == "memory" else f"{number:,}"


def bound(name: str, number: int, *, up: bool) -> str:
    """Format a cost as a budget in few digits, rounded up (so that it suffices) or down."""
    unit = UNITS.get(name, _COUNT)
    scales = {suffix: unit.suffixes.get(suffix.lower(), 1) for suffix in unit.shown}
    suffix = next((s for s, scale in scales.items() if scale <= number), unit.shown[-1])
    thousandths = (1000 * number + up * (scales[suffix] - 1)) // scales[suffix]
    return f"{thousandths // 1000}.{thousandths % 1000:03}".rstrip("0").rstrip(".") + suffix


def _read(name: str, asked: object) -> tuple[Fraction, int | None]:
    """Return the number that was written and its scale in units of the cost; None for a share."""
    if isinstance(asked, str):
        match = _TEXT.fullmatch(asked.strip())
        whole, fraction, suffix = (part or "" for part in match.groups()) if match else ("", "", "")
        scales = {"%": None, "": None if fraction else 1, **UNITS.get(name, _COUNT).suffixes}
        if not whole + fraction or suffix.lower() not in scales:
            raise _senseless(name, asked, "is not understood")
        number = Fraction(f"{whole or 0}{fraction}")
        return number / 100 if suffix == "%" else number, scales[suffix.lower()]
    if type(asked) is not bool and isinstance(asked, Integral):
        return Fraction(int(asked)), 1
    if type(asked) is bool or not isinstance(asked, Real) or not abs(float(asked)) < float("inf"):
        raise _senseless(name, asked, "is not a number")
    return Fraction(repr(float(asked))), None
