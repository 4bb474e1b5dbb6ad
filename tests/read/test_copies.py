"""A copy of a reading is the same reading, and what is done to it leaves the original alone."""

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from precrop.models import resnet20
from precrop.read.axes import freeze, tie
from precrop.read.copies import with_own_widths
from precrop.read.inputs import Inputs
from precrop.read.lower import lower
from precrop.read.network import Network, read_network
from precrop.read.residual import find_streams
from tests.networks import BLOCKS, SHAPE, Net, networks, small


def check_copy(network: Network) -> None:
    """Equal structures, sizes and reasons; other widths, held without an effect on the first."""
    made, before = with_own_widths(network), lower(network)
    after = lower(made)
    assert after.structure == before.structure
    assert after.network.frozen() == before.network.frozen()
    assert {tie.root() for tie in after.ties}.isdisjoint(before.ties)
    units = [max(1, group.units // 2) for group in before.structure.groups]
    old, new = (lowered.sizes(units) for lowered in (before, after))
    for one, other in zip(network.passes, made.passes, strict=True):
        assert one.trace is other.trace
        for known, found in zip(one.readings, other.readings, strict=True):
            pairs = zip(
                (*known.inputs, *known.outputs, [*known.literals.values()]),
                (*found.inputs, *found.outputs, [*found.literals.values()]),
                strict=True,
            )
            assert all([*map(old.size, a)] == [*map(new.size, b)] for a, b in pairs)
    tie(layer.outputs for layer in made.layers)
    for layer in made.layers:
        freeze(layer.inputs, "held")
        freeze(layer.outputs, "held")
    assert not lower(made).structure.groups
    assert lower(network).structure == before.structure
    assert lower(network).network.frozen() == before.network.frozen()


@pytest.mark.parametrize("name", BLOCKS)
def test_of_every_construction(name: str) -> None:
    check_copy(read_network(small(name), Inputs(SHAPE)))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(networks(max_blocks=5))
def test_of_random_networks(net: Net) -> None:
    check_copy(read_network(net, Inputs(SHAPE)))


def test_with_streams_of_their_own() -> None:
    model = resnet20()
    streams = find_streams(read_network(model, Inputs((3, 32, 32))))
    network = read_network(model, Inputs((3, 32, 32)), streams=streams)
    assert network.known.read_widths
    check_copy(network)


def test_equal_calls_of_a_loop_keep_one_reading() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.step, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            for _ in range(20):
                x = torch.tanh(self.step(x))
            return self.last(x)

    network = read_network(Loop(), Inputs((6,)))
    counts = [
        len({*map(id, one.passes[0].readings)}) for one in (network, with_own_widths(network))
    ]
    assert counts[0] == counts[1] < len(network.passes[0].readings)
    check_copy(network)
