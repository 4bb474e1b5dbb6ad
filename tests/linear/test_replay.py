"""R of a replayed trace against R of a network that PyTorch runs with everything linear."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precrop.errors import PrecropError
from precrop.linear.replay import Replay, Weight
from precrop.linear.values import Flow, aligned
from precrop.read.inputs import Inputs
from precrop.read.network import Network, read_network
from precrop.zoo import load_model
from tests.linear.linear import linear_copy, ones
from tests.networks import BLOCKS, SHAPE, conv, small

Shape = tuple[int, ...]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def log_of(flow: Flow) -> float:
    return math.log(float(flow.values)) + flow.exponent * math.log(2)


def weights_of(network: Network) -> dict[str, Tensor]:
    own = dict(network.model.named_parameters())
    return {layer.weight: own[layer.weight].detach().double().abs() for layer in network.layers}


def log_r(model: nn.Module, shape: Shape, *, average_pool: bool = False) -> float:
    """Of the weights that the model has."""
    network = read_network(model, Inputs(shape))
    with torch.no_grad():
        weights = {name: Weight(values) for name, values in weights_of(network).items()}
        return log_of(Replay(network, average_pool=average_pool)(weights))


def expected_log_r(model: nn.Module, shape: Shape) -> float:
    linear = linear_copy(model)
    with torch.no_grad():
        return float(linear(ones(linear, shape)).sum().log())


# --- networks that others wrote -------------------------------------------------------------------

QUICK = {
    "squeezenet1_1": 64,
    "cifar_vgg16_bn": 32,
    "resnet18": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "shufflenet_v2_x1_0": 64,
    "densenet121": 64,
    "regnet_y_400mf": 64,
    "convnext_tiny": 32,
    "resnet110": 32,
    "timm:ghostnet_050": 64,
    "timm:res2next50": 64,
    "timm:hrnet_w18_small": 64,
    "timm:cs3darknet_focus_s": 64,
    "timm:rexnet_100": 64,
}
"""Sides of the inputs by name. Their maxima stay: all that reaches them is positive."""
SLOW = {
    "googlenet": 64,
    "inception_v3": 128,
    "resnext50_32x4d": 64,
    "mnasnet1_0": 64,
    "regnet_x_400mf": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "densenet201": 64,
    "wide_resnet50_2": 64,
    "timm:dla46x_c": 64,
    "timm:dpn48b": 64,
    "timm:fasternet_t0": 64,
    "timm:hgnetv2_b0": 64,
    "timm:inception_next_atto": 64,
    "timm:inception_v4": 128,
    "timm:repvgg_a0": 64,
    "timm:resnetv2_18": 64,
    "timm:resnetblur50": 64,
    "timm:selecsls42": 128,
    "timm:cspresnet50": 64,
    "timm:convmixer_768_32": 64,
    "timm:xception41": 64,
    "timm:tf_mixnet_s": 64,
    "timm:legacy_seresnet18": 64,
    "timm:ecaresnet26t": 64,
    "timm:ese_vovnet19b_slim_dw": 64,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", QUICK)
def test_r_of_networks(name: str) -> None:
    model, shape = load_model(name, {}), (3, QUICK[name], QUICK[name])
    assert log_r(model, shape) == pytest.approx(expected_log_r(model, shape), rel=1e-9)


@pytest.mark.matrix
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SLOW)
def test_r_of_more_networks(name: str) -> None:
    model, shape = load_model(name, {}), (3, SLOW[name], SLOW[name])
    assert log_r(model, shape) == pytest.approx(expected_log_r(model, shape), rel=1e-9)


# --- every construction ---------------------------------------------------------------------------

REFUSED = {"attention": "attention", "torch attention": "attention", "non-local": ""}


@pytest.mark.parametrize("block", sorted(BLOCKS.keys() - REFUSED.keys()))
@pytest.mark.parametrize("average_pool", [False, True])
def test_alike_weights_give_the_same_as_when_they_are_written_out(
    block: str, average_pool: bool
) -> None:
    network = read_network(small(block), Inputs(SHAPE))
    replay = Replay(network, average_pool=average_pool)
    values = {name: (weight.mean(), weight.shape) for name, weight in weights_of(network).items()}
    even = {name: Weight(value, tuple(shape)) for name, (value, shape) in values.items()}
    whole = {name: Weight(value.expand(shape)) for name, (value, shape) in values.items()}
    assert log_of(replay(even)) == pytest.approx(log_of(replay(whole)), abs=1e-9)


@pytest.mark.parametrize("block", REFUSED)
def test_products_of_activations_are_refused_by_name(block: str) -> None:
    model = small(block)
    place = next(path for path, module in model.named_modules() if _multiplies(module))
    message = rf"^SynFlow has no reading of bmm in {place}: it multiplies activations"
    with pytest.raises(PrecropError, match=message):
        log_r(model, SHAPE)


def _multiplies(module: nn.Module) -> bool:
    return type(module).__name__ in ("Attention", "MultiheadAttention", "NonLocal")


def test_a_vision_transformer_is_refused_by_name() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32)
    with pytest.raises(PrecropError, match=r"reading of bmm in blocks\.0\.attn: it multiplies"):
        log_r(model, (3, 32, 32))


class Wrapped(nn.Module):
    """A stem, any function of its 8 positive channels, a head."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.head = nn.Conv2d(channels, 2, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.stem(x)))


