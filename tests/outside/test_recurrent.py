"""Recurrent layers and cells: the hidden width is one number, whatever the gates and steps."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import precrop
from precrop.read.inputs import Inputs
from precrop.read.lower import lower
from precrop.read.network import read_network
from tests.outside.sequences import cropped
from tests.planning import counted_params

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")

SHAPE = (6, 10)
"""Steps and features of a sequence."""
HIDDEN = 24


class Recurrent(nn.Module):
    """A layer of PyTorch between two linear ones."""

    def __init__(self, kind: Callable[..., nn.RNNBase], last: bool = False, **options: Any) -> None:
        super().__init__()
        self.last = last
        self.encoder = nn.Linear(10, 16)
        self.rnn = kind(16, HIDDEN, batch_first=True, **options)
        width = self.rnn.proj_size or HIDDEN
        directions = 2 if self.rnn.bidirectional and not last else 1
        self.head = nn.Linear(width * directions, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.rnn(self.encoder(x).relu())
        if self.last:
            y = state[-1] if isinstance(state, Tensor) else state[0][-1]
        out: Tensor = self.head(y)
        return out


LAYERS = {
    "lstm": partial(Recurrent, nn.LSTM),
    "gru": partial(Recurrent, nn.GRU),
    "tanh": partial(Recurrent, nn.RNN),
    "relu": partial(Recurrent, nn.RNN, nonlinearity="relu", num_layers=2),
    "deep lstm in two directions": partial(
        Recurrent, nn.LSTM, num_layers=2, bidirectional=True, dropout=0.1
    ),
    "deep gru in two directions": partial(
        Recurrent, nn.GRU, num_layers=2, bidirectional=True, bias=False
    ),
    "projected lstm": partial(Recurrent, nn.LSTM, num_layers=2, proj_size=12),
    "projected lstm in two directions": partial(
        Recurrent, nn.LSTM, bidirectional=True, proj_size=12
    ),
    "last state of a gru": partial(Recurrent, nn.GRU, last=True, num_layers=2),
    "last state of an lstm": partial(Recurrent, nn.LSTM, last=True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_cropped(name: str) -> None:
    plan, built = cropped(LAYERS[name], SHAPE)
    rnn, original = built.rnn, LAYERS[name]().rnn
    gates = {"LSTM": 4, "GRU": 3}.get(rnn.mode, 1)
    assert rnn.weight_hh_l0.shape[0] == gates * rnn.hidden_size < gates * HIDDEN
    assert rnn.weight_ih_l0.shape[1] == rnn.input_size == built.encoder.out_features
    if original.proj_size:
        assert rnn.weight_hr_l0.shape[0] == rnn.proj_size < original.proj_size
    assert not plan.frozen


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("directions", [1, 2])
def test_folded_steps_are_read_as_every_step(kind: Any, directions: int) -> None:
    model = Recurrent(kind, num_layers=2, bidirectional=directions == 2)
    folded, whole = (read_network(model, Inputs((9, 10)), fold=fold) for fold in (True, False))
    assert lower(folded).structure == lower(whole).structure
    assert len(folded.passes[0].trace.calls) < len(whole.passes[0].trace.calls)


@pytest.mark.parametrize("name", LAYERS)
def test_one_step_has_the_widths_of_many(name: str) -> None:
    one, many = (lower(read_network(LAYERS[name](), Inputs((n, 10)))).structure for n in (1, 6))
    assert one.groups == many.groups
    plan, built = cropped(LAYERS[name], (1, 10))
    assert built.rnn.hidden_size < HIDDEN
    assert not plan.frozen


def test_hidden_width_is_chosen_apart_from_the_input_of_one_step() -> None:
    plan = precrop.plan(
        Recurrent(nn.LSTM), (1, 10), widths={"encoder": 15, "rnn.weight_ih_l0": 4 * 8}
    )
    assert plan.widths["rnn.weight_ih_l0"] == (15, 4 * 8)


class Policy(nn.Module):
    """One step of an agent: features and its last action, none at first, to a recurrent layer."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.body, self.actions = nn.Linear(6, 64), actions
        self.lstm, self.head = nn.LSTM(64 + actions, 32), nn.Linear(32, actions)

    def forward(self, x: Tensor) -> Tensor:
        last = torch.zeros(x.shape[0], self.actions, device=x.device)
        h = torch.cat([self.body(x).relu(), last], -1)
        out: Tensor = self.head(self.lstm(h.unsqueeze(0))[0].squeeze(0))
        return out


