"""Residual streams whose layers have widths of their own."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import precrop
from precrop.errors import BudgetError, PrecropError
from precrop.models import cifar_efficientnet_b0, cifar_mobilenet_v2, resnet20, resnet56
from precrop.models.resnet import CifarResNet
from precrop.modules.streams import Narrow, Pad
from precrop.plans.plan import Plan
from precrop.read.inputs import Inputs
from precrop.read.network import read_network
from precrop.read.residual import find_streams
from tests.networks import SHAPE, assemble
from tests.planning import counted_macs, counted_params

IMAGE = (3, 32, 32)

NETWORKS: dict[str, Any] = {
    "resnet20 with projections": resnet20,
    "resnet20 with padded shortcuts": lambda: resnet20(shortcut="pad"),
    "cifar_mobilenet_v2": cifar_mobilenet_v2,
    "cifar_efficientnet_b0": cifar_efficientnet_b0,
    "torchvision resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "torchvision convnext": lambda: torchvision.models.convnext_tiny(num_classes=10),
    "timm preactivation": lambda: timm.create_model(
        "resnetv2_50", layers=(1, 1, 1, 1), num_classes=10
    ),
    "timm se": lambda: timm.create_model("seresnet50", layers=(1, 2, 1, 1), num_classes=10),
}


@pytest.fixture(scope="module", params=NETWORKS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = NETWORKS[request.param]()
    return network


def cropped(model: nn.Module, **budgets: Any) -> Plan:
    return precrop.plan(model, IMAGE, residual="crop", **budgets)


@pytest.mark.parametrize("budgets", [{"params": 0.4, "macs": 0.4}, {"params": 0.1}, {"macs": 0.2}])
def test_counts_budgets_and_names(model: nn.Module, budgets: dict[str, float]) -> None:
    plan = cropped(model, **budgets)
    built = plan.build(model)
    assert counted_params(built) == plan.params
    assert counted_macs(built, IMAGE) == plan.macs
    used = [
        getattr(plan, name) / getattr(plan, f"base_{name}") / share
        for name, share in budgets.items()
    ]
    assert 0.97 < max(used) <= 1
    assert list(built.state_dict()) == list(model.state_dict())
    assert not plan.frozen
    assert plan.streams


def test_widths_differ_where_tied_ones_agree(model: nn.Module) -> None:
    tied = precrop.plan(model, IMAGE, params=0.2)
    free = cropped(model, params=0.2)
    assert len({layer.group for layer in free.layers}) > len({layer.group for layer in tied.layers})
    for plan in (tied, free):
        assert plan.params <= 0.2 * plan.base_params
    # More freedom can't make the best sum of log densities worse, but for whole units.
    assert free.solver["objective"] > tied.solver["objective"] - 1e-6


def test_everything_kept_is_the_same_network(model: nn.Module) -> None:
    plan = cropped(model, params=1.0, macs=1.0)
    assert plan.tensors == {}
    built, x = plan.build(model).eval(), torch.randn(2, *IMAGE)
    with torch.no_grad():
        assert torch.equal(built(x), copy.deepcopy(model).eval()(x))


def dead_inputs(built: nn.Module, plan: Plan) -> list[str]:
    """Readers that get a channel which is zero for every input: all weights are made positive."""
    found: list[str] = []
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.abs_().add_(1e-3)
    for stream in plan.streams:
        if stream.end == "read":

            def look(module: nn.Module, args: Any, stream: Any = stream) -> None:
                others = [axis for axis in range(args[0].dim()) if axis != stream.dim]
                if (args[0].abs().amax(others) == 0).any():
                    found.append(stream.path)

            built.get_submodule(stream.path).register_forward_pre_hook(look)
    with torch.no_grad():
        built.eval()(torch.ones(1, *IMAGE))
    return found


@pytest.mark.parametrize("budgets", [{"params": 0.5, "macs": 0.5}, {"macs": 0.1}])
@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("name", ["resnet20 with projections", "torchvision resnet18"])
def test_nobody_reads_what_nobody_writes(name: str, budgets: Any, expand: bool) -> None:
    network = NETWORKS[name]()
    plan = cropped(network, expand=expand, **budgets)
    assert dead_inputs(plan.build(network), plan) == []
    ends = {stream.path: stream for stream in plan.streams}
    for layer in plan.layers:
        if layer.name in ends and ends[layer.name].end == "read":
            assert layer.in_channels <= layer.base_in


def written_out(built: CifarResNet, x: torch.Tensor) -> torch.Tensor:
    """The forward pass of a cropped ResNet, with every narrowing and padding by hand."""

    def norm(bn: Any, value: torch.Tensor, width: int) -> torch.Tensor:
        value = F.batch_norm(value, bn.running_mean, bn.running_var, bn.weight, bn.bias)
        return F.pad(value, [0, 0, 0, 0, 0, width - value.shape[1]])

    def conv(layer: Any, value: torch.Tensor) -> torch.Tensor:
        value = value[:, : layer.weight.shape[1]]
        return F.conv2d(value, layer.weight, None, layer.stride, layer.padding)

    x = F.relu(norm(built.bn1, conv(built.conv1, x), 16))
    for stage, width in ((built.layer1, 16), (built.layer2, 32), (built.layer3, 64)):
        for block in stage.children():
            assert isinstance(block.conv1, nn.Conv2d)
            hidden = F.relu(norm(block.bn1, conv(block.conv1, x), block.conv1.weight.shape[0]))
            branch = norm(block.bn2, conv(block.conv2, hidden), width)
            if isinstance(block.shortcut, nn.Sequential) and len(block.shortcut):
                layer, bn = block.shortcut
                x = norm(bn, conv(layer, x), width)
            x = F.relu(branch + x)
    pooled = x.mean((2, 3))[:, : built.fc.weight.shape[1]]
    return F.linear(pooled, built.fc.weight, built.fc.bias)


def test_forward_is_what_it_says() -> None:
    torch.manual_seed(0)
    network = resnet20()
    built: Any = cropped(network, params=0.15).build(network).eval().double()
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            module.running_mean = torch.rand(module.num_features, dtype=torch.float64)
    x = torch.randn(3, *IMAGE, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(built(x), written_out(built, x), rtol=1e-10, atol=1e-10)


def test_hooks_are_plain_and_travel() -> None:
    network = resnet56()
    plan = Plan.from_json((saved := cropped(network, macs=0.3)).to_json())
    assert plan == saved
    built = plan.build(network).eval()
    reader: Any = built.get_submodule("layer2.3.conv1")
    assert type(reader.stream_read) is Narrow
    assert reader.stream_read.size == reader.in_channels == plan.widths["layer2.3.conv1"][0]
    writer: Any = built.get_submodule("layer2.3.bn2")
    assert (type(writer.stream_write), writer.stream_write.size) == (Pad, 32)
    x = torch.randn(2, *IMAGE)
    expected = built(x)
    for twin in (copy.deepcopy(built), pickle.loads(pickle.dumps(built))):
        assert torch.equal(twin(x), expected)
    anew = resnet56()
    assert counted_params(plan.build(anew)) == plan.params


def test_streams_are_found_in_order() -> None:
    streams = find_streams(read_network(resnet20(), Inputs(IMAGE)))
    first = [(s.path, s.end, s.dim, s.width, s.sources) for s in streams[:4]]
    assert first == [
        ("bn1", "write", 1, 16, ()),
        ("layer1.0.conv1", "read", 1, 16, ("bn1",)),
        ("layer1.0.bn2", "write", 1, 16, ()),
        ("layer1.1.conv1", "read", 1, 16, ("bn1", "layer1.0.bn2")),
    ]
    assert (streams[-1].path, streams[-1].end, streams[-1].width) == ("fc", "read", 64)
    assert sum(s.end == "write" for s in streams) == 1 + 9 + 2
    assert sum(s.end == "read" for s in streams) == 9 + 2 + 1


def test_a_network_without_streams_is_as_before() -> None:
    network = torchvision.models.vgg11_bn(num_classes=10)
    plan = precrop.plan(network, (3, 64, 64), params=0.3, residual="crop")
    assert plan.streams == ()
    assert plan.widths == precrop.plan(network, (3, 64, 64), params=0.3).widths


@pytest.mark.parametrize("name", ["vit", "ghost"])
def test_streams_that_are_not_made_by_layers_stay_tied(name: str) -> None:
    network = {
        "vit": lambda: torchvision.models.VisionTransformer(32, 8, 2, 3, 48, 96, num_classes=10),
        "ghost": lambda: timm.create_model("ghostnet_100", num_classes=10),
    }[name]()
    plan = cropped(network, macs=0.7)
    assert (plan.streams, plan.frozen) == ((), {})
    assert plan.widths == precrop.plan(network, IMAGE, macs=0.7).widths


def test_unknown_option() -> None:
    with pytest.raises(PrecropError, match="residual='pad' is unknown: write 'tie' or 'crop'"):
        precrop.plan(resnet20(), IMAGE, params=0.5, residual="pad")  # type: ignore[arg-type]


def test_no_reader_takes_more_than_there_is() -> None:
    # Sizes alone do not tell that a slice is too long: the fitted network would only fail later.
    model = assemble([("branching", 8), ("residual", 8), ("reused", 8)], stem=4, head="conv")
    plan = precrop.plan(model, SHAPE, memory=0.7, residual="crop")
    assert plan.build(model)(torch.ones(2, *SHAPE)).shape[0] == 2


class Around(nn.Module):
    """A stream of 16 channels with two residual sums, the second of what ``use`` makes of it."""

    def __init__(self, layer: nn.Module, use: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.first, self.layer = nn.Linear(5, 16), nn.Linear(16, 16), layer
        self.head, self.use = nn.Linear(16, 3), use

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        h = h + self.first(h)
        return self.head(h + self.use(self.layer, h))


class Multiplied(nn.Module):
    """A layer whose arguments are a condition and its input, or anything that holds both."""

    def __init__(self, result: Callable[[Tensor], Any] = lambda x: x) -> None:
        super().__init__()
        self.weight, self.result = nn.Parameter(torch.randn(16, 16)), result

    def forward(self, condition: Any, x: Any = None) -> Any:
        if isinstance(condition, list):
            condition, x = condition
        y = x @ self.weight
        return self.result(y if condition is None else y * condition.mean(-1, keepdim=True))


def recurrent(kind: type[nn.Module], width: int = 16, **options: Any) -> nn.Module:
    return kind(16, width, batch_first=True, **options)


def condition(h: Tensor) -> Tensor:
    return h.new_ones(*h.shape[:-1], 7)


ENDS: dict[str, tuple[Any, Any, Any, Any]] = {
    # a layer, how it is used, and where the stream is in its arguments and its output
    "gru": (lambda: recurrent(nn.GRU), lambda m, h: m(h)[0], (), ((0, 0),)),
    "lstm": (lambda: recurrent(nn.LSTM), lambda m, h: m(h)[0], (), ((0, 0),)),
    "in both directions": (
        lambda: recurrent(nn.GRU, 8, bidirectional=True),
        lambda m, h: m(h)[0],
        (),
        ((0, 0),),
    ),
    "projected": (
        lambda: recurrent(nn.LSTM, 24, proj_size=16),
        lambda m, h: m(h)[0],
        (),
        ((0, 0),),
    ),
    "last state": (
        lambda: recurrent(nn.LSTM),
        lambda m, h: m(h)[1][0][-1][:, None],
        (),
        ((0, 1, 0),),
    ),
    "output and state": (
        lambda: recurrent(nn.GRU),
        lambda m, h: torch.add(m(h)[0], m(h)[1][-1][:, None]),
        (),
        ((0, 0), (0, 1)),
    ),
    "cell": (lambda: nn.LSTMCell(16, 16), lambda m, h: m(h[:, 0])[0][:, None], (), ((0, 0),)),
    "cell with a state": (
        lambda: nn.GRUCell(16, 16),
        lambda m, h: m(h[:, 0], h[:, 1])[:, None],
        ((0,), (1,)),
        (),
    ),
    "pair": (lambda: Multiplied(lambda y: (y, None)), lambda m, h: m(h, h)[0], 2, ((0, 0),)),
    "list": (lambda: Multiplied(lambda y: [1.0, y]), lambda m, h: m(h, h)[1], 2, ((0, 1),)),
    "dict": (lambda: Multiplied(lambda y: {"y": y}), lambda m, h: m(h, h)["y"], 2, ((0, "y"),)),
    "by name": (lambda: nn.Linear(16, 16), lambda m, h: m(input=h), (("input",),), ()),
    "second": (lambda: nn.Bilinear(7, 16, 16), lambda m, h: m(condition(h), h), ((1,),), ()),
    "second of own": (Multiplied, lambda m, h: m(condition(h), h), ((1,),), ()),
    "in a list": (Multiplied, lambda m, h: m([h, h]), ((0, 0), (0, 1)), ()),
}


def written_around(built: Any, x: Tensor) -> Tensor:
    """The forward pass of a cropped `Around`, with every narrowing and padding by hand."""
    bare = copy.deepcopy(built)
    for module in bare.children():
        module._forward_pre_hooks.clear()
        module._forward_hooks.clear()

    def padded(value: Tensor) -> Tensor:
        return F.pad(value, [0, 16 - value.shape[-1]])

    h = padded(bare.embed(x))
    h = h + padded(bare.first(h[..., : bare.first.in_features]))
    h = h + padded(bare.use(bare.layer, h[..., : bare.layer.stream_read.size]))
    made: Tensor = bare.head(h[..., : bare.head.in_features])
    return made


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", ENDS)
def test_streams_in_arguments_and_outputs_of_any_kind(name: str) -> None:
    make, use, read, written = ENDS[name]
    torch.manual_seed(0)
    model, x = Around(make(), use), torch.randn(2, 6, 5)
    plan = precrop.plan(model, (6, 5), params=0.5, residual="crop", divisor=1)
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.frozen == {}
    places = {end.end: end.places for end in plan.streams if end.path == "layer"}
    assert {end: set(found) for end, found in places.items()} == {
        "read": {(0,), (1,)} if read == 2 else set(read),
        "write": set(written),
    }
    built: Any = plan.build(model)
    assert built.layer.stream_read.size < 16
    assert counted_params(built) == plan.params <= 0.5 * plan.base_params
    made = built(x)
    torch.testing.assert_close(made, written_around(built, x))
    made.sum().backward()
    assert all(p.grad is not None for p in built.parameters())
    everything = precrop.plan(model, (6, 5), params=1.0, residual="crop")
    assert torch.equal(everything.build(model)(x), model(x))


class Kept(Multiplied):
    """Has its input from a call before."""

    def forward(self, condition: Any, x: Any = None) -> Any:
        if condition is not None:
            self.seen = condition
            return condition.sum()
        return self.seen @ self.weight


class Twofold(nn.Module):
    """Returns a pair in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 16))

    def forward(self, x: Tensor) -> Any:
        return (x @ self.weight, None) if self.training else x @ self.weight