def _written_to_slice(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :3] = 2 * x[:, 3:6]
    y[:, 3:] += x[:, :5]
    return y


def _added_to_view(x: Tensor) -> Tensor:
    y = x * 1.5
    y.view(1, 4, 2, 4, 4)[:, 1].add_(x[:, :2])
    return y


def _seen_through_view(x: Tensor) -> Tensor:
    y = x * 1.5
    view = y[:, 2:5]
    y.add_(x)
    return torch.cat([view, y[:, :5]], 1)


def _filled(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :4] = x[:, 4:]
    y[:, 5].copy_(x[:, 0])
    return y


def _cleared(x: Tensor) -> Tensor:
    y = x * 1.0
    y[:, 2].zero_()
    y[:, 3].fill_(0.0)
    return y


def _reshaped_in_place(x: Tensor) -> Tensor:
    y = x.mean(2, keepdim=True).squeeze_(2)
    return y.unsqueeze_(2).expand_as(x) + x


def _matrix(x: Tensor) -> Tensor:
    """A constant one, for the columns or rows of maps."""
    return torch.linspace(0.1, 2, 16).view(4, 4).to(x)


LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "slice written": _written_to_slice,
    "view added to": _added_to_view,
    "seen through a view": _seen_through_view,
    "filled": _filled,
    "cleared": _cleared,
    "reshaped in place": _reshaped_in_place,
    "constants": lambda x: x * 3 / torch.tensor(2.0) + x / 4,
    "weighted sum": lambda x: torch.add(x, x.roll(1, 1), alpha=0.3),
    "dilated pool": lambda x: F.max_pool2d(x, 2, stride=1, dilation=2, padding=1),
    "ceiled pool": lambda x: F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True),
    "adaptive maximum": lambda x: F.adaptive_max_pool2d(x, 2),
    "maximum over pixels": lambda x: x.amax((2, 3), keepdim=True),
    "pools": lambda x: F.avg_pool2d(x, 2) + F.adaptive_avg_pool2d(x, 2),
    "resized": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear") + x.repeat(1, 1, 2, 2),
    "padded": lambda x: F.pad(F.pad(x, (1, 2, 0, 1)), (1, 1, 1, 1), mode="reflect"),
    "reordered": lambda x: x.flip(1).permute(0, 1, 3, 2)[:, torch.arange(7, -1, -1)],
    "stacked": lambda x: torch.stack([x, 2 * x], 2).flatten(2).view(1, 8, 8, 4),
    "relu6 sums": lambda x: F.relu6(x) + F.relu6(2 * x).clamp(0, 1e9),
    "times a matrix": lambda x: x @ _matrix(x),
    "a matrix times it": lambda x: _matrix(x) @ x,
    "of a graph": lambda x: torch.einsum("ij,bcjk->bcik", _matrix(x), x),
    "unfolded": lambda x: F.fold(F.unfold(x, 2), (4, 4), 2),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operations(name: str) -> None:
    model, shape = Wrapped(LINEAR[name]), (3, 4, 4)
    assert log_r(model, shape) == pytest.approx(expected_log_r(model, shape), rel=1e-9)


