"""SynExp against R with all weights of a layer alike, by hand where it can be, and its slopes."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.errors import PrecropError
from precrop.linear.expected import Expectation, ScoreExpectation
from precrop.linear.replay import Replay, Weight
from precrop.models import cifar_mobilenet_v2, cifar_vgg16_bn, resnet20, resnet1202
from precrop.read.inputs import Inputs
from precrop.read.network import read_network
from precrop.solve.structure import Floats
from precrop.zoo import load_model
from tests.networks import BLOCKS, SHAPE, conv, small

Shape = tuple[int, ...]
OUTSIDE = {"attention", "torch attention", "non-local", "reused"}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def expectation(
    model: nn.Module, shape: Shape, kind: type[Expectation] = Expectation
) -> Expectation:
    return kind(read_network(model, Inputs(shape)))


KINDS = [Expectation, ScoreExpectation]


def drawn(count: int, least: float = 0.05) -> Floats:
    """Log densities."""
    return np.log(np.random.default_rng(0).uniform(least, 1, count))


def written_out(model: nn.Module, shape: Shape, log_densities: Floats) -> float:
    """The same with a tensor of equal weights for every layer."""
    network = read_network(model, Inputs(shape))
    own = dict(model.named_parameters())
    weights = {}
    for layer, log_density in zip(network.layers, log_densities, strict=True):
        weight = own[layer.weight].detach().double()
        weights[layer.weight] = Weight(
            torch.full_like(weight, math.exp(log_density) * float(weight.abs().mean()))
        )
    total = Replay(network, average_pool=True)(weights)
    return math.log(float(total.values)) + total.exponent * math.log(2)


def scores_written_out(model: nn.Module, shape: Shape, log_densities: Floats) -> float:
    """The logarithm of the sum of all scores where every layer's weights are alike."""
    network = read_network(model, Inputs(shape))
    own = dict(model.named_parameters())
    leaves = {
        layer.weight: torch.full_like(
            weight := own[layer.weight].detach().double(),
            math.exp(log_density) * float(weight.abs().mean()),
            requires_grad=True,
        )
        for layer, log_density in zip(network.layers, log_densities, strict=True)
    }
    total = Replay(network, average_pool=True)({n: Weight(leaf) for n, leaf in leaves.items()})
    slopes = torch.autograd.grad(total.values, list(leaves.values()), allow_unused=True)
    pairs = [(leaf.detach(), slope) for leaf, slope in zip(leaves.values(), slopes, strict=True)]
    scores = sum(float((leaf * slope).sum()) for leaf, slope in pairs if slope is not None)
    return math.log(scores) + total.exponent * math.log(2)


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