def packed(layer: nn.Module, h: Tensor) -> Tensor:
    rows = nn.utils.rnn.pack_padded_sequence(h, [h.shape[1]] * len(h), batch_first=True)
    made: Tensor = nn.utils.rnn.pad_packed_sequence(layer(rows)[0], batch_first=True)[0]
    return made


TIED: dict[str, tuple[Any, Any]] = {
    "packed": (lambda: recurrent(nn.GRU), packed),
    "along two axes": (lambda: nn.Linear(16, 16), lambda m, h: m(h) + m(h.mean(1))[:, None]),
    "in two ways": (lambda: nn.Linear(16, 16), lambda m, h: m(h) + m(input=h)),
    "kept": (Kept, lambda m, h: m(h) * 0 + m(None)),
    "a pair in train mode": (
        Twofold,
        lambda m, h: y[0] if isinstance(y := m(h), tuple) else y,
    ),
}


@pytest.mark.parametrize("name", TIED)
def test_streams_that_no_hook_finds_stay_tied(name: str) -> None:
    make, use = TIED[name]
    torch.manual_seed(0)
    model = Around(make(), use)
    plan, tied = (
        precrop.plan(model, (6, 5), params=0.5, residual=residual, divisor=1)
        for residual in ("crop", "tie")
    )
    assert (plan.streams, plan.widths, plan.frozen) == ((), tied.widths, tied.frozen)
    built = plan.build(model).train()
    built(torch.randn(2, 6, 5)).sum().backward()