@pytest.mark.parametrize("actions", [3, 4])
def test_an_action_beside_the_features_of_one_step_stays(actions: int) -> None:
    plan, built = cropped(partial(Policy, actions), (6,), params=0.5)
    assert built.actions == actions
    assert built.lstm.input_size == built.body.out_features + actions < 64
    assert built.lstm.hidden_size < 32
    assert not plan.frozen


def test_a_long_sequence_takes_no_longer() -> None:
    model = Recurrent(nn.LSTM, num_layers=2)
    seconds = []
    for steps in (3, 3000, 3):
        start = time.process_time()
        precrop.plan(model, (steps, 10), params=0.5, macs=0.5)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 5 * max(seconds[0], seconds[2])


class Given(nn.Module):
    """A first state that is zero, of the layer's stated size, or learnt; time comes first."""

    def __init__(self, learnt: bool) -> None:
        super().__init__()
        self.encoder, self.rnn = nn.Linear(10, 16), nn.GRU(16, HIDDEN, 2)
        self.head = nn.Linear(HIDDEN, 3)
        self.state = nn.Parameter(torch.zeros(2, 1, HIDDEN)) if learnt else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x).transpose(0, 1)
        if self.state is None:
            state = torch.zeros(2, x.shape[1], self.rnn.hidden_size, device=x.device)
        else:
            state = self.state.expand(-1, x.shape[1], -1).contiguous()
        out: Tensor = self.head(self.rnn(x, state)[0])
        return out


@pytest.mark.parametrize("learnt", [False, True])
def test_first_state_follows(learnt: bool) -> None:
    _, built = cropped(partial(Given, learnt), SHAPE)
    assert built.rnn.hidden_size < HIDDEN
    assert built.state is None or built.state.shape[2] == built.rnn.hidden_size


class Stepped(nn.Module):
    """A cell in a loop of Python's; the state is made by the cell or from its stated size."""

    def __init__(self, kind: Callable[..., nn.RNNCellBase], made: bool = False) -> None:
        super().__init__()
        self.encoder, self.cell = nn.Linear(10, 16), kind(16, HIDDEN)
        self.head, self.made = nn.Linear(HIDDEN, 3), made

    def forward(self, x: Tensor) -> Tensor:
        x, state, outputs = self.encoder(x), None, []
        if self.made:
            state = x.new_zeros(x.shape[0], self.cell.hidden_size)
        for step in x.unbind(1):
            state = self.cell(step, state)
            outputs.append(state if isinstance(state, Tensor) else state[0])
        out: Tensor = self.head(torch.stack(outputs, 1))
        return out


@pytest.mark.parametrize(
    "make",
    [
        partial(Stepped, nn.LSTMCell),
        partial(Stepped, nn.GRUCell),
        partial(Stepped, nn.RNNCell),
        partial(Stepped, nn.GRUCell, made=True),
        partial(Stepped, nn.RNNCell, made=True),
    ],
)
@pytest.mark.parametrize("steps", [1, 6])
def test_cell_is_cropped_and_says_so(make: Callable[[], nn.Module], steps: int) -> None:
    _, built = cropped(make, (steps, 10))
    assert built.cell.weight_hh.shape[1] == built.cell.hidden_size < HIDDEN
    assert built.cell.weight_ih.shape[1] == built.cell.input_size == built.encoder.out_features


