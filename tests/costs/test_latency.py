"""What operations have to do, and the latency that a profile makes of it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import precrop
from precrop.costs.batches import follow
from precrop.costs.latency import FEMTOSECONDS, READERS, amounts, latency, predicted_seconds
from precrop.costs.profiles import DeviceProfile, roofline
from precrop.costs.work import SILENT, Work, each_call
from precrop.deployment.operations import eager_pass
from precrop.deployment.setting import Setting
from precrop.models import cifar_efficientnet_b0, cifar_mobilenet_v2, cifar_vgg16_bn, resnet20
from precrop.read.inputs import Inputs
from precrop.read.lifetimes import Lifetimes
from precrop.read.lower import lower
from precrop.read.network import Network, read_network
from precrop.solve.structure import Cost, Structure
from tests.networks import BLOCKS, SHAPE, Net, networks, small

IMAGE = (3, 32, 32)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": resnet20,
    "vgg": cifar_vgg16_bn,
    "mobilenet": cifar_mobilenet_v2,
    "efficientnet": cifar_efficientnet_b0,
}

KERNEL = "torch attention"
"""A block that is one operation on real tensors, and is counted by its steps."""


def profile(runtime: str, coefficients: Mapping[str, Mapping[str, float]]) -> DeviceProfile:
    return DeviceProfile("made up", "cpu", runtime, 1, coefficients)


VARIED = {
    "other": {"calls": 3e-6, "reads": 2.1e-10, "writes": 3.3e-10, "weights": 1.7e-10},
    "conv": {"calls": 9e-6, "reads": 1e-11, "macs": 1.9e-11},
    "depthwise": {"calls": 7e-6, "writes": 5e-10, "macs": 8.3e-11},
    "linear": {"calls": 4e-6, "weights": 6.1e-11, "macs": 0.0},
    "view": {"calls": 1e-7},
}


def reading(model: nn.Module, shape: Any, batch: int = 1) -> tuple[Network, Lifetimes]:
    return follow(read_network(model, Inputs(shape)), batch)


def cost_of(network: Network, lives: Lifetimes, device: DeviceProfile) -> tuple[Structure, Cost]:
    structure = lower(network, {"latency": latency(device, lives)}).structure
    cost = structure.costs["latency"]
    assert isinstance(cost, Cost)
    return structure, cost


# --- work ---------------------------------------------------------------------------------------


def counts(work: Work) -> tuple[str, int, int, int, int, int]:
    found = amounts(work)
    return (work.kind, *(int(found[name]) for name in found))  # type: ignore[return-value]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        # kind, calls, bytes read, written, of weights; multiply-accumulates
        (nn.Conv2d(3, 8, 3), (3, 9, 9), ("stem", 1, 972, 1568, 896, 10584)),
        (nn.Conv2d(6, 8, 3, bias=False), (6, 9, 9), ("conv", 1, 1944, 1568, 1728, 21168)),
        (nn.Conv2d(6, 8, 1), (6, 5, 5), ("pointwise", 1, 600, 800, 224, 1200)),
        (nn.Conv2d(6, 6, 3, groups=6), (6, 5, 5), ("depthwise", 1, 600, 216, 240, 486)),
        (nn.Conv2d(6, 12, 3, groups=6), (6, 5, 5), ("depthwise", 1, 600, 432, 480, 972)),
        (nn.Conv2d(6, 4, 3, groups=2), (6, 5, 5), ("unblocked", 1, 600, 144, 448, 972)),
        (nn.Conv2d(32, 4, 1, groups=2), (32, 2, 1), ("grouped", 1, 256, 32, 272, 128)),
        (nn.Conv1d(6, 4, 3), (6, 7), ("conv", 1, 168, 80, 304, 360)),
        (nn.ConvTranspose2d(6, 4, 2, 2), (6, 3, 3), ("transposed", 1, 216, 576, 400, 864)),
        (nn.Linear(6, 4), (6,), ("linear", 1, 24, 16, 112, 24)),
        (nn.Linear(6, 4, bias=False), (6,), ("linear", 1, 24, 16, 96, 24)),
        (nn.BatchNorm2d(6), (6, 5, 5), ("native_batch_norm", 1, 600, 600, 96, 0)),
        (nn.ReLU(), (6, 5, 5), ("relu", 1, 600, 600, 0, 0)),
        (nn.MaxPool2d(2), (6, 4, 4), ("max_pool2d_with_indices", 1, 384, 288, 0, 0)),
        (nn.Flatten(), (6, 5, 5), ("view", 1, 0, 0, 0, 0)),
    ],
)
def test_work_by_hand(
    layer: nn.Module, shape: tuple[int, ...], expected: tuple[Any, ...], batch: int
) -> None:
    work = each_call(*reading(layer, shape, batch))[-1]
    kind, calls, reads, writes, weights, macs = expected
    grown = (reads * batch, writes * batch, weights, macs * batch)
    assert counts(work) == (kind, calls, *grown)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("block", sorted(set(BLOCKS) - {KERNEL}))
def test_work_is_what_runs(block: str, batch: int) -> None:
    model = small(block).eval()
    works = each_call(*reading(model, SHAPE, batch))
    samples, _ = eager_pass(model, Inputs(SHAPE), Setting(batch=batch), 1, 1)
    samples = [sample for sample in samples if sample.kind not in SILENT]
    assert [(work.kind, amounts(work)) for work in works] == [
        (sample.kind, sample.amounts) for sample in samples
    ]


@pytest.mark.parametrize("name", ["resnet20", "mobilenet"])
def test_channels_are_filled_up_as_in_what_runs(name: str) -> None:
    model = NETWORKS[name]().eval()
    works = each_call(*reading(model, IMAGE, 2))
    samples, _ = eager_pass(model, Inputs(IMAGE), Setting(batch=2), 1, 16)
    samples = [sample for sample in samples if sample.kind not in SILENT]
    assert [amounts(work, 16) for work in works] == [sample.amounts for sample in samples]


class Auxiliary(nn.Module):
    """Runs a further head in training, so that it is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.aux = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.body(x).mean((2, 3))
        return (self.head(x), self.aux(x)) if self.training else self.head(x)