class Unequal(nn.Module):
    """Two streams of different widths, and a layer that reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.other = nn.Linear(5, 16), nn.Linear(16, 16), nn.Linear(24, 24)
        self.widen, self.both = nn.Linear(16, 24), nn.Bilinear(16, 24, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        h = h + self.first(h)
        wide = self.widen(h)
        wide = wide + self.other(wide)
        made: Tensor = self.both(h, wide)
        return (h + made).mean(-1)


def test_a_layer_at_two_streams_keeps_them_tied() -> None:
    model = Unequal()
    plan = precrop.plan(model, (6, 5), params=0.5, residual="crop", divisor=1)
    assert (plan.streams, plan.frozen) == ((), {})
    plan.build(model)(torch.randn(2, 6, 5)).sum().backward()


class Pooled(nn.Module):
    """Set2Set's readout: a state of the stream's width, attention with it, and a joined query."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first = nn.Linear(5, 16), nn.Linear(16, 16)
        self.lstm, self.head = nn.LSTM(32, 16), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        h = h + self.first(h)
        width = h.shape[-1]
        states = (h.new_zeros(1, 1, width), h.new_zeros(1, 1, width))
        joined = h.new_zeros(1, 2 * width)
        for _ in range(2):
            query, states = self.lstm(joined.unsqueeze(0), states)
            query = query.view(1, width)
            shares = torch.softmax((h * query).sum(-1, keepdim=True), 0)
            joined = torch.cat([query, (shares * h).sum(0, keepdim=True)], -1)
        made: Tensor = self.head(joined)
        return made


