"""A built network is an ordinary one: it trains, is saved, copied, exported, compiled, cropped."""

import copy
import io
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import precrop
from precrop.models import cifar_mobilenet_v2, cifar_vgg16_bn, resnet20
from tests.networks import BLOCKS, SHAPE, small
from tests.planning import counted_params

IMAGE = (3, 32, 32)

CROPPED_STREAMS = "resnet20 with cropped streams"

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    CROPPED_STREAMS: partial(resnet20, shortcut="projection"),
    "resnet20": resnet20,
    "cifar_vgg16_bn": cifar_vgg16_bn,
    "cifar_mobilenet_v2": cifar_mobilenet_v2,
    "timm res2net": partial(
        timm.create_model, "res2net50_26w_4s", layers=(1, 1, 1, 1), num_classes=10
    ),
    "timm regnety": partial(timm.create_model, "regnety_002", num_classes=10),
    "torchvision shufflenet": partial(torchvision.models.shufflenet_v2_x0_5, num_classes=10),
}


@pytest.fixture(scope="module", params=NETWORKS)
def cropped(request: pytest.FixtureRequest) -> tuple[nn.Module, precrop.Plan]:
    """A network at half its cost, and its plan."""
    torch.manual_seed(0)
    model = NETWORKS[request.param]()
    residual: Any = "crop" if request.param == CROPPED_STREAMS else "tie"
    plan = precrop.plan(model, IMAGE, params=0.5, macs=0.5, residual=residual)
    return plan.build(model), plan


@pytest.fixture
def built(cropped: tuple[nn.Module, precrop.Plan]) -> nn.Module:
    return copy.deepcopy(cropped[0])


def outputs(model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        result: torch.Tensor = model.eval()(torch.randn(2, *IMAGE, generator=generator))
    return result


def test_trains(built: nn.Module) -> None:
    """A batch is learnt by heart a little: the loss falls and stays finite."""
    torch.manual_seed(0)
    x, y = torch.randn(16, *IMAGE), torch.randint(10, (16,))
    optimiser = torch.optim.SGD(built.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(built.train()(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(torch.tensor(losses).isfinite())
    assert losses[-1] < losses[0]


def test_saved_and_loaded(built: nn.Module, cropped: tuple[nn.Module, precrop.Plan]) -> None:
    """A state_dict on disk fits a network that is built anew from the plan."""
    buffer = io.BytesIO()
    torch.save(built.state_dict(), buffer)
    buffer.seek(0)
    fresh = copy.deepcopy(cropped[0])
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    assert not torch.equal(outputs(fresh), outputs(built))
    fresh.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    assert torch.equal(outputs(fresh), outputs(built))


def test_copied(built: nn.Module) -> None:
    twin = copy.deepcopy(built)
    assert torch.equal(outputs(twin), outputs(built))
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    assert not torch.equal(next(twin.parameters()), next(built.parameters()))


def test_exported(built: nn.Module) -> None:
    x = torch.randn(2, *IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own deprecations
        program = torch.export.export(built.eval(), (x,))
    exported: Any = program.module()
    torch.testing.assert_close(exported(x), built(x))


def test_compiled(built: nn.Module) -> None:
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own deprecations
        compiled = torch.compile(built.eval(), backend="eager", fullgraph=True)
        torch.testing.assert_close(outputs(compiled), outputs(built))


def test_planned_again(built: nn.Module, cropped: tuple[nn.Module, precrop.Plan]) -> None:
    plan = precrop.plan(built, IMAGE, params=0.5, macs=0.5)
    assert (plan.base_params, plan.base_macs) == (cropped[1].params, cropped[1].macs)
    smaller = plan.build(built)
    assert counted_params(smaller) == plan.params <= counted_params(built) // 2
    assert outputs(smaller).shape == (2, 10)


def test_says_what_it_is(built: nn.Module) -> None:
    """Its printed form has the new sizes."""
    for module in built.modules():
        if isinstance(module, nn.Conv2d):
            inputs = module.weight.shape[1] * module.groups
            assert f"Conv2d({inputs}, {module.weight.shape[0]}," in repr(module)


TIMM = ["res2net50_26w_4s", "regnety_002", "efficientnet_lite0", "convnext_atto", "densenet121"]


@pytest.mark.parametrize("name", TIMM)
def test_features_and_classifier_of_timm(name: str) -> None:
    model = timm.create_model(name, num_classes=10)
    built: Any = precrop.plan(model, (3, 64, 64), params=0.5).build(model)
    x = torch.randn(2, 3, 64, 64)
    features = built.eval().forward_features(x)
    assert torch.equal(built.forward_head(features), built(x))
    assert features.shape[1] == built.num_features < model.num_features
    built.reset_classifier(7)
    assert built(x).shape == (2, 7)
    built.reset_classifier(0)
    assert built(x).shape == (2, built.head_hidden_size)


def test_feature_info_of_timm() -> None:
    model = timm.create_model("resnet18", num_classes=10)
    built: Any = precrop.plan(model, (3, 64, 64), params=0.5).build(model)
    maps: list[torch.Tensor] = built.forward_intermediates(
        torch.randn(1, 3, 64, 64), intermediates_only=True
    )
    assert [info["num_chs"] for info in built.feature_info] == [m.shape[1] for m in maps]


def test_resnet50_with_every_ratio_one() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet50().eval()
    plan = precrop.plan(model, (3, 64, 64), params=1.0, macs=1.0)
    built = plan.build(model)
    assert plan.params == plan.base_params == counted_params(built)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(built(x), model(x))


@pytest.mark.parametrize(
    "name", ["hierarchy", "mixed", "ghost", "attention", "branching", "shuffle unit"]
)
def test_blocks_that_state_sizes_export(name: str) -> None:
    assert name in BLOCKS
    model = small(name)
    built = precrop.plan(model, SHAPE, params=0.5).build(model).eval()
    x = torch.randn(2, *SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own deprecations
        exported: Any = torch.export.export(built, (x,)).module()
    torch.testing.assert_close(exported(x), built(x))
