"""SynExp by sampling agrees with SynExp: whatever the unit of a mask, and however weights come."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.errors import PrecropError
from precrop.pruning.masking import GRANULARITIES
from precrop.read.inputs import Inputs
from precrop.read.network import read_network
from scripts.sampled_synexp import SampledMean, sampled_crop, sampled_output, sampled_synexp
from tests.networks import assemble, conv, small

SHAPE = (3, 4, 4)
NARROW, Z = 0.03, 4
"""Widest confidence interval, as a share of the mean, and most standard errors off."""


def chain() -> nn.Module:
    torch.manual_seed(0)
    layers = [conv(3, 16), conv(16, 16), nn.MaxPool2d(2), conv(16, 24), conv(24, 24)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))


NETWORKS = {
    "chain": chain,
    "residual": lambda: assemble([("residual", 16), ("residual projected", 24)]),
    "dense": lambda: assemble([("dense", 24), ("dense", 24)]),
}


def halves(model: nn.Module, density: float = 0.5) -> dict[str, float]:
    """Every layer at the density, but for the stem, which keeps more of its few channels."""
    names = [layer.name for layer in read_network(model, Inputs(SHAPE)).layers]
    return dict.fromkeys(names, density) | {names[0]: 2 / 3}


def check(model: nn.Module, found: SampledMean) -> None:
    """The test can fail: the interval is narrow."""
    expected = precrop.expected_output(model, SHAPE, found.densities)
    low, high = (math.exp(end - found.log_mean) for end in found.interval)
    assert high - low < NARROW
    assert abs(found.deviation(expected)) < Z


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_mean_of_r_is_its_expectation(name: str, granularity: str) -> None:
    model, samples = NETWORKS[name](), {"chain": 300, "residual": 700, "dense": 650}[name]
    found = sampled_output(model, SHAPE, halves(model), granularity=granularity, samples=samples)
    assert found.samples == samples
    assert found.shares == {}
    assert found.densities == pytest.approx(halves(model), abs=0.11)
    check(model, found)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_mean_of_all_scores_is_synexp(name: str) -> None:
    model, samples = NETWORKS[name](), {"chain": 300, "residual": 700, "dense": 650}[name]
    found = sampled_synexp(model, SHAPE, halves(model), granularity="kernel", samples=samples)
    expected = precrop.synexp(model, SHAPE, found.densities)
    low, high = (math.exp(end - found.log_mean) for end in found.interval)
    assert high - low < NARROW
    assert abs(found.deviation(expected)) < Z
    output = precrop.expected_output(model, SHAPE, found.densities)
    layers = math.log(len(found.densities))
    assert abs(output + layers - expected) < 1e-9 if name == "chain" else output < expected


@pytest.mark.parametrize("granularity", ["weight", "channel"])
@pytest.mark.parametrize("name", NETWORKS)
def test_with_the_layers_own_weights_in_another_order(name: str, granularity: str) -> None:
    model, samples = NETWORKS[name](), {"weight": 150, "channel": 450}[granularity]
    found = sampled_output(
        model, SHAPE, halves(model), granularity=granularity, samples=samples, weights="shuffle"
    )
    check(model, found)


@pytest.mark.parametrize("block", ["depthwise", "shuffle unit", "squeeze excite", "transposed"])
def test_other_constructions(block: str) -> None:
    model = small(block)
    check(model, sampled_output(model, SHAPE, halves(model), samples=300, weights="shuffle"))


def test_densities_are_those_of_the_masks() -> None:
    model, asked = chain(), {"0.0": 0.4, "7": 0.37}
    one, two, other = (
        sampled_output(model, SHAPE, asked, granularity="filter", samples=2, seed=seed)
        for seed in (0, 0, 1)
    )
    assert one.densities == {"0.0": 6 / 16, "7": 4 / 10}
    assert one == two
    assert one.log_mean != other.log_mean


def test_without_masks_only_weights_vary() -> None:
    model = chain()
    found = sampled_output(model, SHAPE, {}, samples=300)
    assert found.densities == {}
    check(model, found)


def test_the_model_stays_as_it_was() -> None:
    model = chain()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sampled_output(model, SHAPE, halves(model), samples=2)
    sampled_crop(model, SHAPE, 0.5, samples=2)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# --- masks that neighbours share ------------------------------------------------------------------


def test_a_hidden_channel_of_a_chain_counts_once() -> None:
    model = chain()
    shares = {"0.0": 0.5, "1.0": 0.25, "3.0": 0.75, "4.0": 0.5}
    found = sampled_crop(model, SHAPE, shares, samples=500)
    assert found.shares == shares
    layers = {"0.0": 0.5, "1.0": 0.125, "3.0": 0.1875, "4.0": 0.375, "7": 0.5}
    assert found.densities == pytest.approx(layers)
    dense = precrop.expected_output(model, SHAPE)
    expected = dense + sum(map(math.log, shares.values()))
    assert 2 * 1.96 * found.relative_error < NARROW
    assert abs(found.deviation(expected)) < Z
    # SynExp at the layers' densities counts every channel twice: far off.
    twice = precrop.expected_output(model, SHAPE, found.densities)
    assert twice == pytest.approx(dense + 2 * sum(map(math.log, shares.values())))
    assert found.deviation(twice) > 20


def test_shared_masks_of_a_residual_stream() -> None:
    """Worked out by hand: two paths, of which the branch may leave the stream's channel."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(2, 20), nn.Linear(20, 2)
            self.branch = nn.Linear(20, 20)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + self.branch(x).relu())

    model = Block()
    found = sampled_crop(model, (2,), 0.25, samples=1500)
    assert found.shares == {"stem": 0.25}
    a, b, c = (
        float(layer.weight.detach().double().abs().mean())
        for layer in (model.stem, model.branch, model.head)
    )
    stay, both = 5 / 20, 5 / 20 * 4 / 19  # of one channel, of two different ones
    paths = 2 * 2 * 20 * a * c * (stay + b * (stay + 19 * both))
    assert found.relative_error < 0.01
    assert abs(found.deviation(math.log(paths))) < Z


def test_channels_go_in_all_layers_that_have_them() -> None:
    model = small("dense")
    found = sampled_crop(model, SHAPE, 0.5, samples=2)
    assert set(found.shares.values()) == {0.5}
    assert found.densities["blocks.0.second.0"] == pytest.approx(0.25)


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, "samples=1 makes no sense"),
        ({"samples": 2.5}, "samples=2.5 makes no sense"),
        ({"weights": "uniform"}, "weights='uniform' is unknown: write normal or shuffle"),
        ({"granularity": "block"}, "granularity 'block' is unknown"),
        ({"densities": {"nine": 0.5}}, "layer 'nine' that is not there"),
        ({"densities": {"7": 0}}, "is 0: write a number"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    given = {"densities": {"0.0": 0.5}, "samples": 2, **options}
    with pytest.raises(PrecropError, match=message):
        sampled_output(chain(), SHAPE, **given)


def test_a_width_that_is_not_there() -> None:
    with pytest.raises(PrecropError, match="'9' that is not there"):
        sampled_crop(chain(), SHAPE, {"9": 0.5}, samples=2)


def test_r_of_zero() -> None:
    model = chain()
    nn.init.zeros_(model.get_submodule("0.0").weight)  # type: ignore[arg-type]
    found = sampled_output(model, SHAPE, {"0.0": 0.5}, samples=2)
    assert (found.log_mean, found.relative_error) == (-math.inf, math.inf)
