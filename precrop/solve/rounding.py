"""Round the continuous optimum to whole units: widths that a network can be built with.

Widths are floored to what `Choices` allows; the rest of the budgets is spent step by step while
the objective grows; then a few groups at a time trade steps as long as that improves it. Costs are
integers, so no budget is ever exceeded, and at the end no single group has a step up left that
fits and gains.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from precrop.errors import PrecropError
from precrop.solve.program import Program
from precrop.solve.structure import Floats, Integers

_SNAP = 1e-6
"""Relative distance to the next unit below which a width counts as having reached it."""
_DIGITS = 9
"""Significant digits in which scores are compared; the rest differs between machines."""
_GAIN = 1e-9
"""Smallest growth of the objective that counts as an improvement."""
_TRADES = ((2, 48), (3, 12), (4, 8))
"""How many groups trade at once, and from a shortlist of how many."""
_ROWS, _REACH, _TRIES = 4000, 8, 6
"""Trades evaluated in one table (about), most steps of a group in one, trades tried per table."""
_PUSHED = 6
"""How many groups, the costliest first, are moved at the expense of all others."""
_LARGEST = 2**62
_NOBODY = slice(0)


def round_units(
    program: Program, log_ratios: Floats, prices: Mapping[str, float] | None = None
) -> Integers:
    """Return the best units within all budgets that a local search from ``log_ratios`` finds.

    The same input gives the same answer on any machine: scores are compared in nine digits, and the
    group that comes first wins a tie.

    Args:
        program: the objective and its constraints.
        log_ratios: where to start, shape (groups,).
        prices: how scarce each budget is, such as the allocation's multipliers; equal if None.

    Raises:
        PrecropError: a cost could exceed 2**62, near the end of 64-bit integers.
    """
    search = _Search(program, prices)
    start = program.choices.floor(program.choices.units * np.exp(log_ratios) * (1 + _SNAP))
    units = search.climbed(search.filled(search.lowered(start)))
    if not program.fills:
        return units
    # The budgets set the size and the objective only the shape, so steps that lower the objective
    # use up the rest. They come last, since taken early they would mislead the search.
    search.least_gain = -np.inf
    full = search.filled(units)
    return units if (full == units).all() else search.climbed(full)


class _Search:
    """Local search with exact costs and objective values for many candidate moves at once.

    Attributes:
        limits: limits of the budgets, and ``price`` the price per unit of cost, shape (budgets,).
        least_gain: gain that a step of `filled` must exceed.
        bend: `Program.penalty` as a dense matrix, shape (groups, groups).
        cross: coefficient of every product of two groups, shape (budgets, groups, groups).
        row, group, power, coefficient, others: a table with one row for each group in each term of
            a cost: budget, group, its power, the coefficient, the term's other factors (padded).
    """

    def __init__(self, program: Program, prices: Mapping[str, float] | None) -> None:
        self.program, self.choices = program, program.choices
        self.costs = [program.costs[name] for name in program.limits]
        if any(cost(self.choices.upper.tolist()) >= _LARGEST for cost in self.costs):
            raise PrecropError(
                "a cost could pass 2**62, beyond exact 64-bit counting: write a smaller batch_size"
            )
        self.limits = np.array([min(n, _LARGEST) for n in program.limits.values()], np.int64)
        weights = np.array([prices[name] if prices else 1.0 for name in program.limits])
        total = weights.sum()
        # A budget with multiplier zero keeps a tiny price, which breaks ties between equal steps.
        self.price = ((weights / total if total > 0 else weights) + _SNAP) / self.limits
        self.least_gain = _GAIN
        self.bend = program.penalty.toarray()
        self._read_costs()

    def _read_costs(self) -> None:
        """Build the table that has one row for every group in every term of a cost."""
        count = len(self.choices.units)
        degree = max((len(key) for cost in self.costs for key in cost.terms), default=0)
        entries = []
        self.cross = np.zeros((len(self.costs), count, count), dtype=np.int64)
        for row, cost in enumerate(self.costs):
            for key, coefficient in cost.terms.items():
                for group in sorted(set(key)):
                    others = [other for other in key if other != group]
                    others += [count] * (degree - len(others))
                    entries.append((row, group, key.count(group), coefficient, *others))
                if len(key) == 2 and key[0] != key[1]:
                    self.cross[row, *key] += coefficient
                    self.cross[row, *key[::-1]] += coefficient
        table = np.array(entries, dtype=np.int64).reshape(len(entries), 4 + degree)
        self.row, self.group, self.power, self.coefficient = table[:, :4].T
        self.others = table[:, 4:]

    def room(self, units: Integers) -> Integers:
        """Return what is left of every budget, shape (budgets,)."""
        values = units.tolist()
        return self.limits - np.array([cost(values) for cost in self.costs], dtype=np.int64)

    def value(self, units: Integers) -> float:
        """Return the objective."""
        return self.program.value(np.log(units / self.choices.units))

    def spent(self, units: Integers, targets: Integers) -> Integers:
        """Exact change of every cost if one group alone moved to its target, (budgets, groups)."""
        factors = np.append(units, 1)[self.others].prod(axis=1)
        powers = targets[self.group] ** self.power - units[self.group] ** self.power
        total = np.zeros((len(self.limits), len(units)), dtype=np.int64)
        np.add.at(total, (self.row, self.group), self.coefficient * factors * powers)
        return total

    def gained(self, units: Integers, targets: Integers) -> Floats:
        """Change of the objective if one group alone moved to its target, shape (groups,)."""
        x, delta = np.log(units / self.choices.units), np.log(targets / units)
        slope = self.program.gain - 2 * (self.program.penalty @ x)
        gained: Floats = delta * (slope - delta * self.bend.diagonal())
        return gained

    def lowered(self, units: Integers, keep: int | slice = _NOBODY) -> Integers:
        """Step groups (but ``keep``) down by least loss per relief until all fits or none helps."""
        units, room = units.copy(), self.room(units)
        while (room < 0).any():
            targets = self.choices.previous(units)
            targets[keep] = units[keep]
            spent = self.spent(units, targets)
            relief = -(spent / self.limits[:, None])[room < 0].sum(axis=0)
            if not (relief > 0).any():
                break
            best = _scores(self.gained(units, targets), relief, relief > 0).argmax()
            units[best] = targets[best]
            room -= spent[:, best]
        return units

    def filled(self, units: Integers, keep: int | slice = _NOBODY) -> Integers:
        """Step groups (but ``keep``) up, best gain per price first, while one fits and gains."""
        units, room = units.copy(), self.room(units)
        while True:
            targets = self.choices.next(units)
            targets[keep] = units[keep]
            spent, gained = self.spent(units, targets), self.gained(units, targets)
            fits = (targets > units) & (spent <= room[:, None]).all(axis=0)
            fits &= gained > self.least_gain
            if not fits.any():
                return units
            best = _scores(gained, self.price @ spent + 1e-300, fits).argmax()
            units[best] = targets[best]
            room = room - spent[:, best]

    def climbed(self, units: Integers) -> Integers:
        """Improve until no nearby point is better; the cap on rounds is never met in practice."""
        for _ in range(4 * len(units) + 16):
            least = self.value(units) + _GAIN
            held = (moved for moved in self._moved(units) if (self.room(moved) >= 0).all())
            better = next((n for n in map(self.filled, held) if self.value(n) > least), None)
            if better is None:
                break
            units = better
        return units

    def _moved(self, units: Integers) -> Iterator[Integers]:
        """Yield nearby points: trades of a few groups, then one group moved against all others."""
        for size, among in _TRADES:
            yield from self._trades(units, size, self._shortlist(units, among))
        up, down = self.choices.next(units), self.choices.previous(units)
        price = self.price @ self.spent(units, np.where(up > units, up, 2 * units - down))
        for group in _descending(price)[:_PUSHED]:
            for targets, settle in ((up, self.lowered), (down, self.filled)):
                if targets[group] != units[group]:
                    pushed = units.copy()
                    pushed[group] = targets[group]
                    yield settle(pushed, int(group))

    def _shortlist(self, units: Integers, among: int) -> Integers:
        """Return the groups that gain most per price by a step up or lose least by one down."""
        if len(units) <= among:
            return np.arange(len(units))
        chosen = []
        for targets in (self.choices.next(units), self.choices.previous(units)):
            price = np.abs(self.price @ self.spent(units, targets))
            price = price if self.costs else np.ones(len(units))  # without a budget all is free
            movable = (targets != units) & (price > 0)
            score = _scores(self.gained(units, targets), price, movable)
            chosen.append(np.argsort(-score, kind="stable")[: among // 2])
        return np.unique(np.concatenate(chosen))

    def _trades(self, units: Integers, size: int, groups: Integers) -> Iterator[Integers]:
        """Yield the best few points where ``size`` of ``groups`` moved and the objective grew.

        The cost of a trade is exact up to degree 2; `climbed` checks every point's cost anyway.
        """
        if len(groups) < size:
            return
        share = _ROWS / comb(len(groups), size)
        reach = max(1, min(_REACH, int(share ** (1 / size) / 2)))
        up, down, ends = units, units, []
        for _ in range(reach):
            up, down = self.choices.next(up), self.choices.previous(down)
            ends += [up, down]
        targets = np.stack(ends, axis=1)[groups]
        step = (targets - units[groups, None]).ravel()
        delta = np.log(targets / units[groups, None]).ravel()
        gained = np.stack([self.gained(units, end) for end in ends], axis=1)[groups].ravel()
        spent = np.stack([self.spent(units, end) for end in ends], axis=2)[:, groups]
        picks = _picks(len(groups), 2 * reach, size)
        owners = groups[picks // (2 * reach)]
        gain = gained[picks].sum(axis=1)
        cost = spent.reshape(len(spent), gained.size)[:, picks].sum(axis=2)
        for one, two in combinations(range(size), 2):
            pair, ends_of = (owners[:, one], owners[:, two]), (picks[:, one], picks[:, two])
            gain -= 2 * delta[ends_of[0]] * delta[ends_of[1]] * self.bend[pair]
            cost += step[ends_of[0]] * step[ends_of[1]] * self.cross[:, *pair]
        good = np.flatnonzero((cost <= self.room(units)[:, None]).all(axis=0) & (gain > _GAIN))
        for index in good[_descending(gain[good])[:_TRIES]]:
            moved = units.copy()
            moved[owners[index]] = targets.ravel()[picks[index]]
            yield moved


@lru_cache(maxsize=32)
def _picks(groups: int, moves: int, size: int) -> Integers:
    """Return all ways to pick one move each of ``size`` groups, as indices in (groups, moves)."""
    sets = np.array(list(combinations(range(groups), size)))
    grid = np.indices((moves,) * size).reshape(size, -1).T
    return (sets[:, None, :] * moves + grid).reshape(-1, size)


def _scores(gained: Floats, price: Floats, counted: Any) -> Floats:
    """Return gains per price, to nine digits; minus infinity where not ``counted``."""
    none = np.full(len(gained), -np.inf)
    return _rounded(np.divide(gained, price, out=none, where=counted))


def _descending(scores: Floats) -> Integers:
    """Return the order that sorts scores with the largest first."""
    return np.argsort(-_rounded(scores), kind="stable")


def _rounded(scores: Floats) -> Floats:
    """Round scores to nine significant digits."""
    plain = np.isfinite(scores) & (scores != 0)
    sizes = np.floor(np.log10(np.abs(scores), out=np.zeros_like(scores), where=plain))
    scale = 10.0 ** (_DIGITS - 1 - sizes)
    return np.where(plain, np.round(np.where(plain, scores, 0.0) * scale) / scale, scores)
