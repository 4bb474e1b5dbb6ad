"""The layer densities that maximise SynExp, in closed form (arXiv 2203.02549).

The program is

    maximise    sum_l log p_l    subject to  sum n_l p_l <= B,  sum m_l p_l <= M,  0 < p_l <= 1

with ``n_l`` weights and ``m_l`` multiply-accumulates. Its optimality conditions give
``p_l = min(1, 1 / (lambda n_l + mu m_l))``. Budgets count weights of layers, nothing else.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from precrop.errors import BudgetError
from precrop.solve.structure import Floats, Layer


def layer_costs(layers: Iterable[Layer]) -> dict[str, Floats]:
    """n_l as ``params`` and m_l as ``macs``, shape (layers,) each."""
    weights, macs = np.array([(one.weights, one.macs) for one in layers], float).reshape(-1, 2).T
    return {"params": weights, "macs": macs}


def closed_form(
    costs: Mapping[str, Floats], limits: Mapping[str, float], expand: bool = False
) -> Floats:
    """The densities that maximise SynExp within one or two budgets, shape (layers,).

    For a given ratio of the two multipliers the best densities within one budget follow from a
    sort; the ratio at which both budgets are met is the root of a function of one variable.

    Args:
        costs: of every layer, as in `layer_costs`.
        limits: of ``sum(cost * densities)``, by the names of one or two of the costs.
        expand: allow densities above 1 (PreConfig). A layer that no binding budget sees keeps 1.

    Raises:
        BudgetError: no budget, or one that is not positive.
    """
    budgets = [(costs[name], limits[name]) for name in costs if name in limits]
    if not budgets or not all(limit > 0 for _, limit in budgets):
        raise BudgetError("densities need a budget above zero: give params or macs")
    prices = np.array([cost / limit for cost, limit in budgets])

    def densities(mix: float) -> Floats:
        """The best densities that meet each budget when their multipliers stand 1 - mix to mix."""
        price = (1 - mix) * prices[0] + mix * prices[-1]
        return _shares(price, min(_level(cost, price, expand) for cost in prices), expand)

    def lead(mix: float) -> float:
        """How much further the first budget would reach than the second: positive at the start."""
        price = (1 - mix) * prices[0] + mix * prices[-1]
        levels = np.clip([_level(cost, price, expand) for cost in prices], 1e-300, 1e300)
        return float(np.log(levels[0]) - np.log(levels[1]))

    if len(prices) == 1 or lead(0.0) <= 0:
        return densities(0.0)
    if lead(1.0) >= 0:
        return densities(1.0)
    from scipy.optimize import brentq

    return densities(brentq(lead, 0.0, 1.0, xtol=1e-15, rtol=1e-14))


def _shares(price: Floats, level: float, expand: bool) -> Floats:
    """Densities ``level / price``, at most 1 unless ``expand``; 1 where the price is zero."""
    shares = np.divide(level, price, out=np.ones_like(price), where=price > 0)
    return shares if expand else np.minimum(shares, 1.0)


def _level(cost: Floats, price: Floats, expand: bool) -> float:
    """The level at which ``_shares`` use up the budget ``sum(cost * shares) = 1``; inf if never."""
    free = price <= 0
    paid, unit = cost[~free], price[~free]
    rest = 1.0 - cost[free].sum()
    if expand:
        return float(rest / (paid / unit).sum())
    if paid.sum() <= rest:
        return np.inf
    order = np.argsort(unit, kind="stable")
    paid, unit = paid[order], unit[order]
    full = np.concatenate([[0.0], np.cumsum(paid)[:-1]])
    slope = np.cumsum((paid / unit)[::-1])[::-1]
    # Below its price a layer's share grows with the level, above it stays 1: piecewise linear.
    first = min(int(np.searchsorted(full + slope * unit, rest)), len(unit) - 1)
    return float((rest - full[first]) / slope[first])
