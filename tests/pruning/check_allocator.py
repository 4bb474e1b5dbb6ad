"""What every method for layer densities must satisfy, whatever it is made from."""

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from precrop.errors import BudgetError
from precrop.pruning.methods import METHODS, layer_densities, weight_scores
from precrop.pruning.problem import Problem
from precrop.pruning.ranking import kept_weights, shares

EXACT = 1e-9
"""How far densities may be from each other, and costs from their budgets as a share of them."""
WHOLE = 0.01
"""How far a sum of whole weights may be from a whole number."""

Limits = Mapping[str, int]
Densities = dict[str, float]


def check_allocator(
    name: str,
    model: nn.Module,
    input_shape: Any,
    *,
    data: Iterable[Any] | None = None,
    shares: Sequence[float] = (0.7, 0.35, 0.1),
    **options: Any,
) -> None:
    """Assert what any entry of `precrop.pruning.methods.METHODS` promises.

    - Densities are those of the layers, in order, above 0 and at most 1.
    - No budget is exceeded and one is used up; a score may leave less than one weight costs.
    - A budget of everything leaves everything, and a budget that doesn't bind changes nothing.
    - The same densities come out for a copy of the network, whatever the global random state, which
      stays as it was, as does the network; and in whatever order layers are listed.
    - A larger budget lowers no density. That is asked of one budget at a time: where one of two
      grows more important than the other, layers that are dear in it make room for others. Of a
      method whose scores change with the budget (SynFlow scores in rounds, and what an early round
      keeps alters the scores of the next) only the total is asked.
    - A method may refuse a budget with a `BudgetError`, and all smaller ones then, but not the
      first.

    Args:
        name: of the method.
        model: a small network; with a million weights it takes seconds.
        input_shape: as in `precrop.plan`.
        data: a list of batches, for methods that need it.
        shares: budgets to try, as shares of the whole, from large to small.
        options: of the method.

    Raises:
        AssertionError: something of it does not hold.
    """
    _Check(name, model, input_shape, data, options).run(shares)


