"""What layers say of their sizes is true in the built network, whether forward reads it or not."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import precrop
from tests.outside.cropping import cropped

WIDTH = 48
IMAGE, ROWS = (3, 6, 6), (5, 6)

Call = Callable[[Any, Tensor], Any]


def first(layer: Any, x: Tensor) -> Any:
    return layer(x)[0]


class Between(nn.Module):
    """A layer between two that make and read its width."""

    def __init__(self, before: nn.Module, layer: nn.Module, after: nn.Module, call: Call | None):
        super().__init__()
        self.before, self.layer, self.after = before, layer, after
        self.call = call or (lambda layer, x: layer(x))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(self.call(self.layer, self.before(x)))
        return out


def in_image(layer: nn.Module, call: Call | None = None) -> nn.Module:
    return Between(nn.Conv2d(3, WIDTH, 1), layer, nn.Conv2d(WIDTH, 3, 1), call)


def in_rows(layer: nn.Module, call: Call | None = None) -> nn.Module:
    return Between(nn.Linear(6, WIDTH), layer, nn.Linear(WIDTH, 3), call)


def in_vector(layer: nn.Module) -> nn.Module:
    return in_rows(layer, lambda layer, x: torch.stack([*layer(x, None)])[0])


IN_IMAGES: dict[str, Callable[[], nn.Module]] = {
    "prelu": lambda: in_image(nn.PReLU(WIDTH)),
    "groups": lambda: in_image(nn.GroupNorm(8, WIDTH)),
    "groups, plain": lambda: in_image(nn.GroupNorm(8, WIDTH, affine=False)),
    "instances": lambda: in_image(nn.InstanceNorm2d(WIDTH, affine=True)),
    "instances, plain": lambda: in_image(nn.InstanceNorm2d(WIDTH)),
    "batches, without scale": lambda: in_image(nn.BatchNorm2d(WIDTH, affine=False)),
    "batches, plain": lambda: in_image(nn.BatchNorm2d(WIDTH, 1e-5, 0.1, False, False)),
    "depthwise": lambda: in_image(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)),
    "transposed": lambda: in_image(nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2, groups=4)),
    "twice": lambda: in_image(nn.Conv2d(WIDTH, WIDTH, 1), lambda layer, x: layer(layer(x))),
}  # fmt: skip

IN_ROWS: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: in_rows(nn.LayerNorm(WIDTH)),
    "layer norm, plain": lambda: in_rows(nn.LayerNorm(WIDTH, elementwise_affine=False)),
    "rms": lambda: in_rows(nn.RMSNorm(WIDTH)),
    "gru": lambda: in_rows(nn.GRU(WIDTH, WIDTH, batch_first=True), first),
    "attention": lambda: in_rows(
        nn.MultiheadAttention(WIDTH, 4, batch_first=True), lambda layer, x: layer(x, x, x)[0]
    ),
}

IN_VECTORS: dict[str, Callable[[], nn.Module]] = {
    "gru cell": lambda: in_vector(nn.GRUCell(WIDTH, WIDTH)),
    "lstm cell": lambda: in_vector(nn.LSTMCell(WIDTH, WIDTH)),
    "rnn cell": lambda: in_vector(nn.RNNCell(WIDTH, WIDTH)),
}

ALL = [
    *((name, IMAGE, make) for name, make in IN_IMAGES.items()),
    *((name, ROWS, make) for name, make in IN_ROWS.items()),
    *((name, (6,), make) for name, make in IN_VECTORS.items()),
]


@pytest.mark.parametrize(("name", "shape", "make"), ALL, ids=[name for name, _, _ in ALL])
def test_no_attribute_keeps_an_old_width(name: str, shape: Any, make: Any) -> None:
    model = make()
    built: Any = precrop.crop(model, shape, params=0.5)
    before, after = (vars(net.layer) for net in (model, built))
    widths = built.before.weight.shape[0], built.after.weight.shape[1]
    assert max(widths) < WIDTH
    stated = [key for key, value in before.items() if value in (WIDTH, (WIDTH,))]
    assert [key for key in stated if after[key] not in (*widths, widths[:1])] == []
    x = torch.ones(2, *shape)
    assert built.eval()(x).shape == model.eval()(x).shape


class Words(nn.Module):
    """A table of rows, looked up one by one or summed in bags."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table, self.inner, self.head = table, nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.inner(self.table(x.long().abs() % 9)).relu())
        return out


