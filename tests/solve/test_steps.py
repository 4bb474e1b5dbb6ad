"""Steps of widths: what a divisor leaves a group, and its halves where that is nothing."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precrop.solve.multiples import no_multiples
from precrop.solve.program import Choices, program
from precrop.solve.steps import halves, has_choice, leaving_a_choice, portions
from precrop.solve.structure import Group, Structure
from tests.structures import Network, chain


@st.composite
def groups(draw: st.DrawFn) -> Group:
    """A width in portions, of which another layer's may be narrower."""
    units, grain = draw(st.integers(1, 40)), draw(st.integers(1, 24))
    return Group("g", units * grain * draw(st.integers(1, 3)), units, grain, units * grain)


@pytest.mark.parametrize(
    ("divisor", "expected"),
    [(16, [16, 8, 4, 2, 1]), (24, [24, 12, 6, 3, 1]), (10, [10, 5, 1]), (7, [7, 1]), (1, [1])],
)
def test_halves_divide_each_other(divisor: int, expected: list[int]) -> None:
    assert list(halves(divisor)) == expected
    assert all(large % small == 0 for large, small in itertools.pairwise(expected))


@settings(deadline=None, derandomize=True)
@given(groups(), st.integers(1, 48), st.integers(1, 20))
def test_portions_are_what_counting_finds(group: Group, divisor: int, min_width: int) -> None:
    per_unit = group.narrowest // group.units
    allowed = [
        j for j in range(1, 4 * 48) if j * group.grain % divisor == 0 and j * per_unit >= min_width
    ]
    step, least = portions(group, divisor, min_width)
    assert allowed[:3] == [least, least + step, least + 2 * step]
    assert has_choice(group, divisor, min_width) == (least < group.units)


@settings(deadline=None, derandomize=True)
@given(groups(), st.sampled_from([1, 2, 4, 6, 8, 16, 32]), st.integers(1, 9))
def test_narrow_groups_have_the_largest_half_that_leaves_a_choice(
    group: Group, divisor: int, min_width: int
) -> None:
    found = leaving_a_choice(group, divisor, min_width)
    leaving = [half for half in halves(divisor) if has_choice(group, half, min_width)]
    assert found == (max(leaving) if leaving else divisor)
    choices = Choices.of([group], divisor, min_width, halved=True)
    assert choices.divisors.tolist() == [found]
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
    choices = Choices.of([group], 16, halved=True)
    units, found = choices.lower, [int(choices.lower[0])]
    while (choices.next(units) > units).all():
        units = choices.next(units)
        found.append(int(units[0]))
    assert found == allowed


def test_a_divisor_without_halves_is_everyones() -> None:
    some = [Group("a", 64, 64, 1, 64), Group("b", 6, 6, 1, 6)]
    choices = Choices.of(some, 16)
    assert choices.divisors.tolist() == [16, 16]
    assert choices.lower.tolist() == [16, 6]
    assert Choices.of(some, 16, halved=True).lower.tolist() == [16, 4]


def test_the_share_of_every_limit() -> None:
    structure = chain([16, 32, 64])
    limits = {"params": 3000, "macs": 10**6}
    problem = program(structure, limits)
    units = [8, 10, 20]
    shares = [structure.costs[name](units) / limit for name, limit in limits.items()]
    assert problem.used(units) == pytest.approx(shares)
    assert len(program(structure, {}).used(units)) == 0


def test_why_a_layer_is_no_multiple() -> None:
    net = Network()
    image = ()
    wide, narrow, tied = net.group(64), net.group(6), net.group(104, portion=13)
    uneven, kept = net.group(20), net.group(20)
    net.conv(image, (wide,), fixed_in=3)
    net.conv((wide,), (narrow,))
    net.conv((narrow,), (tied,))
    net.conv((tied,), (uneven, kept))
    net.conv((uneven, kept), (kept,))
    net.conv((kept,), image, fixed_out=10)
    structure: Structure = net.structure()
    choices = Choices.of(structure.groups, 16, halved=True)
    names = [layer.name for layer in structure.layers]
    found = no_multiples(structure, choices, np.array([48, 4, 4, 16, 20]))
    assert found == {
        "narrow": [names[1]],
        "tied": [names[2]],
        "parts": [names[3]],
        "whole": [names[4]],
        "fixed": [names[5]],
    }
    assert no_multiples(structure, Choices.of(structure.groups, 1), choices.units) == {}