def test_states_of_a_streams_width() -> None:
    model, x = Pooled(), torch.randn(6, 5)
    plan = precrop.plan(model, example_inputs=x, params=0.5, residual="crop", divisor=1)
    assert (bool(plan.streams), plan.frozen) == (True, {})
    built = plan.build(model)
    assert counted_params(built) == plan.params <= 0.5 * plan.base_params
    built(x).sum().backward()


class Remembering(nn.Module):
    """A memory network: rows of a table are summed up, step after step."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values = nn.Embedding(20, 16), nn.Embedding(20, 16)
        self.step, self.head = nn.Linear(16, 16, bias=False), nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        keys, values = self.keys(tokens), self.values(tokens)
        state = self.values(tokens[:, 0])
        for _ in range(2):
            shares = (keys * state.unsqueeze(1)).sum(-1).softmax(-1)
            state = self.step(state) + torch.einsum("bn,bnd->bd", shares, values)
        made: Tensor = self.head(state)
        return made


def test_streams_of_tables_rows_stay_tied() -> None:
    model, tokens = Remembering(), torch.randint(0, 20, (2, 5))
    plan = precrop.plan(model, example_inputs=tokens, params=0.5, residual="crop", divisor=1)
    assert (plan.streams, plan.frozen) == ((), {})
    built: Any = plan.build(model)
    assert built.values.embedding_dim < 16
    built(tokens).sum().backward()


class Scaled(nn.Module):
    """Scales its input in place and returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(16))

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(self.scale)