def test_weights_are_not_activations_whatever_training_runs() -> None:
    works = {work.kind: counts(work) for work in each_call(*reading(Auxiliary(), (3, 4, 4)))}
    assert works["linear"] == ("linear", 1, 16, 20, 100, 20)


class Scarce(nn.Module):
    """Maps with as many elements as a layer has weights or biases are activations all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 9, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu()


def test_activations_are_not_weights_whatever_their_size() -> None:
    works = each_call(*reading(Scarce(), (4, 2, 2)))
    assert [counts(work) for work in works] == [
        ("pointwise", 1, 64, 144, 144, 144),
        ("relu", 1, 144, 144, 0, 0),
    ]


@pytest.mark.parametrize("runtime", READERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_all_macs_are_counted_once(name: str, runtime: str) -> None:
    model = NETWORKS[name]()
    works = READERS[runtime](*reading(model, IMAGE))
    plan = precrop.plan(model, IMAGE, params=1.0)
    assert sum(amounts(work)["macs"] for work in works) == plan.base_macs
    thrice = READERS[runtime](*reading(model, IMAGE, 3))
    assert sum(amounts(work)["macs"] for work in thrice) == 3 * plan.base_macs


# --- latency ------------------------------------------------------------------------------------


def assert_sum_of_work(
    network: Network, lives: Lifetimes, device: DeviceProfile, found: int
) -> None:
    """The cost is the sum over all works, but for each product's rounding to a femtosecond."""
    exact = rounding = 0.0
    for work in READERS[device.runtime](network, lives):
        for feature, rate in device.of(work.kind).items():
            for product in work.products(feature):
                amount = float(amounts(work)[feature]) if feature == "calls" else None
                size = np.prod([sum(a.size * n if a else n for a, n in x) for x in product.axes])
                exact += rate * (amount if amount is not None else product.coefficient * size)
                rounding += 0.5 * float(size)
    assert abs(found - exact * FEMTOSECONDS) <= rounding + 1e-9 * found
    assert predicted_seconds(device, network, lives) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("runtime", READERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_built_networks_own_work_takes_what_was_planned(name: str, runtime: str) -> None:
    device, model = profile(runtime, VARIED), NETWORKS[name]()
    for batch in (1, 4):
        plan = precrop.plan(model, IMAGE, latency=0.6, device_profile=device, batch_size=batch)
        budget = plan.budgets["latency"]
        assert budget.used <= budget.limit < budget.base
        assert_sum_of_work(*reading(plan.build(model), IMAGE, batch), device, budget.used)
        assert_sum_of_work(*reading(model, IMAGE, batch), device, budget.base)


@pytest.mark.parametrize("runtime", READERS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(net=networks(), data=st.data())
def test_wider_never_is_faster(runtime: str, net: Net, data: st.DataObject) -> None:
    structure, cost = cost_of(*reading(net, SHAPE), profile(runtime, VARIED))
    assert all(type(value) is int and value >= 0 for value in cost.terms.values())
    narrow = [data.draw(st.integers(1, group.units)) for group in structure.groups]
    wide = [data.draw(st.integers(n, 2 * n)) for n in narrow]
    assert 0 < cost(narrow) <= cost(wide)


def test_only_launches_count_calls() -> None:
    device = profile("eager", {"other": {"calls": 1e-6}})
    network, lives = reading(small("residual"), SHAPE)
    _, cost = cost_of(network, lives, device)
    count = len(each_call(network, lives))
    assert cost.terms == {(): count * 10**9}
    assert predicted_seconds(device, network, lives) == pytest.approx(count * 1e-6)


def test_a_cost_of_nothing() -> None:
    device = profile("eager", {"other": {}})
    _, cost = cost_of(*reading(small("conv"), SHAPE), device)
    assert cost([1, 1]) == 0
    message = "latency=0.5 of 0 leaves nothing"
    with pytest.raises(precrop.BudgetError, match=message):
        precrop.plan(small("conv"), SHAPE, latency=0.5, device_profile=device)


@pytest.mark.parametrize("batch", [2, 5])
def test_batches(batch: int) -> None:
    rates = {"reads": 1e-9, "writes": 1e-9, "macs": 1e-9}
    for runtime in READERS:
        moving = profile(runtime, {"other": rates})
        model = small("squeeze excite")
        single, several = (cost_of(*reading(model, SHAPE, n), moving) for n in (1, batch))
        units = single[0].units
        assert several[1](units) == batch * single[1](units)
        still = profile(runtime, {"other": {"calls": 1e-6, "weights": 1e-9}})
        same = [cost_of(*reading(model, SHAPE, n), still)[1](units) for n in (1, batch)]
        assert same[0] == same[1]


@pytest.mark.parametrize("runtime", READERS)
def test_what_filling_up_adds(runtime: str) -> None:
    """Nothing where channels are multiples of the step, more and more between them."""
    device = roofline(1e11, 1e10, runtime=runtime, step=8)

    def both(width: int) -> tuple[float, float]:
        model = nn.Sequential(
            nn.Conv2d(3, width, 3, bias=False), nn.ReLU(), nn.Conv2d(width, 8, 3, bias=False)
        )
        network, lives = reading(model, SHAPE)
        structure, cost = cost_of(network, lives, device)
        return predicted_seconds(device, network, lives), cost(structure.units) / FEMTOSECONDS

    for width in (8, 16, 24):
        assert both(width)[0] == pytest.approx(both(width)[1], rel=1e-9)
    assert both(17)[0] == pytest.approx(both(24)[0], rel=1e-9)
    assert both(17)[1] < both(24)[1]


def test_networks_of_other_types_move_more_bytes() -> None:
    half = each_call(*reading(small("conv").half(), SHAPE))
    full = each_call(*reading(small("conv"), SHAPE))
    for a, b in zip(half, full, strict=True):
        assert 2 * amounts(a)["reads"] == amounts(b)["reads"]
        assert amounts(a)["macs"] == amounts(b)["macs"]