def test_maxima_as_averages() -> None:
    """Each against the average that PyTorch has for it."""
    shape = (3, 7, 7)
    pairs: list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
        (
            lambda x: F.max_pool2d(x, 3, 2, 1),
            lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        ),
        (
            lambda x: F.max_pool2d(x, (3, 2), 2, (1, 0), ceil_mode=True),
            lambda x: F.avg_pool2d(x, (3, 2), 2, (1, 0), ceil_mode=True, count_include_pad=False),
        ),
        (
            lambda x: F.max_pool1d(x.flatten(2), 4, 3, 1).unsqueeze(2),
            lambda x: F.avg_pool1d(x.flatten(2), 4, 3, 1, count_include_pad=False).unsqueeze(2),
        ),
        (
            lambda x: F.max_pool3d(x.unsqueeze(1), 3, 2, 1).squeeze(1).repeat(1, 2, 1, 1),
            lambda x: (
                F.avg_pool3d(x.unsqueeze(1), 3, 2, 1, count_include_pad=False)
                .squeeze(1)
                .repeat(1, 2, 1, 1)
            ),
        ),
        (lambda x: F.adaptive_max_pool2d(x, 3), lambda x: F.adaptive_avg_pool2d(x, 3)),
        (lambda x: x.amax((2, 3), keepdim=True), lambda x: x.mean((2, 3), keepdim=True)),
    ]
    for maximum, average in pairs:
        model = Wrapped(maximum)
        found = log_r(model, shape, average_pool=True)
        assert found == pytest.approx(_with(model, average, shape), rel=1e-9)


def _with(model: Wrapped, function: Callable[[Tensor], Tensor], shape: Shape) -> float:
    model.function = function
    return expected_log_r(model, shape)


def test_a_dilated_window_averages_what_lies_under_its_taps() -> None:
    model, shape = Wrapped(lambda x: F.max_pool2d(x, 2, 1, 1, dilation=2)), (3, 5, 5)

    def average(x: Tensor) -> Tensor:
        corners = F.pad(torch.stack([x, torch.ones_like(x)]), (1, 1, 1, 1))
        sums = sum(corners[..., a : a + 5, b : b + 5] for a in (0, 2) for b in (0, 2))
        assert isinstance(sums, Tensor)
        return sums[0] / sums[1]

    assert log_r(model, shape, average_pool=True) == pytest.approx(_with(model, average, shape))


# Activations, norms, gates and parameters are a factor of one; what is added is zero.
ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "swish": lambda x: x * torch.sigmoid(x),
    "softmax": lambda x: x * (x * 3).mean((2, 3), keepdim=True).softmax(1),
    "two gates": lambda x: x * (torch.sigmoid(x) + torch.sigmoid(2 * x)) * (3.0).__class__(1),
    "gate of a gate": lambda x: x * (1 - torch.sigmoid(x.mean((2, 3), keepdim=True))).sigmoid(),
    "hand-made gate": lambda x: 6 * (x * F.relu6(x + 3) / 6) * ((x + 3).clamp(0, 6) / 6),
    "shifted": lambda x: (x + 3 - 1).relu() + 0.5,
    "response norm": lambda x: x * (_norm(x) / (_norm(x).mean(1, keepdim=True) + 1e-6)),
    "unit length": lambda x: x / x.norm(dim=1, keepdim=True),
    "standard deviation": lambda x: x / (x.var((1, 2, 3), keepdim=True) + 1e-5).sqrt(),
    "layer norm": lambda x: F.layer_norm(x, (4,)),
    "softsign": F.softsign,
    "truth": lambda x: x * torch.ones(4, dtype=torch.bool) / torch.ones(1, dtype=torch.bool),
    "log-sigmoid": F.logsigmoid,
    "shrinkage": lambda x: F.softshrink(F.hardshrink(x)),
    "no dropout": lambda x: F.dropout(x, 0.5, training=False).abs().clamp(0, 1),
}


def test_random_numbers_are_a_factor_of_one_and_drawn_from_no_generator_of_the_process() -> None:
    shuffled = {
        "dropout": lambda x: F.dropout(x, 0.5, True),
        "noise": lambda x: x * torch.rand(1) + torch.randn(4),
        "order": lambda x: x[:, torch.randperm(x.shape[1])],
    }
    shape = (3, 4, 4)
    for function in shuffled.values():
        model = Wrapped(function)
        before = torch.get_rng_state()
        found = [log_r(model, shape) for _ in range(3)]
        assert torch.equal(torch.get_rng_state(), before)
        assert len({*found}) == 1
    for name in ("dropout", "noise"):
        model = Wrapped(shuffled[name])
        assert log_r(model, shape) == pytest.approx(_with(model, lambda x: x, shape), rel=1e-9)


def _norm(x: Tensor) -> Tensor:
    return x.norm(p=2, dim=(2, 3), keepdim=True)