def test_a_reader_that_changes_the_stream_in_place_is_no_source_of_it() -> None:
    model, x = Around(Scaled(), lambda m, h: m(h * 1)), torch.randn(2, 6, 5)
    plan = precrop.plan(model, (6, 5), params=0.5, residual="crop", divisor=1)
    built = plan.build(model)
    assert counted_params(built) == plan.params <= 0.5 * plan.base_params
    assert built(x).shape == (2, 6, 3)


class Gated(nn.Module):
    """Maps side by side, times the sum of two gates of the first: a sum that is no stream."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(3, 16, 3, padding=1) for _ in range(4))
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.head = nn.Conv2d(64, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [layer(x) for layer in self.maps]
        pooled = maps[0].mean((2, 3), keepdim=True), maps[0].amax((2, 3), keepdim=True)
        first, second = (self.excite(self.squeeze(value)) for value in pooled)
        gate = (first + second).sigmoid().repeat(1, 4, 1, 1)
        made: Tensor = self.head(torch.cat(maps, 1) * gate)
        return made


class Neighbours(nn.Module):
    """Neighbours' values, each with its place, weighted by channel: a sum that is a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.place, self.weigh, self.head = nn.Linear(3, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, place = self.embed(x), self.place(x[:, :, None] - x[:, None])
        seen = self.query(h)[:, :, None] - self.key(h)[:, None] + place
        weights = self.weigh(seen).softmax(2)
        made = torch.einsum("bmnf,bmnf->bmf", weights, self.value(h)[:, None] + place)
        out: Tensor = self.head(made + h)
        return out


