"""The closed form against its optimality conditions, a general solver and known values."""

import cvxpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precrop.errors import BudgetError
from precrop.linear.closed_form import closed_form

# CIFAR ResNet-20 with parameter-free shortcuts: stem, three stages of six, classifier.
WEIGHTS = np.array([432, *[2304] * 6, 4608, *[9216] * 5, 18432, *[36864] * 5, 640])
MACS = WEIGHTS * np.array([*[1024] * 7, *[256] * 6, *[64] * 6, 1])
COSTS = {"params": WEIGHTS.astype(float), "macs": MACS.astype(float)}


def test_resnet20_totals() -> None:
    assert (WEIGHTS.sum(), MACS.sum()) == (268_336, 40_551_040)


@pytest.mark.parametrize(
    ("budget", "share", "expected", "other"),
    [
        ("params", 0.5, [1, 1, 1, 1, 0.62, 0.31, 1], 0.79),
        ("params", 0.2, [1, 1, 0.70, 0.35, 0.18, 0.09, 1], 0.51),
        ("params", 0.1, [1, 0.62, 0.31, 0.16, 0.08, 0.04, 1], 0.30),
        ("macs", 0.5, [1, 0.47, 0.93, 0.47, 0.93, 0.47, 1], 0.51),
        ("macs", 0.2, [0.97, 0.18, 0.36, 0.18, 0.36, 0.18, 1], 0.20),
    ],
)
def test_resnet20_table(budget: str, share: float, expected: list[float], other: float) -> None:
    cost, rest = (WEIGHTS, MACS) if budget == "params" else (MACS, WEIGHTS)
    found = closed_form(COSTS, {budget: share * cost.sum()})
    # The table's figures have two digits.
    np.testing.assert_allclose(found[[0, 1, 7, 8, 13, 14, 19]], expected, atol=0.0075)
    assert found @ cost == pytest.approx(share * cost.sum(), rel=1e-12)
    assert found @ rest / rest.sum() == pytest.approx(other, abs=0.0051)


layer_lists = st.lists(
    st.tuples(st.integers(1, 10**7), st.integers(0, 10**10)), min_size=1, max_size=30
)
shares = st.floats(1e-4, 1.2)


@settings(max_examples=200, deadline=None)
@given(layer_lists, shares, shares, st.booleans())
def test_optimality_conditions(
    layers: list[tuple[int, int]], params: float, macs: float, expand: bool
) -> None:
    weights, products = np.array(layers, float).T
    products += 1.0 * expand
    limits = {"params": params * weights.sum(), "macs": max(macs * products.sum(), 1e-3)}
    found = closed_form({"params": weights, "macs": products}, limits, expand)
    costs = np.array([weights / limits["params"], products / limits["macs"]])
    used = costs @ found
    assert (found > 0).all()
    assert expand or (found <= 1).all()
    assert (used <= 1 + 1e-10).all()
    tight = costs[used > 1 - 1e-9]
    inner = found < 1 - 1e-9 if not expand else found > 0
    assert inner.any() <= (len(tight) > 0)
    if not inner.any():
        return
    # Where the cap does not bind, 1 / p is a non-negative combination of the tight budgets.
    prices = (tight[:, inner] * found[inner]).T
    multipliers, *_ = np.linalg.lstsq(prices, np.ones(len(prices)), rcond=None)
    if np.linalg.matrix_rank(prices, tol=1e-6) == len(tight):
        np.testing.assert_allclose(prices @ multipliers, 1, rtol=1e-6)
        assert (multipliers > -1e-6).all()
        assert (tight.T @ multipliers <= 1 / found + 1e-6 / found).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "shares",
    [
        *({"params": a, "macs": b} for a, b in ((0.3, 0.3), (0.5, 0.6), (0.1, 0.9))),
        *({"params": 0.2}, {"macs": 0.4}),
    ],
)
@pytest.mark.parametrize("expand", [False, True])
def test_agrees_with_a_general_solver(shares: dict[str, float], expand: bool) -> None:
    p = cvxpy.Variable(len(WEIGHTS))
    rules = [] if expand else [p <= 1]
    rules += [COSTS[n] / COSTS[n].sum() @ p <= share for n, share in shares.items()]
    problem = cvxpy.Problem(cvxpy.Maximize(cvxpy.sum(cvxpy.log(p))), rules)
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    limits = {name: share * COSTS[name].sum() for name, share in shares.items()}
    found = closed_form(COSTS, limits, expand)
    assert np.log(found).sum() == pytest.approx(problem.value, abs=3e-5)


def test_slack_budgets_leave_everything() -> None:
    assert (closed_form(COSTS, {"params": 1e9, "macs": 1e12}) == 1).all()


@pytest.mark.parametrize("limits", [(), (0,), (1.0, -1.0), (float("nan"), 1.0)])
def test_senseless_budgets(limits: tuple[float, ...]) -> None:
    with pytest.raises(BudgetError, match="above zero"):
        closed_form(COSTS, dict(zip(COSTS, limits, strict=False)))