@pytest.mark.parametrize("name", ONE)
def test_what_counts_as_one(name: str) -> None:
    model, shape = Wrapped(ONE[name]), (3, 4, 4)
    found = log_r(model, shape)
    assert found == pytest.approx(_with(model, lambda x: x, shape), rel=1e-9)


# --- weights that are not used as they are --------------------------------------------------------


class Derived(nn.Module):
    """A layer whose weight is computed from its parameter."""

    mask: Tensor

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.register_buffer("mask", torch.rand(4, 3, 3, 3).round())
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.function(self.weight))


@pytest.mark.parametrize(
    ("function", "factor"),
    [
        (lambda w: (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True), 1),
        (lambda w: w / torch.linalg.vector_norm(w, dim=(1, 2, 3), keepdim=True), 1),
        (lambda w: F.batch_norm(w.view(1, 4, -1), None, None, training=True).view_as(w), 1),
        (lambda w: w / torch.norm_except_dim(w, 2, -1), 1),
        (lambda w: torch._weight_norm(w, torch.ones(4, 1, 1, 1)), 1),
        (lambda w: w / torch.vdot(torch.ones(4), w.flatten(1) @ torch.ones(27)), 1),
        (lambda w: 0.5 * w, 0.5),
        (lambda w: w / 4, 0.25),
        (lambda w: torch.cat([w[:2], w[2:]]), 1),
        (lambda w: w.permute(0, 1, 3, 2).abs() + 0.1, 1),
        (lambda w: w + w.flip(3), 2),
        (lambda w: torch.add(w, w.rot90(1, (2, 3)), alpha=0.5), 1.5),
        (lambda w: torch.renorm(w, 2, 0, 1.0), 1),
    ],
)
def test_weights_on_their_way(function: Callable[[Tensor], Tensor], factor: float) -> None:
    model = Derived(function)
    whole, even = both_ways(model)
    total = float(model.weight.detach().double().abs().sum()) * factor
    assert whole == pytest.approx(math.log(total), rel=1e-9)
    assert even == pytest.approx(math.log(4 * 27 * 0.5 * factor), rel=1e-9)


def both_ways(model: Derived, side: int = 3) -> tuple[float, float]:
    """Log R of the weights that the model has, and of weights of one half."""
    replay = Replay(read_network(model, Inputs((3, side, side))), average_pool=True)
    whole = replay({"weight": Weight(model.weight.detach().double().abs())})
    return log_of(whole), log_of(
        replay({"weight": Weight(torch.tensor(0.5).double(), (4, 3, 3, 3))})
    )


def test_masked_and_padded_weights() -> None:
    model = Derived(lambda w: w * model.mask)
    kept = model.weight.detach().double().abs() * model.mask
    whole, even = both_ways(model)
    assert whole == pytest.approx(float(kept.sum().log()))
    assert even == pytest.approx(math.log(0.5 * float(kept.count_nonzero())))
    assert both_ways(Derived(lambda w: F.pad(w, (1, 1, 1, 1))), 5)[1] == pytest.approx(
        math.log(0.5 * 108)
    )


# --- what has no reading --------------------------------------------------------------------------

