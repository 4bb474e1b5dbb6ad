"""What a network returns keeps its width, in whatever it is wrapped and in either mode."""

import itertools
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.read.inputs import Inputs
from precrop.read.network import read_network
from precrop.read.within import tensors_within

SHAPE = (3, 8, 8)


@dataclass
class Record:
    logits: Tensor
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Slotted:
    logits: Tensor
    features: Tensor


class Bag:
    def __init__(self, **named: Any) -> None:
        self.__dict__.update(named)


class Slots:
    __slots__ = ("features", "unset")

    def __init__(self, features: Tensor) -> None:
        self.features = features


class Pair(NamedTuple):
    logits: Tensor
    features: Tensor


Other = namedtuple("Other", ("logits", "features"))


def yielded(*tensors: Tensor) -> Iterator[Tensor]:
    yield from tensors


WRAPPED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda *tensors: tensors,
    "dict": lambda a, b: {"logits": a, "features": b},
    "ordered": lambda a, b: OrderedDict(logits=a, features=b),
    "own mapping": lambda a, b: UserDict(logits=a, features=b),
    "dataclass": lambda a, b: Record(a, {"features": [b]}),
    "slotted dataclass": Slotted,
    "object": lambda a, b: Bag(logits=a, inner=Bag(features=b)),
    "slots": lambda a, b: (a, Slots(b)),
    "named tuple": Pair,
    "other named tuple": lambda a, b: Other(a, b),
    "generator": yielded,
    "nested": lambda a, b: [Record(a), {"inner": (Bag(features=[b]), None, 3, "text")}],
}


class Net(nn.Module):
    """Returns its features beside the logits, in eval mode, in train mode or in both."""

    def __init__(self, wrap: Callable[[Tensor, Tensor], Any], modes: tuple[bool, ...]) -> None:
        super().__init__()
        self.wrap, self.modes = wrap, modes
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Any:
        features = self.second(self.first(x).relu()).relu().mean((2, 3))
        logits = self.head(features)
        return self.wrap(logits, features) if self.training in self.modes else logits


def shapes(net: nn.Module, training: bool) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(t.shape) for t in tensors_within(net.train(training)(torch.ones(2, *SHAPE)))]


@pytest.mark.parametrize("modes", [(True,), (False,), (True, False)])
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_returned_tensors_keep_their_shapes(wrapped: str, modes: tuple[bool, ...]) -> None:
    net = Net(WRAPPED[wrapped], modes)
    small = precrop.plan(net, SHAPE, params=0.6).build(net)
    assert isinstance(small, Net)
    for training in (True, False):
        expected = [(2, 10), (2, 24)] if training in modes else [(2, 10)]
        assert shapes(net, training) == shapes(small, training) == expected
    assert small.first.out_channels < 16


class Switched(nn.Module):
    """Computes a second head always and returns it when asked; writes a third into a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.both = False
        self.body = nn.Conv2d(3, 24, 3)
        self.head, self.written = nn.Linear(24, 10), nn.Linear(24, 6)
        self.other = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Any:
        features = self.body(x).relu().mean((2, 3))
        whole = features.new_zeros(len(features), 16)
        whole[:, :10] = self.head(features)
        whole[:, 10:] = self.written(features)
        other = self.other(features)
        return (whole, other) if self.both else whole


def test_results_that_are_not_returned_keep_their_shapes() -> None:
    """Whoever turns the second head on, once the network is smaller, finds as many classes."""
    net = Switched()
    plan = precrop.plan(net, SHAPE, params=0.3)
    small: Any = plan.build(net)
    small.both = True
    assert [tuple(t.shape) for t in small(torch.ones(2, *SHAPE))] == [(2, 16), (2, 10)]
    assert small.other[0].out_features < 32
    assert not plan.frozen


def test_dropout_alone_is_no_other_output() -> None:
    """Such a train pass need not be read for itself."""
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 4), nn.Dropout(0.5)
    )
    assert [one.training for one in read_network(net, Inputs(SHAPE)).passes] == [False]


def test_looking_for_tensors_ends() -> None:
    loop: list[Any] = [torch.ones(1)]
    loop.append(loop)
    assert len(tensors_within(loop)) == 1
    ticks = (torch.ones(1) if n == 0 else n for n in itertools.count())
    assert len(tensors_within(ticks)) == 1
    assert not tensors_within([range(10**12), "text"])


class Looks(nn.Module):
    """Looks at values in train mode only, where another branch runs too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3)
        self.head, self.other = nn.Linear(24, 10), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Any:
        features = self.second(self.first(x).relu()).mean((2, 3))
        if not self.training:
            return self.head(features)
        if float(x.mean()) > 2:
            features = features * 2
        return self.head(features), self.other(features), features


def test_a_train_pass_that_needs_values_is_read() -> None:
    net = Looks()
    plan = precrop.plan(net, SHAPE, params=0.6, macs=0.6)
    small = plan.build(net)
    assert "train mode" not in plan.frozen
    assert shapes(small, True) == shapes(net, True) == [(2, 10), (2, 10), (2, 24)]
    assert shapes(small, False) == [(2, 10)]


def test_a_train_pass_that_fails_anyway_leaves_the_plan_as_it_is() -> None:
    class Trained(Looks):
        def forward(self, x: Tensor) -> Any:
            if self.training:
                raise ValueError("targets are missing")
            return super().forward(x)

    plan = precrop.plan(Trained(), SHAPE, params=0.6, macs=0.6)
    assert plan.frozen["train mode"] == "was not read: ValueError: targets are missing"
    assert plan.macs <= 0.6 * plan.base_macs


class Supervised(nn.Module):
    """Needs targets in train mode, where two more layers run."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 24, 3)
        self.head, self.aux = nn.Linear(24, 10), nn.Conv2d(24, 12, 1)
        self.maps = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Any:
        if self.training and targets is None:
            raise ValueError("targets are missing")
        features = self.second(self.first(x).relu())
        logits = self.head(features.mean((2, 3)))
        return (logits, self.maps(self.aux(features).relu())) if self.training else logits


def test_what_only_an_unread_train_pass_runs_fits_the_built_network() -> None:
    net, targets = Supervised(), torch.ones(2)
    plan = precrop.plan(net, SHAPE, params=0.7, macs=0.7)
    assert plan.frozen["second"] == "aux may run in train mode, which was not read"
    small = plan.build(net).train()
    images = torch.ones(2, *SHAPE)
    assert [t.shape for t in small(images, targets)] == [
        t.shape for t in net.train()(images, targets)
    ]

    given = precrop.plan(net, example_inputs=(images, targets), params=0.7, macs=0.7)
    assert set(given.frozen) == set(), "with targets train mode is read"
    assert len(given.build(net).train()(images, targets)) == 2
