"""Budgets as people write them, turned into exact limits.

A budget is a share of the original (``0.5``, ``"50%"``; ``1.0`` is all of it) or an absolute number
(``2_500_000``, ``"2.5M"``). Everything is computed in decimal, so that ``0.29`` of 100 is 29.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from numbers import Integral, Real

from precrop.errors import BudgetError

Budget = float | int | str

_SUFFIXES = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_TEXT = re.compile(r"(\d+(?:_\d+)*)?(\.\d+)?\s*([%kmgt]?)", re.IGNORECASE)
_LARGEST_SHARE = 100


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
        example = next(iter(bases), "params")
        raise BudgetError(f"no budget given: write for instance {example}=0.5 or {example}='2.5M'")
    unknown = [name for name in given if name not in bases]
    if unknown:
        raise BudgetError(f"no cost is called {unknown[0]!r}: budgets are {', '.join(bases)}")
    return {name: parse_budget(name, budget, bases[name]) for name, budget in given.items()}


def parse_budget(name: str, asked: Budget, base: int) -> int:
    """The limit, in units of the cost, that a budget stands for.

    Args:
        name: the cost's name, for messages.
        asked: a float is a share of ``base``; an int is absolute; a string is a share with ``%`` or
            a decimal point (``"50%"``, ``"0.5"``), else absolute (``"2.5M"``, ``"1_000_000"``).
        base: what the original network costs.

    Raises:
        BudgetError: the budget is not a positive number or looks like a slip (``params=1``).
    """
    hint = f"write a share ({name}=0.5 or '50%') or an absolute number ({name}=2500000 or '2.5M')"
    number, absolute = _read(name, asked, hint)
    if not number.is_finite() or number <= 0:
        raise BudgetError(f"{name}={asked!r} is not a positive number: {hint}")
    if absolute and number == 1:
        raise BudgetError(f"{name}={asked!r} is a single unit: write {name}=1.0 for all of it")
    if not absolute and number > _LARGEST_SHARE:
        raise BudgetError(f"{name}={asked!r} is a share above {_LARGEST_SHARE}: {hint}")
    limit = int(number if absolute else number * base)
    if limit < 1:
        raise BudgetError(f"{name}={asked!r} of {base} leaves nothing: {hint}")
    return limit


def _read(name: str, asked: object, hint: str) -> tuple[Decimal, bool]:
    """The number that was written, and whether it is absolute rather than a share."""
    if isinstance(asked, str):
        match = _TEXT.fullmatch(asked.strip())
        if match is None or (match[1] is None and match[2] is None):
            raise BudgetError(f"{name}={asked!r} is not understood: {hint}")
        whole, fraction, suffix = (part or "" for part in match.groups())
        number = Decimal(f"{whole or 0}{fraction}")
        if suffix == "%":
            return number / 100, False
        if suffix:
            return number * _SUFFIXES[suffix.upper()], True
        return number, not fraction
    if isinstance(asked, bool) or not isinstance(asked, Real):
        raise BudgetError(f"{name}={asked!r} is not a number: {hint}")
    if isinstance(asked, Integral):
        return Decimal(int(asked)), True
    return Decimal(repr(float(asked))), False
