"""What is held of a network's widths is a value; the network that was read stays as it was."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.fit.constraints import Constraints, constrained
from precrop.fit.lessons import Lessons
from precrop.read.inputs import Inputs
from precrop.read.lower import lower
from precrop.read.network import read_network
from precrop.read.reading import Reading
from precrop.read.trace import Site

SHAPE = (3, 8, 8)


class Fixed(nn.Module):
    """Views channels by numbers of its own; an embedding of coordinates that nothing learns."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.mid = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 24, 1)
        self.where, self.head = nn.Conv2d(5, 24, 1), nn.Linear(24, 4)
        self.register_buffer("places", torch.rand(1, 5, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        y = y.reshape(y.shape[0], 8, 4, 8, 8).flatten(1, 2)
        y = self.mid(y.relu()) + self.where(self.places)
        return self.head(y.mean((2, 3)))


def test_each_step_is_a_new_value() -> None:
    site, other = Site(None, "up", "view", 0), Site(None, "up", "view", 1)
    none = Constraints(kept={"mid": "asked"})
    held = none.held(site, 3).held(other, 1).bounded({"mid": 7})
    assert none == Constraints(kept={"mid": "asked"})
    assert held.levels == {site: 3, other: 1}
    assert held.held(site, 4).levels == {site: 4, other: 1}
    assert [*held.held(site, 4).levels] == [site, other], "sites keep their order"
    assert held.released() == Constraints(kept={"mid": "asked"}, most_read={"mid": 7})


def test_nothing_held_is_the_network_as_read() -> None:
    network = read_network(Fixed(), Inputs(SHAPE))
    lessons = Lessons(network)
    assert constrained(Constraints(), lessons) is network
    assert constrained(Constraints(most_read={"mid": 3}), lessons) is network


def test_kept_layers_keep_their_reason() -> None:
    network = read_network(Fixed(), Inputs(SHAPE))
    made = constrained(Constraints(kept={"mid": "asked for"}), Lessons(network))
    assert lower(made).network.frozen()["mid"] == "asked for"
    assert "mid" not in lower(network).network.frozen()


def test_all_frozen_has_nothing_to_choose() -> None:
    network = read_network(Fixed(), Inputs(SHAPE))
    made = constrained(Constraints(frozen="too hard"), Lessons(network))
    lowered = lower(made)
    assert not lowered.structure.groups
    assert lowered.network.frozen()["up"] == "too hard"
    assert len(lower(network).structure.groups) == 2


def test_what_has_no_place_in_a_program_is_fixed_in_the_result_alone() -> None:
    network = read_network(Fixed(), Inputs(SHAPE))
    axis = next(layer.inputs for layer in network.layers if layer.name == "where")
    lowered = lower(network)
    assert network.varies(axis)
    assert network.reason(axis) is None
    assert not lowered.network.varies(axis)
    assert lowered.network.reason(axis) == "no layer and no learnt table makes it"


@pytest.mark.parametrize("options", [{"params": 0.6}, {"params": 0.05}, {"memory": 0.8}])
def test_planning_leaves_a_reading_as_it_was(options: dict[str, Any]) -> None:
    """Also where a place is held, or the narrowest network decides before a budget is refused."""
    reading = Reading(Fixed(), SHAPE)
    how = {"own_widths": False, "scale_groups": False, "drop_unused": False}
    network = reading.network(fold="memory" not in options, **how)
    before = lower(network)
    reasons = before.network.frozen()
    try:
        plan = precrop.plan(reading, divisor=1, **options)
        assert "view" in plan.frozen["up"]
    except precrop.BudgetError as error:
        assert "view" in str(error)
    assert reading.network(fold="memory" not in options, **how) is network
    assert lower(network).structure == before.structure
    assert lower(network).network.frozen() == reasons
    assert "up" not in reasons


class Summed(nn.Module):
    """Twelve layers of one width."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 8, 1) for _ in range(12))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([layer(x) for layer in self.layers]).sum(0).mean(1)


def test_of_several_reasons_the_first_layers_is_told() -> None:
    network = read_network(Summed(), Inputs(SHAPE))
    names = [layer.name for layer in network.layers]
    kept = Constraints(kept={name: f"asked of {name}" for name in reversed(names)})
    held = constrained(kept, Lessons(network))
    assert held.frozen() == {}  # an end of the network
    assert {held.reason(layer.outputs) for layer in held.layers} == {f"asked of {names[0]}"}
