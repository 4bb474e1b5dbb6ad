"""SynExp against R with all weights of a layer alike, by hand where it can be, and its slopes."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.errors import PrecropError
from precrop.flow.expected import Expectation
from precrop.flow.replay import Replay, Weight
from precrop.models import cifar_mobilenet_v2, cifar_vgg16_bn, resnet20, resnet1202
from precrop.program import Floats
from precrop.read.inputs import Inputs
from precrop.read.network import Network
from precrop.zoo import load_model
from tests.networks import BLOCKS, SHAPE, conv, small

Shape = tuple[int, ...]
OUTSIDE = {"attention", "torch attention", "non-local", "reused"}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def expectation(model: nn.Module, shape: Shape) -> Expectation:
    return Expectation(Network(model, Inputs(shape)))


def drawn(count: int, least: float = 0.05) -> Floats:
    """Log densities."""
    return np.log(np.random.default_rng(0).uniform(least, 1, count))


def written_out(model: nn.Module, shape: Shape, log_densities: Floats) -> float:
    """The same with a tensor of equal weights for every layer."""
    network = Network(model, Inputs(shape))
    own = dict(model.named_parameters())
    weights = {}
    for layer, log_density in zip(network.layers, log_densities, strict=True):
        weight = own[layer.weight].detach().double()
        weights[layer.weight] = Weight(
            torch.full_like(weight, math.exp(log_density) * float(weight.abs().mean()))
        )
    total = Replay(network, average_pool=True)(weights)
    return math.log(float(total.values)) + total.exponent * math.log(2)


FACTORIES: dict[str, Callable[[], nn.Module]] = {
    "vgg16": cifar_vgg16_bn,
    "resnet20": resnet20,
    "resnet20 padded": lambda: resnet20(shortcut="pad"),
    "mobilenet_v2": cifar_mobilenet_v2,
}


@pytest.mark.parametrize("name", FACTORIES)
def test_is_r_of_alike_weights(name: str) -> None:
    model = FACTORIES[name]()
    found = expectation(model, (3, 32, 32))
    logs = drawn(len(found.names))
    expected = written_out(model, (3, 32, 32), logs)
    assert found.value(logs) == pytest.approx(expected, abs=1e-9)
    assert found(logs)[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("block", sorted(BLOCKS.keys() - OUTSIDE))
def test_slopes_of_every_construction(block: str) -> None:
    model = small(block)
    found = expectation(model, SHAPE)
    logs = drawn(len(found.names))
    value, slopes = found(logs)
    assert value == pytest.approx(written_out(model, SHAPE, logs), abs=1e-9)
    assert (slopes >= 0).all()
    assert (slopes <= 1 + 1e-9).all()
    for index in range(len(logs)):
        step = np.zeros(len(logs))
        step[index] = 1e-5
        difference = (found.value(logs + step) - found.value(logs - step)) / 2e-5
        assert difference == pytest.approx(slopes[index], abs=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["squeezenet1_1", "densenet121", "mobilenet_v3_small", "timm:res2next50"]
)
def test_slopes_of_networks(name: str) -> None:
    found = expectation(load_model(name, {}), (3, 64, 64))
    for logs in (np.zeros(len(found.names)), drawn(len(found.names))):
        value, slopes = found(logs)
        assert math.isfinite(value)
        assert (slopes >= 0).all()
        assert (slopes <= 1 + 1e-9).all()
        assert slopes.max() == pytest.approx(1)


def test_in_a_chain_every_layer_counts_one() -> None:
    found = expectation(cifar_vgg16_bn(), (3, 32, 32))
    logs = drawn(len(found.names), 1e-6)
    value, slopes = found(logs)
    np.testing.assert_allclose(slopes, 1, atol=1e-9)
    assert value == pytest.approx(found.value(0 * logs) + logs.sum(), rel=1e-12)


def test_multilinear_and_log_convex() -> None:
    found = expectation(resnet20(), (3, 8, 8))
    logs = drawn(len(found.names))
    middle = found.value(logs / 2)
    assert middle <= (found.value(logs) + found.value(0 * logs)) / 2
    for index in range(0, len(logs), 3):
        steps = []
        for density in (0.2, 0.4, 0.6):
            logs[index] = math.log(density)
            steps.append(math.exp(found.value(logs) - middle))
        assert steps[2] - steps[1] == pytest.approx(steps[1] - steps[0], rel=1e-9)


def test_tangents_lie_below() -> None:
    found = expectation(small("dense"), SHAPE)
    count = len(found.names)
    value, slopes = found(drawn(count))
    for seed in range(20):
        other = np.log(np.random.default_rng(seed).uniform(0.01, 1, count))
        assert found.value(other) >= value + slopes @ (other - drawn(count)) - 1e-12


class Block(nn.Module):
    """``b(relu(a(x))) + x`` between a stem and a head, all without space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(2, 4), nn.Linear(4, 3)
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.b(self.a(x).relu()) + x)