class Packed(nn.Module):
    """Padded sequences are packed, so that the recurrent layer takes no padding."""

    def __init__(self, last: bool, **options: Any) -> None:
        super().__init__()
        self.encoder, self.last = nn.Linear(10, 16), last
        self.rnn = nn.GRU(16, HIDDEN, batch_first=True, **options)
        self.head = nn.Linear(HIDDEN * (2 if self.rnn.bidirectional else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.full((x.shape[0],), x.shape[1] - 1)
        packed = pack_padded_sequence(
            self.encoder(x).relu(), lengths, batch_first=True, enforce_sorted=False
        )
        y, state = self.rnn(packed)
        y = state[-1] if self.last else pad_packed_sequence(y, batch_first=True)[0]
        out: Tensor = self.head(y)
        return out


@pytest.mark.parametrize(
    "make",
    [partial(Packed, True), partial(Packed, False, num_layers=2, bidirectional=True)],
)
def test_packed_sequence_is_cropped(make: Callable[[], nn.Module]) -> None:
    plan, built = cropped(make, SHAPE)
    assert built.rnn.hidden_size < HIDDEN
    assert plan.layers[0].group is not None  # the encoder
    assert not plan.frozen


class Spread(nn.Module):
    """A layer works on the steps of all sequences at once, without their padding."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(10, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.full((x.shape[0],), x.shape[1] - 2)
        packed = pack_padded_sequence(self.first(x), lengths, batch_first=True)
        out: Tensor = self.head(packed.data)
        return out


def test_packing_is_linear() -> None:
    model = Spread()
    first, head = model.first.weight.detach().abs(), model.head.weight.detach().abs()
    steps = SHAPE[0] - 2
    # All of R passes each of the two layers.
    expected = 2 * steps * first.numel() * head.numel() / 16 * float(first.mean() * head.mean())
    assert precrop.synexp(model, SHAPE) == pytest.approx(math.log(expected))


class PerChannel(nn.Module):
    """A norm with one group for every channel, as in front of speech models."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(1, 24, 5, 2), nn.GroupNorm(24, 24)
        self.second, self.head = nn.Conv1d(24, 20, 3), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.norm(self.first(x)).relu())
        out: Tensor = self.head(x.mean(-1))
        return out


def test_groups_of_one_channel_follow_the_width() -> None:
    plan, built = cropped(PerChannel, (1, 35))
    assert built.norm.num_groups == built.norm.num_channels == built.first.out_channels < 24
    assert not plan.frozen


class NormalisedCell(nn.Module):
    """An LSTM of one's own, with norms of the gates and of the cell."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = HIDDEN
        self.encoder = nn.Linear(10, 16)
        self.inner, self.outer = nn.Linear(16, 4 * HIDDEN), nn.Linear(HIDDEN, 4 * HIDDEN)
        self.norms = nn.ModuleList(nn.LayerNorm(4 * HIDDEN) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        h = c = x.new_zeros(x.shape[0], self.hidden)
        for t in range(x.shape[1]):
            gates = self.norms[0](self.inner(x[:, t])) + self.norms[1](self.outer(h))
            i, f, g, o = gates.chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * self.norm(c).tanh()
        out: Tensor = self.head(h)
        return out


class SimpleUnit(nn.Module):
    """Gates that need no product with the state, which is one width with the input."""

    def __init__(self) -> None:
        super().__init__()
        self.width = HIDDEN
        self.encoder, self.gates = nn.Linear(10, HIDDEN), nn.Linear(HIDDEN, 3 * HIDDEN, bias=False)
        self.bias, self.head = nn.Parameter(torch.zeros(2 * HIDDEN)), nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        u = self.gates(x).view(*x.shape[:-1], 3, self.width)
        forget, reset = self.bias.chunk(2)
        c, outputs = x.new_zeros(x.shape[0], self.width), []
        for t in range(x.shape[1]):
            f, r = (u[:, t, 1] + forget).sigmoid(), (u[:, t, 2] + reset).sigmoid()
            c = f * c + (1 - f) * u[:, t, 0]
            outputs.append(r * c.tanh() + (1 - r) * x[:, t])
        out: Tensor = self.head(torch.stack(outputs, 1))
        return out


@pytest.mark.parametrize("make", [NormalisedCell, SimpleUnit])
def test_cell_of_ones_own_is_cropped(make: Callable[[], nn.Module]) -> None:
    plan, built = cropped(make, SHAPE)
    assert built.head.in_features < HIDDEN
    assert not plan.frozen


class ConvolutionalCell(nn.Module):
    """A ConvLSTM with a peephole over the frames of a clip."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 16
        self.stem, self.gates = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8 + 16, 4 * 16, 3, 1, 1)
        self.peephole = nn.Parameter(torch.zeros(1, 16, 1, 1))
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], self.width, *x.shape[-2:], device=x.device)
        c = torch.zeros_like(h)
        for frame in x.unbind(1):
            z = self.gates(torch.cat([self.stem(frame), h], 1))
            i, f, o, g = torch.split(z, self.width, 1)
            c = f.sigmoid() * c + (i + self.peephole * c).sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        out: Tensor = self.head(h)
        return out


