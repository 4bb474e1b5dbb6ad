"""The choice of a strategy by the keywords of `precrop.plan`."""

from collections.abc import Mapping

from precrop.errors import PrecropError, check_known
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


def chosen(
    strategy: Strategy | None,
    objective: str,
    balance: float,
    densities: Mapping[str, float] | None,
    rule: str,
    widths: Mapping[str, int] | None,
) -> Strategy:
    """Return the given strategy, or else the one that the keywords stand for.

    Raises:
        PrecropError: a name is unknown, or one keyword excludes another.
    """
    usual = (objective, balance, densities, rule) == ("synexp", BALANCE, None, BALANCED)
    if strategy is not None:
        if not isinstance(strategy, Strategy):
            raise PrecropError(
                f"strategy={strategy!r} is not a strategy: give an instance, such as "
                "precrop.SynExp()"
            )
        if not usual or widths is not None:
            raise PrecropError(
                "strategy= says how widths are found: drop objective=, balance=, densities=, "
                "rule= and widths="
            )
        return strategy
    if widths is not None:
        if not usual:
            raise PrecropError("widths= excludes objective=, densities=, rule= and balance=")
        return Widths(widths)
    check_known(f"rule={rule!r}", rule, (BALANCED, UNIFORM, *RULES))
    if not isinstance(objective, str) or objective not in (*OBJECTIVES, *EXACT):
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
        return TwoStep(rule, densities)
    if densities is not None:
        return Match(densities, balance)
    return Exact(objective, balance) if objective in EXACT else SynExp(balance, objective)
