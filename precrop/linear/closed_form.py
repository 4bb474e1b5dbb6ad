"""The layer densities that maximise SynExp, in closed form (arXiv 2203.02549).

The program is

    maximise    sum_l log p_l    subject to  sum n_l p_l <= B,  sum m_l p_l <= M,  0 < p_l <= 1

with ``n_l`` weights and ``m_l`` multiply-accumulates. Its KKT conditions give
``p_l = min(1, 1 / (lambda n_l + mu m_l))``. Budgets count the weights of layers alone, no biases.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from precrop.errors import BudgetError
from precrop.solve.structure import Floats, Layer


def layer_costs(layers: Iterable[Layer]) -> dict[str, Floats]:
    """Return n_l as ``params`` and m_l as ``macs``, shape (layers,) each."""
    weights, macs = np.array([(one.weights, one.macs) for one in layers], float).reshape(-1, 2).T
    return {"params": weights, "macs": macs}


def closed_form(
    costs: Mapping[str, Floats], limits: Mapping[str, float], expand: bool = False
) -> Floats:
    """Return the densities that maximise SynExp within one or two budgets, shape (layers,).

    For a given ratio of the two multipliers the optimal densities follow from a sort; the ratio at
    which both budgets are used up is found as the root of a function of one variable.

    Args:
        costs: costs of every layer, as `layer_costs` returns them.
        limits: limits on ``sum(cost * densities)`` for one or two of the costs, by name.
        expand: allow densities above 1 (PreConfig). A layer without a binding cost keeps 1.

    Raises:
        BudgetError: there is no budget, or one is not positive.
    """
    budgets = [(costs[name], limits[name]) for name in costs if name in limits]
    if not budgets or not all(limit > 0 for _, limit in budgets):
        raise BudgetError("densities need a budget above zero: give params or macs")
    prices = np.array([cost / limit for cost, limit in budgets])

    def densities(mix: float) -> Floats:
        """Return the best densities within the budgets for multipliers in ratio 1 - mix to mix."""
        price = (1 - mix) * prices[0] + mix * prices[-1]
        return _shares(price, min(_level(cost, price, expand) for cost in prices), expand)

    def lead(mix: float) -> float:
        """Log ratio of the levels that the two budgets allow: positive if the second is tighter."""
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
    """Return densities ``level / price``, at most 1 unless ``expand``; 1 where the price is 0."""
    shares = np.divide(level, price, out=np.ones_like(price), where=price > 0)
    return shares if expand else np.minimum(shares, 1.0)


def _level(cost: Floats, price: Floats, expand: bool) -> float:
    """Return the level at which `_shares` have ``sum(cost * shares) = 1``; infinity if none do."""
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
    # A layer's share grows linearly with the level up to its price, where it reaches 1.
    first = min(int(np.searchsorted(full + slope * unit, rest)), len(unit) - 1)
    return float((rest - full[first]) / slope[first])