@pytest.mark.parametrize("name", FACTORIES)
def test_synexp_is_the_sum_of_scores_of_alike_weights(name: str) -> None:
    model = FACTORIES[name]()
    found = expectation(model, (3, 32, 32), ScoreExpectation)
    logs = drawn(len(found.names))
    expected = scores_written_out(model, (3, 32, 32), logs)
    assert found.value(logs) == pytest.approx(expected, abs=1e-9)
    assert found(logs)[0] == pytest.approx(expected, abs=1e-9)
    densities = dict(zip(found.names, np.exp(logs).tolist(), strict=True))
    assert precrop.synexp(model, (3, 32, 32), densities) == pytest.approx(expected, abs=1e-9)
    output = precrop.expected_output(model, (3, 32, 32), densities)
    assert output == pytest.approx(written_out(model, (3, 32, 32), logs), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", sorted(BLOCKS.keys() - OUTSIDE))
def test_slopes_of_every_construction(block: str, kind: type[Expectation]) -> None:
    model = small(block)
    found = expectation(model, SHAPE, kind)
    logs = drawn(len(found.names))
    value, slopes = found(logs)
    oracle = written_out if kind is Expectation else scores_written_out
    assert value == pytest.approx(oracle(model, SHAPE, logs), abs=1e-9)
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
    values = []
    for kind in KINDS:
        found = expectation(cifar_vgg16_bn(), (3, 32, 32), kind)
        torch.manual_seed(0)
        logs = drawn(len(found.names), 1e-6)
        value, slopes = found(logs)
        np.testing.assert_allclose(slopes, 1, atol=1e-9)
        assert value == pytest.approx(found.value(0 * logs) + logs.sum(), rel=1e-12)
        values.append(value)
    assert values[1] - values[0] == pytest.approx(math.log(14))


def test_every_mask_of_a_network_with_a_branch() -> None:
    # Each of 12 weights is there or not: 4,096 masks, of which the mean is taken weight by weight.
    model = Block(1, 2, 2, 1)
    layers = {name: getattr(model, name) for name in ("stem", "a", "b", "head")}
    signs = torch.randn(12).sign()
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    alike = {"stem": 0.7, "a": 1.3, "b": 0.4, "head": 2.0}
    densities = {"stem": 0.9, "a": 0.3, "b": 0.6, "head": 0.5}
    with torch.no_grad():
        for sign, (name, layer) in zip(signs.split([*sizes.values()]), layers.items(), strict=True):
            layer.weight.copy_(alike[name] * sign.view_as(layer.weight))
    bits = (torch.arange(2**12)[:, None] >> torch.arange(12)) & 1
    chances = torch.cat([torch.full((n,), densities[name]) for name, n in sizes.items()]).double()
    chance = torch.where(bits.bool(), chances, 1 - chances).prod(1)
    strengths = torch.cat([torch.full((n,), alike[name]) for name, n in sizes.items()]).double()
    weights = (bits * strengths).requires_grad_()
    stem, a, b, head = (
        part.view(-1, *layer.weight.shape)
        for part, layer in zip(weights.split([*sizes.values()], 1), layers.values(), strict=True)
    )
    output = (head @ (stem + b @ (a @ stem))).flatten()
    (slopes,) = torch.autograd.grad(output.sum(), weights)
    scores = (weights * slopes).sum(1).detach()
    assert precrop.expected_output(model, (1,), densities) == pytest.approx(
        math.log(float(chance @ output.detach())), rel=1e-6
    )
    assert precrop.synexp(model, (1,), densities) == pytest.approx(
        math.log(float(chance @ scores)), rel=1e-6
    )
    # Short paths have two layers, long ones four.
    assert float((scores / output.detach()).nan_to_num(3).min()) >= 2 - 1e-9


def test_in_a_residual_network_it_is_not_a_multiple_of_the_output() -> None:
    model = resnet20()
    scores, output = (expectation(model, (3, 32, 32), kind) for kind in reversed(KINDS))
    ratios = []
    for share in (1.0, 0.02):
        densities = precrop.densities(model, (3, 32, 32), params=share)
        logs = np.log([densities[name] for name in scores.names])
        ratios.append(math.exp(scores.value(logs) - output.value(logs)))
    assert ratios == pytest.approx([19.9, 9.1], abs=0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_multilinear_and_log_convex(kind: type[Expectation]) -> None:
    found = expectation(resnet20(), (3, 8, 8), kind)
    logs = drawn(len(found.names))
    middle = found.value(logs / 2)
    assert middle <= (found.value(logs) + found.value(0 * logs)) / 2
    for index in range(0, len(logs), 3):
        steps = []
        for density in (0.2, 0.4, 0.6):
            logs[index] = math.log(density)
            steps.append(math.exp(found.value(logs) - middle))
        assert steps[2] - steps[1] == pytest.approx(steps[1] - steps[0], rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_tangents_lie_below(kind: type[Expectation]) -> None:
    found = expectation(small("dense"), SHAPE, kind)
    count = len(found.names)
    value, slopes = found(drawn(count))
    for seed in range(20):
        other = np.log(np.random.default_rng(seed).uniform(0.01, 1, count))
        assert found.value(other) >= value + slopes @ (other - drawn(count)) - 1e-12


class Block(nn.Module):
    """``b(relu(a(x))) + x`` between a stem and a head, all without space."""

    def __init__(self, inputs: int = 2, width: int = 4, hidden: int = 5, outputs: int = 3) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.a, self.b = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out: Tensor = self.head(self.b(self.a(x).relu()) + x)
        return out


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
    ends = 2 * w["stem"] * 4 * w["head"] * 3
    expected = math.log(ends * (branch + 1))
    assert precrop.expected_output(model, (2,), densities) == pytest.approx(expected, rel=1e-12)
    # The paths through the branch have four layers, the others two.
    expected = math.log(ends * (4 * branch + 2))
    assert precrop.synexp(model, (2,), densities) == pytest.approx(expected, rel=1e-12)
    found = expectation(model, (2,))
    logs = np.log([densities.get(name, 1.0) for name in found.names])
    slopes = dict(zip(found.names, found(logs)[1], strict=True))
    share = branch / (branch + 1)
    assert slopes == pytest.approx({"stem": 1, "a": share, "b": share, "head": 1}, rel=1e-12)
    found = expectation(model, (2,), ScoreExpectation)
    slopes = dict(zip(found.names, found(logs)[1], strict=True))
    share = 4 * branch / (4 * branch + 2)
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
    found = precrop.expected_output(model, (4,), {"layer": 0.5})
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
