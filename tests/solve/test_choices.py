"""The widths that divisors leave a group."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precrop.solve.choices import Choices, has_choice
from precrop.solve.program import program
from precrop.solve.structure import Group
from tests.structures import chain

HALVES = [16, 8, 4, 2, 1]


@st.composite
def groups(draw: st.DrawFn) -> Group:
    """A width in portions, of which another layer's may be narrower."""
    units, grain = draw(st.integers(1, 40)), draw(st.integers(1, 24))
    width, least = units * grain * draw(st.integers(1, 3)), draw(st.integers(1, 2))
    return Group("g", width, units, grain, units * grain, least=least)


@settings(deadline=None, derandomize=True)
@given(groups(), st.integers(1, 48), st.integers(1, 20))
def test_steps_are_what_counting_finds(group: Group, divisor: int, min_width: int) -> None:
    per_unit = group.narrowest // group.units
    allowed = [
        j
        for j in range(group.least, 4 * 48)
        if j * group.grain % divisor == 0 and j * per_unit >= min_width
    ]
    choices = Choices.of([group], [divisor], min_width)
    step, least = int(choices.step[0]), int(choices.least[0])
    assert allowed[:3] == [least, least + step, least + 2 * step]
    assert has_choice(group, divisor, min_width) == (least < group.units)


@settings(deadline=None, derandomize=True)
@given(groups(), st.sampled_from([[1], [8, 4, 2, 1], [24, 12, 6, 3, 1]]), st.integers(1, 9))
def test_narrow_groups_have_the_largest_divisor_that_leaves_a_choice(
    group: Group, divisors: list[int], min_width: int
) -> None:
    leaving = [one for one in divisors if has_choice(group, one, min_width)]
    choices = Choices.of([group], divisors, min_width)
    assert choices.divisors.tolist() == [max(leaving, default=divisors[0])]
    assert bool(choices.lower[0] < choices.upper[0]) == bool(leaving)


@pytest.mark.parametrize(
    ("group", "allowed"),
    [
        (Group("wide", 64, 64, 1, 64), [16, 32, 48, 64]),
        (Group("not a multiple", 24, 24, 1, 24), [16, 24]),
        (Group("as narrow as the step", 16, 16, 1, 16), [8, 16]),
        (Group("squeeze", 6, 6, 1, 6), [4, 6]),
        (Group("two", 2, 2, 1, 2), [1, 2]),
        (Group("one", 1, 1, 1, 1), [1]),
        (Group("13 groups of 8", 104, 8, 13, 104), [4, 8]),
        (Group("bounded", 32, 32, 1, 32, 12), [8]),
    ],
)
def test_halved_choices(group: Group, allowed: list[int]) -> None:
    choices = Choices.of([group], HALVES)
    units, found = choices.lower, [int(choices.lower[0])]
    while (choices.next(units) > units).all():
        units = choices.next(units)
        found.append(int(units[0]))
    assert found == allowed


def test_one_divisor_is_everyones() -> None:
    some = [Group("a", 64, 64, 1, 64), Group("b", 6, 6, 1, 6)]
    choices = Choices.of(some, [16])
    assert choices.divisors.tolist() == [16, 16]
    assert choices.lower.tolist() == [16, 6]
    assert Choices.of(some, HALVES).lower.tolist() == [16, 4]


def test_the_share_of_every_limit() -> None:
    structure = chain([16, 32, 64])
    limits = {"params": 3000, "macs": 10**6}
    problem = program(structure, limits)
    units = [8, 10, 20]
    shares = [structure.costs[name](units) / limit for name, limit in limits.items()]
    x = np.log(np.array(units) / structure.units)
    assert problem.used(x) == pytest.approx(shares)
    assert len(program(structure, {}).used(x)) == 0
