"""Random networks of a few seeds; ``make fuzz-networks`` tries thousands."""

import pytest

from tests.fuzz_networks import check

SEEDS = 150


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", range(0, SEEDS, 10))
def test_random_networks_are_cropped_as_planned(first: int) -> None:
    found = [check(seed) for seed in range(first, first + 10)]
    assert [line for line in found if line["faults"]] == []


@pytest.mark.filterwarnings("ignore")
def test_a_seed_makes_the_same_network() -> None:
    lines = [check(3) for _ in range(2)]
    for line in lines:
        line.pop("seconds")
    assert lines[0] == lines[1]
