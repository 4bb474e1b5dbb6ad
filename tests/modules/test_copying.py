"""Copies whose tensors are others: what is shared stays shared, what is not a tensor is copied."""

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.errors import PrecropError
from precrop.modules.copying import copied, tensor_shapes


class Odd(nn.Module):
    """Tied weights, state that is no tensor, a list that both modules hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.notes = [1, [2]]
        self.alias = self.first

    def get_extra_state(self) -> dict[str, int]:
        """State that is no tensor."""
        return {"steps": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Nothing to restore."""

    def forward(self, x: Tensor) -> Tensor:
        """Both layers."""
        out: Tensor = self.second(self.alias(x))
        return out


def test_a_copy_keeps_what_is_shared_and_nothing_of_the_original() -> None:
    model = Odd()
    made = copied(model, lambda _, tensor: torch.zeros_like(tensor))
    assert isinstance(made, Odd)
    assert made.second.weight is made.first.weight is not model.first.weight
    assert made.alias is made.first
    assert made.notes == model.notes
    assert made.notes[1] is not model.notes[1]
    assert made(torch.ones(1, 4)).abs().sum() == 0


class Tap(nn.Module):
    """Keeps what passes in a table of another module."""

    def __init__(self, store: dict[str, Tensor], layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.store, self.layers = store, layers

    def forward(self, x: Tensor) -> Tensor:
        """The same."""
        self.store["kept"] = x
        return x


class Tapped(nn.Module):
    """Takes what a tap kept out of an empty table that both have, and layers from another."""

    def __init__(self) -> None:
        super().__init__()
        self.store: dict[str, Tensor] = {}
        self.op = nn.Conv2d(3, 16, 3)
        self.last = nn.Conv2d(16, 4, 1)
        self.layers: dict[str, nn.Module] = {"op": self.op}
        self.tap = Tap(self.store, self.layers)

    def forward(self, x: Tensor) -> Tensor:
        """What the tap was given."""
        self.tap(self.layers["op"](x))
        out: Tensor = self.last(self.store.pop("kept"))
        return out


def test_tables_that_two_modules_share_stay_one() -> None:
    made = copied(Tapped(), lambda _, tensor: tensor.detach().clone())
    assert isinstance(made, Tapped)
    assert made.tap.store is made.store
    assert made.tap.layers is made.layers
    assert made.layers["op"] is made.op
    plan = precrop.plan(Tapped(), (3, 8, 8), params=0.5)
    assert plan.build(Tapped())(torch.ones(1, 3, 8, 8)).shape == (1, 4, 6, 6)


def test_a_lazy_network_has_to_run_first() -> None:
    with pytest.raises(PrecropError, match="0.weight has no shape yet"):
        copied(nn.Sequential(nn.LazyLinear(3)), lambda _, tensor: tensor)


def test_shapes_are_those_of_the_tensors_in_the_state() -> None:
    shapes = tensor_shapes(Odd())
    assert shapes["first.weight"] == (4, 4)
    assert not any("extra" in name for name in shapes)


class Shared(nn.Module):
    """A copy of it is to be itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
        self.last = nn.Conv2d(16, 4, 1)

    def __deepcopy__(self, memo: dict[int, object]) -> "Shared":
        """The same."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """A few channels."""
        out: Tensor = self.last(self.inner(x))
        return out


@pytest.mark.parametrize("outer", [False, True])
def test_what_copies_as_itself_is_copied_all_the_same(outer: bool) -> None:
    model = nn.Sequential(Shared(), nn.Conv2d(4, 4, 1)) if outer else Shared()
    before = {name: (id(t), t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    plan = precrop.plan(model, (3, 8, 8), params=0.6)
    made = plan.build(model)
    assert made(torch.ones(1, 3, 8, 8)).shape == (1, 4, 6, 6)
    assert not {*map(id, made.modules())} & {*map(id, model.modules())}
    assert not {*map(id, made.parameters())} & {*map(id, model.parameters())}
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert id(tensor) == before[name][0]
        assert torch.equal(tensor, before[name][1])


class Slotted(nn.Module):
    """Keeps some attributes in slots."""

    __slots__ = ("factor", "layers", "missing")
    factor: float
    layers: list[nn.Module]

    def __init__(self) -> None:
        super().__init__()
        self.factor = 0.5
        self.first, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)
        self.layers = [self.first, nn.ReLU(), self.last]

    def forward(self, x: Tensor) -> Tensor:
        """All layers."""
        for layer in self.layers:
            x = layer(x)
        return x * self.factor


def test_attributes_in_slots_are_copied() -> None:
    model = Slotted()
    assert "layers" not in vars(model)
    plan = precrop.plan(model, (3, 8, 8), params=0.5)
    made = plan.build(model)
    assert isinstance(made, Slotted)
    assert made.layers[0] is made.first
    assert made.layers is not model.layers
    assert not hasattr(made, "missing")
    assert made(torch.ones(1, 3, 8, 8)).shape == (1, 4, 6, 6)
