"""The strategy that the keywords of `precrop.plan` stand for."""

from collections.abc import Mapping

from precrop.errors import PrecropError
from precrop.solve.program import BALANCE
from precrop.strategies.exact import EXACT, Exact
from precrop.strategies.match import Match
from precrop.strategies.objectives import OBJECTIVES, unknown_objective
from precrop.strategies.strategy import Strategy
from precrop.strategies.synexp import SynExp
from precrop.strategies.two_step import RULES, TwoStep
from precrop.strategies.uniform import Uniform
from precrop.strategies.widths import Widths

BALANCED, UNIFORM = "balanced", "uniform"


def from_keywords(
    *,
    objective: str = "synexp",
    balance: float = BALANCE,
    densities: Mapping[str, float] | None = None,
    rule: str = BALANCED,
    widths: Mapping[str, int] | None = None,
) -> Strategy:
    """``objective=``, ``balance=``, ``densities=``, ``rule=`` and ``widths=`` as one value.

    Raises:
        PrecropError: a name is unknown, or one keyword excludes another.
    """
    if widths is not None:
        if (objective, densities, rule, balance) != ("synexp", None, BALANCED, BALANCE):
            raise PrecropError("widths= excludes objective=, densities=, rule= and balance=")
        return Widths(widths)
    if rule not in (BALANCED, UNIFORM, *RULES):
        known = ", ".join([BALANCED, UNIFORM, *RULES])
        raise PrecropError(f"rule={rule!r} is unknown: choose from {known}")
    if objective not in (*OBJECTIVES, *EXACT):
        raise unknown_objective(objective, (*OBJECTIVES, *EXACT))
    if objective != "synexp" and (rule != BALANCED or densities is not None):
        raise PrecropError(f"objective={objective!r} excludes densities= and rule=")
    if rule != BALANCED and balance != BALANCE:
        raise PrecropError(f"rule={rule!r} has no balance: drop balance={balance!r}")
    if densities is not None and not densities:
        raise PrecropError("densities= is empty: give {layer name: density}")
    if rule == UNIFORM:
        if densities:
            raise PrecropError("rule='uniform' looks at no densities: drop densities=")
        return Uniform()
    if rule != BALANCED:
        return TwoStep(rule, densities or {})
    if densities is not None:
        return Match(densities, balance)
    return Exact(objective, balance) if objective in EXACT else SynExp(balance, objective)