class _Check:
    """One method on one network; what it answers to a budget is asked once."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        input_shape: Any,
        data: Iterable[Any] | None,
        options: Mapping[str, Any],
    ) -> None:
        self.name, self.model, self.options = name, model, options
        self.arguments = (input_shape, {"params": 1.0, "macs": 1.0})
        self.whole = Problem.of(model, *self.arguments, data=data)
        self.scores: dict[str, dict[str, Tensor]] = {}
        self.answers: dict[str, Densities] = {}

    def run(self, shares: Sequence[float]) -> None:
        state = copy.deepcopy(self.model.state_dict())
        modes = [module.training for module in self.model.modules()]
        totals = self.whole.limits
        for limits in (*({cost: total} for cost, total in totals.items()), totals):
            assert set(self.ask(limits).values()) == {1.0}, f"{self.name} prunes at {limits}"
        for cost, total in totals.items():
            limits = {cost: int(shares[0] * total)}
            message = f"{self.name} heeds a budget that doesn't bind"
            _assert_equal(self.ask({**totals, **limits}), self.ask(limits), message)
            self.check_monotone(cost, [int(share * total) for share in shares])
        self.check_repeated({cost: int(shares[0] * total) for cost, total in totals.items()})
        after = self.model.state_dict()
        same = all(torch.equal(after[key], value) for key, value in state.items())
        assert same, f"{self.name} changes the network's state"
        found = [module.training for module in self.model.modules()]
        assert found == modes, f"{self.name} changes the network's mode"

    def ask(self, limits: Limits) -> Densities:
        """Densities, checked to be within bounds and to use up a budget."""
        key = str(sorted(limits.items()))
        if key not in self.answers:
            problem = replace(self.whole, limits=limits)
            if METHODS[self.name].kind == "score":
                self.scores[key] = weight_scores(problem, self.name, **self.options)
                self.answers[key] = shares(kept_weights(problem, self.scores[key]))
            else:
                self.answers[key] = layer_densities(problem, self.name, **self.options)
            self.check_budgets(problem, self.answers[key])
        return self.answers[key]

    def check_budgets(self, problem: Problem, found: Densities) -> None:
        names = list(problem.layers)
        assert list(found) == names, f"{self.name} names {list(found)} instead of {names}"
        assert all(0 < density <= 1 for density in found.values()), f"{self.name}: {found}"
        used_up = set(found.values()) == {1.0}
        for cost, limit in problem.limits.items():
            price, used = _prices(problem, cost), _used(problem, cost, found)
            dearest = max((price[name] for name in names if found[name] < 1), default=0.0)
            error, step = (
                (WHOLE, dearest) if METHODS[self.name].kind == "score" else (EXACT * limit, 0.0)
            )
            assert used <= limit + error, f"{self.name} exceeds {cost}={limit}: {used}"
            used_up |= used > limit - step - error
        assert used_up, f"{self.name} leaves room in {dict(problem.limits)}"

    def check_monotone(self, cost: str, limits: Sequence[int]) -> None:
        """From large to small, down to where the method refuses."""
        accepted = [{cost: limits[0]}]
        self.ask(accepted[0])
        for limit in limits[1:]:
            try:
                self.ask({cost: limit})
            except BudgetError:
                continue
            assert accepted[-1][cost] == limits[limits.index(limit) - 1], (
                f"{self.name} refuses a budget and accepts the smaller one {cost}={limit}"
            )
            accepted.append({cost: limit})
        for large, small in itertools.pairwise(accepted):
            more, less = self.ask(large), self.ask(small)
            if METHODS[self.name].kind == "rule" or self.check_nested(large, small):
                grown = [name for name in less if less[name] > more[name] + EXACT]
                assert not grown, f"{self.name}: {grown} grow as {cost} falls to {small[cost]}"
            spent = [_used(self.whole, cost, found) for found in (more, less)]
            assert spent[1] <= spent[0] + WHOLE, f"{self.name} spends more as {cost} falls"

    def check_nested(self, large: Limits, small: Limits) -> bool:
        """Whether two budgets see the same scores; then the smaller keeps no other weights."""
        first, second = (self.scores[str(sorted(limits.items()))] for limits in (large, small))
        if not all(torch.equal(first[name], second[name]) for name in first):
            return False
        kept, fewer = (kept_weights(self.whole, first, limits) for limits in (large, small))
        strangers = [name for name in kept if (fewer[name] & ~kept[name]).any()]
        assert not strangers, f"{self.name} keeps weights of {strangers} in a smaller budget only"
        return True

    def check_repeated(self, limits: Limits) -> None:
        """For a copy of the network, and with layers and parameters listed in other orders."""
        first = self.ask(limits)
        data, names = self.whole.data, list(self.whole.layers)
        again = Problem.of(copy.deepcopy(self.model), *self.arguments, data=data)
        again = replace(again, limits=limits)
        backwards = replace(
            again,
            layers={name: again.layers[name] for name in reversed(names)},
            parameters={name: again.parameters[name] for name in names[1::2] + names[::2]},
        )
        with torch.random.fork_rng():
            torch.manual_seed(5)
            random = torch.get_rng_state()
            repeated = layer_densities(again, self.name, **self.options)
            drawn = not torch.equal(torch.get_rng_state(), random)
        assert not drawn, f"{self.name} draws from the global random state"
        assert repeated == first, f"{self.name} is not deterministic"
        found = layer_densities(backwards, self.name, **self.options)
        _assert_equal(found, first, f"{self.name} depends on the order of layers")


def _prices(problem: Problem, cost: str) -> dict[str, float]:
    """What a weight of every layer costs."""
    if cost == "params":
        return dict.fromkeys(problem.layers, 1.0)
    return {name: layer.macs / layer.weights for name, layer in problem.layers.items()}


def _used(problem: Problem, cost: str, found: Densities) -> float:
    price = _prices(problem, cost)
    return sum(price[n] * found[n] * layer.weights for n, layer in problem.layers.items())


def _assert_equal(first: Densities, second: Densities, message: str) -> None:
    assert first.keys() == second.keys(), message
    worst = max(abs(first[name] - second[name]) for name in first)
    assert worst <= EXACT, f"{message}: densities differ by {worst}"
