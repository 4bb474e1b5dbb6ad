import math

import pytest
import torch

import precrop
from scripts.invariance import (
    SHAPES,
    UNITS,
    cropped,
    independent,
    masks,
    mean_of_scores,
    network,
    shuffled,
)


@pytest.mark.parametrize(("unit", "count"), [("weights", 70), ("kernels", 6), ("filters", 2)])
def test_masks_keep_half_of_the_units(unit: str, count: int) -> None:
    found = list(masks(SHAPES[0], UNITS[unit]))
    assert len(found) == len({tuple(mask.flatten().tolist()) for mask in found}) == count
    assert all(mask.sum() == 4 and set(mask.unique().tolist()) == {0, 1} for mask in found)


def test_shuffling_arranges_the_same_weights() -> None:
    own = next(network().parameters()).detach().flatten().sort().values.double()
    found = list(shuffled(SHAPES[0]))
    assert len(found) == 70
    assert all(torch.equal(weights.flatten().sort().values, own) for weights in found)


@pytest.mark.parametrize("unit", ["filters", "channels"])
def test_the_mean_over_all_masks_is_synexp(unit: str) -> None:
    mean, count = mean_of_scores(independent(shuffled, UNITS[unit]))
    names = ["0", "2", "5"]
    expected = precrop.synexp(network(), (2, 1, 2), dict.fromkeys(names, 0.5))
    assert count == 20_160
    assert math.log(mean) == pytest.approx(expected)


def test_one_network_has_the_scores_of_autograd() -> None:
    """The formula behind the enumeration, beside R through the network itself."""
    model = network().double()
    total = model(torch.ones(1, 2, 1, 2, dtype=torch.float64)).sum()
    weights = list(model.parameters())
    slopes = torch.autograd.grad(total, weights)
    wanted = sum(float((w * s).sum().detach()) for w, s in zip(weights, slopes, strict=True))
    mean, count = mean_of_scores([weight.detach()[None] for weight in weights])
    assert mean == pytest.approx(wanted)
    assert count == 1


def test_a_cropped_networks_masks_are_not_independent() -> None:
    mean, _ = cropped()
    densities = {"0": 0.5, "2": 0.25, "5": 0.5}
    assert mean / math.exp(precrop.synexp(network(), (2, 1, 2), densities)) == pytest.approx(4)
