"""A step that a loop repeats is read once, and what is read is what reading each step gives."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.fit.fitting import Fitter
from precrop.fit.lessons import Lessons
from precrop.read import reader
from precrop.read.axes import Atom, axis_of, changes, freeze, tie, unify
from precrop.read.inputs import given
from precrop.read.lower import lower
from precrop.read.network import Network, read_network
from precrop.read.tracer import Tracer
from tests.outside.cropping import counted


class Gated(nn.Module):
    """A hand-written cell whose code cuts what its layers put out in three."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.of_input = nn.Linear(inputs, 3 * hidden)
        self.of_state = nn.Linear(hidden, 3 * hidden)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        a, b = self.of_input(x).chunk(3, -1), self.of_state(h).chunk(3, -1)
        reset, update = torch.sigmoid(a[0] + b[0]), torch.sigmoid(a[1] + b[1])
        return (1 - update) * torch.tanh(a[2] + reset * b[2]) + update * h


class Stepping(nn.Module):
    """Two cells, one upon the other, that see one step after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 12
        self.embed = nn.Linear(5, 8)
        self.lower, self.upper = Gated(8, 12), Gated(12, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        h = g = x.new_zeros(x.shape[0], self.hidden)
        seen = []
        for step in range(x.shape[1]):
            h = self.lower(x[:, step], h)
            g = self.upper(h, g)
            seen.append(g)
        return self.head(torch.stack(seen, 1))


class Library(nn.Module):
    """PyTorch's own cells, with dropout between them and what they make written into a table."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.LSTMCell(5, 12), nn.GRUCell(12, 9)
        self.norm, self.drop = nn.LayerNorm(12), nn.Dropout(0.3)
        self.head = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        first = second = None
        table = x.new_zeros(x.shape[0], x.shape[1], self.upper.hidden_size)
        for step, part in enumerate(x.unbind(1)):
            first = self.lower(part, first)
            second = self.upper(self.drop(self.norm(first[0])), second)
            table[:, step] = second
        return self.head(table)


class Bare(nn.Module):
    """Weights without layers; each step's state is noise and what the last one made."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.keep = nn.Parameter(torch.ones(5, 12)), nn.Parameter(torch.ones(12, 12))
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], self.keep.shape[0])
        for step in range(x.shape[1]):
            h = torch.tanh(x[:, step] @ self.read + (h + torch.zeros_like(h)) @ self.keep)
        return self.head(h)


KINDS = (Stepping, Library, Bare)


def read(model: nn.Module, steps: int) -> Network:
    return read_network(model.eval(), given(model, (steps, 5), None, None))


@pytest.mark.parametrize("kind", KINDS)
def test_further_steps_are_not_read_again(kind: Callable[[], nn.Module]) -> None:
    def read_anew(steps: int) -> int:
        network = read(kind(), steps)
        return len({id(one) for one in network.passes[0].readings})

    # Taking a step out of the sequence names the step, and that is all that is new in one.
    assert read_anew(40) - read_anew(20) <= 2 * 20


@pytest.mark.parametrize("steps", [1, 2, 3, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_plans_are_those_of_reading_every_step(
    kind: Callable[[], nn.Module], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = kind().eval()
    plan = precrop.plan(model, (steps, 5), macs=0.5)
    monkeypatch.setattr(reader, "step_key", lambda *_: None)
    slow = precrop.plan(model, (steps, 5), macs=0.5)
    assert plan.widths == slow.widths
    assert plan.attributes == slow.attributes
    assert plan.frozen == slow.frozen
    assert (plan.params, plan.macs, plan.base_macs) == (slow.params, slow.macs, slow.base_macs)
    assert plan.macs < plan.base_macs
    assert counted(plan.build(model), (steps, 5)) == plan.macs


def test_layers_of_equal_widths_are_no_repeated_step() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + layer(x)
            return self.head(x)

    model = Two()
    network = read_network(model, given(model, (8,), None, None))
    assert [layer.name for layer in network.layers] == [*(f"layers.{i}" for i in range(4)), "head"]
    assert all(len(layer.macs) == 1 for layer in network.layers)


def test_macs_of_a_repeated_step_are_counted_every_time() -> None:
    network = read(Stepping(), 30)
    cells = [layer for layer in network.layers if layer.name not in ("embed", "head")]
    assert [sum(product.coefficient for product in layer.macs) for layer in cells] == [30] * 4


def test_a_fitted_network_is_run_no_further_than_its_first_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Stepping().eval()
    network = read(model, 30)
    lengths = []
    run_again = Tracer.run_again

    def noted(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        trace = run_again(self, *args, **kwargs)
        lengths.append(len(trace.calls))
        return trace

    monkeypatch.setattr(Tracer, "run_again", noted)
    lowered = lower(network)
    units = [max(1, group.units - 1) for group in lowered.structure.groups]
    Fitter(lowered.network, Lessons(network)).fit(lowered.sizes(units))
    assert lengths[0] < len(network.passes[0].trace.calls) // 4


def test_changes_count_what_becomes_known_and_nothing_else() -> None:
    first, second = (axis_of(Atom(512, name)) for name in "ab")
    before = changes()
    unify(first, second)
    tied = changes()
    assert tied > before
    unify(first, second)
    tie([first, second])
    assert changes() == tied
    freeze(first, "why")
    frozen = changes()
    assert frozen > tied
    freeze(second, "another reason")
    assert changes() == frozen