class Complex(nn.Module):
    """Sums of the parts of complex numbers, which are multiplied with what becomes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.real, self.imaginary = nn.Linear(5, 16), nn.Linear(5, 16)
        self.left, self.right = nn.Linear(16, 24), nn.Linear(16, 24)
        self.back, self.forth = nn.Linear(24, 16), nn.Linear(24, 16)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.real(x) - self.imaginary(x), self.imaginary(x) + self.real(x)
        down = self.left(first) - self.right(second), self.left(second) + self.right(first)
        parts = torch.cat([self.back(down[0]), self.forth(down[1])], -1)
        made: Tensor = self.head(parts * torch.cat([first, second], -1))
        return made


@pytest.mark.parametrize(
    ("make", "shape"), [(Gated, (3, 8, 8)), (Neighbours, (6, 3)), (Complex, (6, 5))]
)
def test_streams_that_would_freeze_what_is_no_end_of_theirs_stay_tied(
    make: type[nn.Module], shape: tuple[int, ...]
) -> None:
    model = make()
    assert find_streams(read_network(model, Inputs(shape)))
    for share in (0.5, 0.1):
        plan = precrop.plan(model, shape, params=share, residual="crop", divisor=1)
        assert plan.frozen == {}
        built = plan.build(model)
        assert counted_params(built) == plan.params <= share * plan.base_params
        built(torch.randn(2, *shape)).sum().backward()


class Joined(nn.Module):
    """A stream beside other channels, all read by one layer, which then takes the whole stream."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.other = nn.Linear(5, 16), nn.Linear(16, 16), nn.Linear(5, 16)
        self.both, self.head = nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        h = h + self.first(h)
        made: Tensor = self.head(self.both(torch.cat([h, self.other(x)], -1)))
        return made


def test_no_budget_is_refused_that_tied_streams_meet() -> None:
    model = Joined()
    ample = precrop.plan(model, (6, 5), params=0.5, residual="crop", divisor=1)
    assert ample.streams
    assert ample.widths["both"][0] > 16
    tied, cropped = (
        precrop.plan(model, (6, 5), params=0.03, residual=residual, divisor=1)
        for residual in ("tie", "crop")
    )
    assert (cropped.streams, cropped.widths) == ((), tied.widths)
    refusals = []
    for residual in ("tie", "crop"):
        with pytest.raises(BudgetError) as caught:
            precrop.plan(model, (6, 5), params=10, residual=residual, divisor=1)
        refusals.append(str(caught.value))
    assert refusals[0] == refusals[1]


AGAIN: dict[str, Any] = {
    "projections": resnet20,
    "padded shortcuts": lambda: resnet20(shortcut="pad"),
    "padded images": lambda: timm.create_model("tf_efficientnet_b0", num_classes=10),
    "preactivation": NETWORKS["timm preactivation"],
}


@pytest.mark.parametrize("residual", ["tie", "crop"])
@pytest.mark.parametrize("name", AGAIN)
def test_what_was_built_with_streams_is_cropped_further(name: str, residual: Any) -> None:
    torch.manual_seed(0)
    network = AGAIN[name]()
    first = cropped(network, params=0.6, divisor=1)
    built = first.build(network)
    plan = precrop.plan(built, IMAGE, params=0.5, residual=residual, divisor=1)
    assert (plan.base_params, plan.frozen) == (first.params, {})
    assert 0.49 * first.params < plan.params <= 0.5 * first.params
    ends = {(stream.path, stream.end): stream.sources for stream in first.streams}
    assert {(stream.path, stream.end): stream.sources for stream in plan.streams} == ends
    smaller = plan.build(built)
    assert counted_params(smaller) == plan.params
    assert counted_macs(smaller, IMAGE) == plan.macs
    assert dead_inputs(copy.deepcopy(smaller), plan) == []
    for path, end in ends:
        module = smaller.get_submodule(path)
        hooks = module._forward_pre_hooks if end == "read" else module._forward_hooks
        assert [*hooks.values()].count(getattr(module, f"stream_{end}")) == len(hooks) == 1
    smaller(torch.randn(2, *IMAGE)).sum().backward()
    x = torch.randn(2, *IMAGE)
    everything = precrop.plan(built, IMAGE, params=1.0, residual=residual).build(built).eval()
    assert torch.equal(everything(x), built.eval()(x))


def test_scores_of_what_was_built_with_streams_follow_them() -> None:
    network = resnet20()
    built = cropped(network, params=0.5).build(network)
    assert set(precrop.densities(built, IMAGE, method="synflow", params=0.3)) == {
        name for name, module in built.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
    plan = precrop.plan(built, IMAGE, params=0.5, objective="exact")
    assert counted_params(plan.build(built)) == plan.params