def test_convolutional_cell_is_cropped() -> None:
    _, built = cropped(ConvolutionalCell, (4, 3, 6, 6))
    assert built.gates.out_channels == 4 * built.width < 4 * 16
    assert built.peephole.shape[1] == built.width


class Reader(nn.Module):
    """Convolutions, then two directions over the columns of a line of text."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d((2, 1)),
        )  # fmt: skip
        self.rnn = nn.LSTM(16 * 4, HIDDEN, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * HIDDEN, 11)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        batch, channels, height, width = x.shape
        x = x.permute(0, 3, 1, 2).reshape(batch, width, channels * height)
        return F.log_softmax(self.head(self.rnn(x)[0]), -1)


def test_reader_of_text_is_cropped() -> None:
    _, built = cropped(Reader, (1, 16, 20))
    assert built.rnn.hidden_size < HIDDEN
    assert built.rnn.input_size == 4 * built.features[3].out_channels < 4 * 16


NORMS = (
    nn.utils.weight_norm,
    nn.utils.spectral_norm,
    nn.utils.parametrizations.weight_norm,
    nn.utils.parametrizations.spectral_norm,
)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: f"{norm.__module__}.{norm.__name__}")
@pytest.mark.parametrize("weight", ["weight_hh_l0", "weight_ih_l0"])
def test_a_weight_that_is_computed_states_no_less(norm: Any, weight: str) -> None:
    model = Recurrent(nn.LSTM, proj_size=12)
    norm(model.rnn, weight)
    plan = precrop.plan(model, SHAPE, params=0.5)
    built: Any = plan.build(model)
    assert not plan.frozen
    assert counted_params(built) == plan.params
    assert built(torch.randn(2, *SHAPE)).shape == (2, 6, 3)
    assert built.rnn.input_size == built.encoder.out_features < 16
    assert built.rnn.hidden_size == built.rnn.bias_hh_l0.shape[0] // 4 < HIDDEN
    assert built.rnn.proj_size == built.head.in_features < 12


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_masked_layer_is_cropped(kind: Any) -> None:
    model = Recurrent(kind)
    masks = precrop.masks(model, {"rnn.weight_hh_l0": 0.5}, "weight")
    precrop.apply_masks(model, masks)
    built: Any = precrop.plan(model, SHAPE, params=0.5).build(model)
    assert built.rnn.hidden_size == built.head.in_features < HIDDEN
    assert built(torch.randn(2, *SHAPE)).shape == (2, 6, 3)