@pytest.mark.parametrize("mode", [None, "mean", "max"])
def test_tables(mode: str | None) -> None:
    table = nn.Embedding(9, WIDTH) if mode is None else nn.EmbeddingBag(9, WIDTH, mode=mode)
    plan, built = cropped(Words(table), (4,), ["inner"])
    assert not plan.frozen
    assert (built.table.num_embeddings, built.table.embedding_dim) == built.table.weight.shape
    assert built.table.embedding_dim < WIDTH


class Implicit(nn.Module):
    """A learnt vector that is added to a map; nothing reads what it states."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel, self.vector = channels, nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.vector


def test_what_nothing_reads_is_true_too() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), Implicit(64), nn.Conv2d(64, 3, 1))
    _, built = cropped(model, (3, 12, 12), ["0"])
    assert built[1].channel == built[1].vector.shape[1] < 64


class Positions(nn.Module):
    """Sines and cosines of half a width each, made in forward and added."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step, self.pairs, self.dim = step, WIDTH // 2, WIDTH
        self.embed, self.inner = nn.Linear(6, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if self.step == 1:
            powers = torch.arange(self.pairs, device=x.device) / self.pairs
        else:
            powers = torch.arange(0, self.dim, 2, device=x.device) / self.dim
        rates = torch.exp(-math.log(100.0) * powers)
        angles = torch.arange(x.shape[1], device=x.device)[:, None] * rates
        out: Tensor = self.head(self.inner(x + torch.cat([angles.cos(), angles.sin()], -1)).relu())
        return out


@pytest.mark.parametrize("step", [1, 2])
def test_the_length_of_a_table_that_is_counted_up(step: int) -> None:
    plan, built = cropped(Positions(step), ROWS, ["embed", "inner"])
    assert not plan.frozen
    assert plan.widths["embed"][1] == (2 * built.pairs if step == 1 else built.dim) < WIDTH


class PrivateHeads(nn.Module):
    """Attention whose sizes are in private attributes."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads, self._each = heads, width // heads
        self.parts = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part(x).view(len(x), -1, self._heads, self._each).transpose(1, 2) for part in self.parts
        )
        mixed = (q @ k.mT).softmax(-1) @ v
        return mixed.transpose(1, 2).reshape(len(x), -1, self._heads * self._each)


class PrivateSplit(nn.Module):
    """A split whose sizes are in a private list of pairs, with a gate that has the first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._stages = [["gate", width // 3], ["rest", width - width // 3]]
        self.gate = nn.Conv2d(width // 3, width - width // 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.split([size for _, size in self._stages], 1)
        return torch.cat([a, self.gate(a).sigmoid() * b], 1)


class Remade(nn.Module):
    """Keeps a size twice: forward uses one, and copies are made from the other, as of einops."""

    def __init__(self, **lengths: int) -> None:
        super().__init__()
        self.lengths = lengths
        self._lengths = tuple(lengths.items())

    def forward(self, x: Tensor) -> Tensor:
        ((_, each),) = self._lengths
        return x.view(*x.shape[:-1], x.shape[-1] // each, each).softmax(-1).flatten(-2)

    def __getstate__(self) -> dict[str, Any]:
        return {"lengths": self.lengths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["lengths"])  # type: ignore[misc]


@pytest.mark.parametrize(
    ("shape", "make"),
    [
        (ROWS, lambda: in_rows(PrivateHeads(WIDTH, 4))),
        (IMAGE, lambda: in_image(PrivateSplit(WIDTH))),
        (ROWS, lambda: in_rows(Remade(each=24))),
    ],
    ids=["heads", "split", "remade"],
)
def test_private_attributes(shape: Any, make: Callable[[], nn.Module]) -> None:
    """Whether the name of an attribute has an underscore makes no difference."""
    model = make()
    _, built = cropped(model, shape, movable=["before"], params=0.51)
    again = copy.deepcopy(built).eval()
    x = torch.randn(2, *shape)
    assert torch.equal(again(x), built.eval()(x))


class Orders(nn.Module):
    """Two parts of the channels, the second one sliced from a difference (MogaNet)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed_dims, self.second = width, width // 2
        self.first = width - self.second
        self.conv = nn.Conv2d(self.second, self.second, 3, padding=1, groups=self.second)
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        late = self.conv(x[:, self.embed_dims - self.second :])
        out: Tensor = self.mix(torch.cat([x[:, : self.first], late], 1))
        return out


@pytest.mark.parametrize("width", [4, 12, 16, 20])
def test_both_sizes_of_a_difference_follow(width: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 1), Orders(32), nn.Conv2d(32, 3, 1))
    plan = precrop.plan(model, IMAGE, widths={"0": width, "1.mix": width}, divisor=1)
    built: Any = plan.build(model)
    orders = built[1]
    assert (orders.embed_dims, orders.second, orders.first) == (width, width // 2, width // 2)
    x = torch.randn(2, *IMAGE)
    reference = Orders(width)
    reference.load_state_dict(orders.state_dict())
    assert torch.equal(reference(built[0](x)), orders(built[0](x)))


class Normed(nn.Module):
    """Adaptive instance norm: the network sets its weight and bias before it is called (MUNIT)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self.register_buffer("running_mean", torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.get_buffer("running_mean").repeat(len(x))
        rows = x.reshape(1, len(x) * x.shape[1], *x.shape[2:])
        made = nn.functional.batch_norm(rows, mean, mean.clone(), self.weight, self.bias, True)
        return made.view(x.shape)


class Styled(nn.Module):
    """A decoder whose norms are two modules below the one that asks for their sizes."""

    def __init__(self, width: int, norms: int) -> None:
        super().__init__()
        pairs = [(nn.Conv2d(width, width, 1), Normed(width)) for _ in range(norms)]
        self.stem, self.head = nn.Conv2d(3, width, 1), nn.Conv2d(width, 3, 1)
        self.decoder = nn.Sequential(nn.Sequential(*(part for pair in pairs for part in pair)))
        self.style = nn.Linear(3, 2 * width * norms)

    def forward(self, x: Tensor) -> Tensor:
        values = self.style(x.mean((2, 3)))
        for module in self.decoder.modules():
            if isinstance(module, Normed):
                size = module.num_features
                module.bias = values[:, :size].reshape(-1)
                module.weight = values[:, size : 2 * size].reshape(-1)
                values = values[:, 2 * size :]
        out: Tensor = self.head(self.decoder(self.stem(x)))
        return out


@pytest.mark.parametrize("norms", [1, 3])
def test_sizes_that_modules_further_inside_state_follow(norms: int) -> None:
    model = Styled(WIDTH, norms)
    plan, built = cropped(model, IMAGE, ["stem", "style", "decoder.0.0"], params=0.5)
    assert not plan.frozen
    parts = [*built.decoder[0]]
    sizes = [norm.num_features for norm in parts[1::2]]
    assert sizes == [conv.out_channels for conv in parts[::2]]


class Dynamic(nn.Module):
    """Kernels that a layer computes for every input (CondInst), of which two parts have one end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.keys = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 8, 3, padding=1)
        self.sizes = [8 * 8, 8 * 8, 8]
        self.kernels = nn.Conv2d(32, sum(self.sizes), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        n, _, height, width = x.shape
        y = self.keys(x).reshape(1, -1, height, width)
        for part in self.kernels(x).mean((2, 3)).split_with_sizes(self.sizes, 1):
            outputs = n if part.shape[1] == 8 else 8 * n
            y = nn.functional.conv2d(y, part.reshape(outputs, -1, 1, 1), groups=n)
        return y.reshape(-1, 1, height, width)


def test_a_layer_of_which_a_part_is_held_is_named() -> None:
    plan = precrop.plan(Dynamic(), (3, 8, 8), params=0.6)
    assert plan.frozen == {"kernels": "72 of 136 channels: convolution in the network"}
    layers = {layer.name: layer for layer in plan.layers}
    assert layers["kernels"].frozen is None  # its width changes
    assert 72 < layers["kernels"].out_channels < 136
    built: Any = plan.build(Dynamic())
    assert built(torch.randn(2, 3, 8, 8)).shape == (2, 1, 8, 8)


class Played(nn.Module):
    """A product of sizes by NumPy, as agents that play games have it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.conv = how, nn.Conv2d(2, 16, 4, 2)
        self.size = np.prod(self.conv(torch.zeros(1, 2, 12, 12)).shape[1:])
        self.inner, self.head = nn.Linear(int(self.size), 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = getattr(self.conv(x), self.how)(-1, self.size)
        out: Tensor = self.head(self.inner(x).relu())
        return out


@pytest.mark.parametrize("how", ["view", "reshape"])
def test_a_product_by_numpy_follows(how: str) -> None:
    plan, built = cropped(Played(how), (2, 12, 12), ["conv", "inner"])
    assert not plan.frozen
    assert built.size == built.inner.in_features < 400
    assert type(built.size) is np.int64


class Encoder(nn.Module):
    """Layers of NumPy's sizes (monodepth2), attention whose scale is NumPy's too."""

    def __init__(self) -> None:
        super().__init__()
        self.widths = np.array([16, 32, 48])
        first, second, third = self.widths
        self.stem, self.norm = nn.Conv2d(3, first, 3), nn.BatchNorm2d(first)
        self.each = nn.Conv2d(first, first, 3, groups=first)
        self.next, self.groups = nn.Conv2d(first, second, 1), nn.GroupNorm(4, second)
        self.row, self.scale = nn.LayerNorm(second), np.sqrt(second)
        self.query, self.key = nn.Linear(second, second), nn.Linear(second, second)
        self.last, self.head = nn.Linear(second, third), nn.Linear(third, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.groups(self.next(self.each(self.norm(self.stem(x)))))
        x = self.row(x.flatten(2).mT)
        scores = self.query(x) @ self.key(x).mT / self.scale
        x = self.last(scores.softmax(-1) @ x).reshape(len(x), -1, self.widths[2])
        out: Tensor = self.head(x.mean(1))
        return out


def test_layers_of_sizes_by_numpy() -> None:
    movable = ["stem", "next", "query", "key", "last"]
    plan, built = cropped(Encoder(), (3, 8, 8), movable, params=0.5)
    assert not plan.frozen
    assert built.scale == pytest.approx(built.query.out_features**0.5)
    assert built.widths[2] == built.last.out_features < 48
    assert built.each.groups == built.stem.out_channels < 16
    for value in (built.scale, built.widths[2], built.stem.out_channels, built.query.out_features):
        assert isinstance(value, np.generic)
    assert all(type(value) in (int, float, tuple) for _, _, value in plan.attributes)


class Tempered(nn.Module):
    """A temperature and a ratio that are whole numbers, one of them the width."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature, self.ratio = 32.0, 4.0
        self.stem, self.inner = nn.Linear(12, 32), nn.Linear(32, 128)
        self.head = nn.Linear(128, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) / self.temperature
        x = self.inner(x).reshape(-1, int(x.shape[-1] * self.ratio))
        out: Tensor = self.head(x.relu())
        return out


def test_floats_that_are_no_sizes_stay() -> None:
    _, built = cropped(Tempered(), (12,), ["stem", "inner"])
    assert (built.temperature, built.ratio) == (32.0, 4.0)


class Halves(nn.Module):
    """A layer of twice as many channels as an attribute says."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.each = way, 12
        self.first = nn.Linear(12, 24)
        self.second = nn.Linear(24, 2 * self.each * (16 if way == "view" else 1))
        self.last = nn.Linear(2 * self.each, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, width = self.second(self.first(x)), 2 * self.each
        if self.way == "view":
            x = x.view(-1, 16, width).mean(1)
        elif self.way == "zeros":
            x = x + torch.zeros(len(x), width)
        elif self.way == "narrow":
            x = x.narrow(1, 0, width)
        else:
            x = torch.layer_norm(x, (width,))
        out: Tensor = self.last(x.relu())
        return out


@pytest.mark.parametrize("way", ["view", "zeros", "narrow", "layer norm"])
def test_a_multiple_of_an_attribute_stays_one(way: str) -> None:
    for budget in (0.5, 0.58, 0.62):  # some of them would have an odd width
        plan, built = cropped(Halves(way), (12,), movable=["second"], params=budget)
        assert built.last.in_features == 2 * built.each < 24
        assert not plan.frozen