def test_a_residual_block_by_hand() -> None:
    model = Block()
    means = {
        name: float(layer.weight.detach().double().abs().mean())
        for name, layer in model.named_children()
        if isinstance(layer, nn.Linear)
    }
    densities = {"stem": 0.5, "a": 0.1, "b": 0.3}
    w = {name: mean * densities.get(name, 1.0) for name, mean in means.items()}
    branch = 4 * w["a"] * 5 * w["b"]
    total = 2 * w["stem"] * (branch + 1) * 4 * w["head"] * 3
    assert precrop.synexp(model, (2,), densities) == pytest.approx(math.log(total), rel=1e-12)
    found = expectation(model, (2,))
    logs = np.log([densities.get(name, 1.0) for name in found.names])
    slopes = dict(zip(found.names, found(logs)[1], strict=True))
    share = branch / (branch + 1)
    assert slopes == pytest.approx({"stem": 1, "a": share, "b": share, "head": 1}, rel=1e-12)


def test_deeper_than_any_float() -> None:
    model = resnet1202()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 4 and name.startswith("layer"):
                weight.fill_(1.0)
    for block in (*model.layer1, *model.layer2, *model.layer3):  # type: ignore[misc]
        block.shortcut = None if block.conv1.stride == (1, 1) else block.shortcut
    found = precrop.synexp(model, (3, 4, 4))
    assert math.isfinite(found)
    assert found > 1000


# --- several uses of one layer --------------------------------------------------------------------


class Shared(nn.Module):
    """One layer twice, side by side or one after the other."""

    def __init__(self, *, parallel: bool) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False)
        self.parallel = parallel

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return self.head(y + self.layer(2 * x) if self.parallel else self.layer(y))


def test_twice_in_parallel() -> None:
    model = Shared(parallel=True)
    means = [float(layer.weight.detach().double().abs().mean()) for layer in model.children()]  # type: ignore[operator]
    found = precrop.synexp(model, (4,), {"layer": 0.5})
    total = 3 * 4 * 0.5 * means[0] * 4 * means[1] * 2
    assert found == pytest.approx(math.log(total), rel=1e-12)


@pytest.mark.parametrize("model", [Shared(parallel=False), small("reused")])
def test_twice_in_a_row_is_refused(model: nn.Module) -> None:
    shape = (4,) if isinstance(model, Shared) else SHAPE
    with pytest.raises(PrecropError, match=r"^(layer|blocks\.0\.conv\.0) is applied several times"):
        precrop.synexp(model, shape)


# --- the public function --------------------------------------------------------------------------


def test_densities_by_name() -> None:
    model = resnet20()
    dense = precrop.synexp(model, (3, 32, 32))
    assert precrop.synexp(model, (3, 32, 32), {}) == dense
    assert precrop.synexp(model, (3, 32, 32), {"conv1": 1.0}) == dense
    half = precrop.synexp(model, (3, 32, 32), {"conv1": 0.5, "fc": 0.25})
    assert half == pytest.approx(dense + math.log(0.5) + math.log(0.25))


def test_signs_order_and_biases_do_not_matter() -> None:
    model = nn.Sequential(conv(3, 8), conv(8, 4))
    before = precrop.synexp(model, SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                flat = parameter.flatten()
                signs = torch.randn_like(flat).sign()
                parameter.copy_((flat[torch.randperm(len(flat))] * signs).view_as(parameter))
            else:
                parameter.normal_()
    assert precrop.synexp(model, SHAPE) == pytest.approx(before, rel=1e-6)
    assert precrop.synexp(model.half(), SHAPE) == pytest.approx(before, rel=1e-3)


def test_a_layer_of_zeros_gives_minus_infinity() -> None:
    model = resnet20()
    nn.init.zeros_(model.fc.weight)
    assert precrop.synexp(model, (3, 8, 8)) == -math.inf
    value, slopes = expectation(model, (3, 8, 8))(np.zeros(22))
    assert value == -math.inf
    assert not slopes.any()


def test_layers_that_eval_does_not_run_count_nothing() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.aux = conv(3, 4), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            return x.sum() + self.aux(x).sum() if self.training else x

    found = expectation(Auxiliary(), SHAPE)
    assert dict(zip(found.names, found(np.zeros(2))[1], strict=True)) == {"body.0": 1, "aux": 0}


@pytest.mark.parametrize(
    ("densities", "message"),
    [
        ({"conv1": 0}, r"density of conv1 is 0: write a number in \(0, 1\]"),
        ({"conv1": 1.5}, "density of conv1 is 1.5"),
        ({"conv1": float("nan")}, "density of conv1 is nan"),
        ({"conv1": True}, "density of conv1 is True"),
        ({"conv1": "half"}, "density of conv1 is 'half'"),
        ({"conv2": 0.5}, "layer 'conv2' that is not there; did you mean conv1?"),
        ({"xyz": 0.5}, "layers are conv1, "),
    ],
)
def test_senseless_densities(densities: dict[str, float], message: str) -> None:
    with pytest.raises(PrecropError, match=message):
        precrop.synexp(resnet20(), (3, 8, 8), densities)


def test_weights_without_values() -> None:
    with torch.device("meta"):
        model = resnet20()
    with pytest.raises(PrecropError, match="conv1.weight has no values"):
        precrop.synexp(model, (3, 8, 8))


def test_a_network_without_layers() -> None:
    with pytest.raises(PrecropError, match="no layer"):
        precrop.synexp(nn.ReLU(), (3, 8, 8))
