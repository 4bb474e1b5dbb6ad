"""A plan for a network with other ends: no head, another head, inputs of other channels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet34, vgg11

import precrop
from precrop.errors import PlanError
from precrop.models import resnet20
from precrop.plans.plan import Plan

IMAGE = (3, 64, 64)
Change = Callable[[Any], Any]


@pytest.fixture(scope="module")
def half() -> Plan:
    return precrop.plan(resnet18(), IMAGE, params=0.5, macs=0.5)


def changed(change: Change) -> Any:
    network = resnet18()
    change(network)
    return network


def no_head(network: Any) -> None:
    network.fc = nn.Identity()


def sequence(network: Any) -> None:
    network.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 7))


def hidden(network: Any) -> None:
    network.fc = nn.Sequential(nn.Linear(512, 32), nn.BatchNorm1d(32), nn.Linear(32, 7))


def every_place(network: Any) -> None:
    network.avgpool, network.fc = nn.Identity(), nn.Linear(512 * 4, 7)


def grey(network: Any) -> None:
    network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)


def grey_without_head(network: Any) -> None:
    grey(network)
    no_head(network)


def no_last_stage(network: Any) -> None:
    network.layer4, network.fc = nn.Identity(), nn.Linear(256, 7)


@pytest.mark.parametrize(
    ("change", "outputs"),
    [
        (no_head, None),
        (sequence, 7),
        (hidden, 7),
        (every_place, 7),
        (grey, 1000),
        (grey_without_head, None),
        (no_last_stage, 7),
    ],
)
def test_other_ends_are_built_and_counted(change: Change, outputs: int | None, half: Plan) -> None:
    network = changed(change)
    plan = half.for_outputs(network)
    small = half.build(network).eval()
    shape = (network.conv1.in_channels, 64, 64)
    made = small(torch.ones(2, *shape))
    assert made.shape == (2, outputs or half.widths["layer4.1.conv2"][1])
    made.sum().backward()
    whole = precrop.plan(small, shape, params=1.0)
    assert (plan.params, plan.macs) == (whole.base_params, whole.base_macs)
    original = precrop.plan(network, shape, params=1.0)
    assert (plan.base_params, plan.base_macs) == (original.base_params, original.base_macs)
    inner = half.widths.keys() & plan.widths.keys() - {"conv1", "fc"}
    assert all(plan.widths[name] == half.widths[name] for name in inner)
    assert Plan.from_json(plan.to_json()) == plan
    assert "Planned with other ends" in str(plan)
    assert same_state(plan.build(network), small)


def same_state(one: nn.Module, other: nn.Module) -> bool:
    pair = one.state_dict(), other.state_dict()
    return pair[0].keys() == pair[1].keys() and all(
        torch.equal(value, pair[1][name]) for name, value in pair[0].items()
    )


def test_what_is_left_computes_the_same(half: Plan) -> None:
    network = resnet18().eval()
    small: Any = half.build(network).eval()
    no_head(network)
    features = half.build(network).eval()
    images = torch.randn(2, *IMAGE)
    assert torch.equal(small.fc(features(images)), small(images))


def test_a_classifier_of_several_layers_is_replaced() -> None:
    plan = precrop.plan(vgg11(), IMAGE, params=0.3)
    network = vgg11()
    network.classifier[6] = nn.Linear(4096, 5)
    assert plan.build(network)(torch.ones(1, *IMAGE)).shape == (1, 5)
    network.classifier = nn.Sequential(nn.Linear(512 * 49, 5))
    small: Any = plan.build(network)
    assert small(torch.ones(1, *IMAGE)).shape == (1, 5)
    assert small.classifier[0].in_features == 49 * plan.widths["features.18"][1]


def test_streams_of_their_own_widths() -> None:
    plan = precrop.plan(resnet20(), (3, 32, 32), params=0.4, residual="crop")
    network = resnet20()
    network.fc = nn.Identity()  # type: ignore[assignment]
    small = plan.build(network)
    assert plan.streams
    assert small(torch.ones(2, 3, 32, 32)).dim() == 2
    assert plan.for_outputs(network).params == sum(p.numel() for p in small.parameters())


class Fixed(nn.Module):
    """A head whose code says how many channels it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(512, 7)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.view(-1, 512))
        return out


def test_a_head_that_cannot_be_cropped_is_refused(half: Plan) -> None:
    def fixed(network: Any) -> None:
        network.fc = Fixed()

    with pytest.raises(PlanError, match="plan this one anew") as caught:
        half.build(changed(fixed))
    assert "\n" not in str(caught.value)


def narrow_stem(network: Any) -> None:
    network.conv1 = nn.Conv2d(3, 32, 7, 2, 3, bias=False)


def other_block(network: Any) -> None:
    network.layer2[0].conv1 = nn.Conv2d(64, 100, 3, 2, 1, bias=False)


def other_layer(network: Any) -> None:
    network.layer1 = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))


def moved(network: Any) -> None:
    network.stages, network.layer4, network.fc = network.layer4, nn.Identity(), nn.Identity()


@pytest.mark.parametrize("change", [narrow_stem, other_block, other_layer, moved])
def test_another_network_is_none_with_other_ends(change: Change, half: Plan) -> None:
    with pytest.raises(PlanError, match="for another network"):
        half.build(changed(change))


def test_a_deeper_or_shallower_network_is_refused(half: Plan) -> None:
    deep = precrop.plan(resnet34(), IMAGE, params=0.5)
    for plan, network in ((half, resnet34()), (deep, resnet18())):
        with pytest.raises(PlanError, match="for another network"):
            plan.build(network)