UNREADABLE: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "product": (lambda x: x * x.flip(1), "mul in the network: it multiplies activations"),
    "bounded product": (lambda x: F.relu6(x) * x.flip(1), "mul .*: it multiplies activations"),
    "clamped product": (lambda x: (x + 3).clamp(min=0) * x, "mul .*: it multiplies activations"),
    "square": (lambda x: x.pow(2), "outputs: it uses a statistic or a"),
    "negative sum": (lambda x: torch.add(x, x.flip(1), alpha=-1), "add .*: it subtracts"),
    "product of gates": (lambda x: x.sigmoid() * x.flip(1).sigmoid(), "it uses a statistic or a"),
    "difference": (lambda x: x.mean(1, keepdim=True) - x, "sub .*: it subtracts activations"),
    "quotient": (lambda x: 1 / x, "reciprocal .*: it is not linear"),
    "ratio": (lambda x: x / x.flip(1), "div .*: it divides by an activation"),
    "deviation": (lambda x: x + x.std((1, 2, 3)), "add .*: it uses a statistic"),
    "sine": (lambda x: x.sin(), "sin in the network: it is not linear"),
    "sorted": (lambda x: x.sort(1)[0], "sort"),
    "places": (lambda x: F.max_pool2d(x, 1, return_indices=True)[1] + x, "add .*not known"),
    "numbers": (lambda x: x[:, [7, 6, 5, 4, 3, 2, 1, 0]], "index .*not known"),
    "comparison": (lambda x: x * (x > 0), "gt"),
    "out": (lambda x: torch.flip(x, (1,)) + torch.cat([x], 1, out=x.clone()), "cat .*: it writes"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_operations_are_named(name: str) -> None:
    function, message = UNREADABLE[name]
    with pytest.raises(PrecropError, match=message):
        log_r(Wrapped(function), (3, 4, 4))


def test_weights_that_are_overwritten_are_named() -> None:
    with pytest.raises(PrecropError, match="zero .*: its input does not come from"):
        both_ways(Derived(lambda w: (w * 1).zero_()))


def test_an_output_that_does_not_depend_on_the_input() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer.weight + 0 * self.layer.bias

    with pytest.raises(PrecropError, match="no output that depends on the network's input"):
        Replay(read_network(Fixed(), Inputs((2,))), average_pool=True)({"x": Weight(torch.ones(2))})


def test_a_network_without_layers() -> None:
    with pytest.raises(PrecropError, match="no layer"):
        log_r(nn.ReLU(), (3, 4, 4))


# --- the rest -------------------------------------------------------------------------------------


def test_buffers_that_are_written_stay_as_they_are() -> None:
    class Counting(nn.Module):
        scale: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2, bias=False)
            self.register_buffer("scale", torch.full((2,), 2.0))

        def forward(self, x: Tensor) -> Tensor:
            self.scale.add_(1)
            return self.layer(x) * self.scale

    model = Counting()
    found = log_r(model, (2,))
    assert model.scale.tolist() == [2.0, 2.0]
    assert found == pytest.approx(math.log(3 * float(model.layer.weight.detach().abs().sum())))


def test_a_network_that_needs_values_is_read_too() -> None:
    class Looking(nn.Module):
        flag: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("flag", torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if self.training or self.flag.item() > 0 else x

    model = Looking()
    assert read_network(model, Inputs((2,))).tracer.real
    total = model.layer.weight.detach().double().abs().sum()
    assert log_r(model, (2,)) == pytest.approx(float(total.log()))


def test_several_inputs_and_outputs_add_up() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(2, 3), nn.Linear(4, 1)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"x": self.one(x), "y": self.two(y).sigmoid()}

    model = Both()
    total = sum(
        float(layer.weight.detach().double().abs().sum()) for layer in (model.one, model.two)
    )
    assert log_r(model, ([2], [4])) == pytest.approx(math.log(total))  # type: ignore[arg-type]


def test_branches_of_very_different_size() -> None:
    """Their powers of two differ by more than single precision has."""
    layers = [nn.Conv2d(2, 2, 1, bias=False) for _ in range(40)]
    for layer in layers:
        nn.init.constant_(layer.weight, 50.0)

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.deep, self.flat = nn.Sequential(*layers), nn.Conv2d(2, 2, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.deep(x), self.flat(x)], 1)

    network = read_network(Branches(), Inputs((2, 1, 1)))
    weights = {name: Weight(w.float()) for name, w in weights_of(network).items()}
    found = Replay(network, average_pool=True)(weights)
    assert log_of(found) == pytest.approx(math.log(2) + 40 * math.log(100), rel=1e-5)
    far = aligned([Flow(torch.ones(1), 5000), Flow(torch.ones(1))])
    assert [(flow.exponent, float(flow.values)) for flow in far] == [(5000, 1.0), (5000, 0.0)]


def test_single_precision_does_not_leave_its_range() -> None:
    layers = [conv(4, 4) for _ in range(60)]
    model = nn.Sequential(conv(3, 4), *layers)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 1e3)
    network = read_network(model, Inputs((3, 4, 4)))
    weights = {name: Weight(w.float()) for name, w in weights_of(network).items()}
    found = Replay(network, average_pool=True)(weights)
    assert found.values.isfinite()
    assert log_of(found) == pytest.approx(log_r(model, (3, 4, 4)), rel=1e-6)


def test_an_operation_that_fails_is_named() -> None:
    network = read_network(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), Inputs((3, 2, 2)))
    with pytest.raises(PrecropError, match="SynFlow fails at addmm in 1: RuntimeError: ") as told:
        Replay(network, average_pool=False)({"1.weight": Weight(torch.ones(5, 5))})
    assert "\n" not in str(told.value)
