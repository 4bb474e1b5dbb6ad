"""The CIFAR networks: sizes, costs and what their docstrings claim."""

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import precrop
from precrop import models
from precrop.models.resnet import PadShortcut

ALL = [getattr(models, name) for name in models.__all__]
RESNETS = [factory for factory in ALL if factory.__name__.startswith("resnet")]
SMALL = [factory for factory in ALL if factory is not models.resnet1202]

Factory = Callable[..., nn.Module]


def params(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def on_meta(factory: Factory, **kwargs: object) -> nn.Module:
    with torch.device("meta"):
        return factory(**kwargs)


def name_of(factory: Factory) -> str:
    return factory.__name__


def macs(network: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.empty(1, 3, 32, 32, device="meta"))
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("factory", ALL, ids=name_of)
def test_docstring_states_the_parameters(factory: Factory) -> None:
    stated = re.findall(r"\d[\d,]{6,}", factory.__doc__ or "")
    counts = [int(text.replace(",", "")) for text in stated]
    assert counts[0] == params(on_meta(factory))
    if factory in RESNETS:
        assert counts[1] == params(on_meta(factory, shortcut="pad"))


def test_resnet20_option_a_as_published() -> None:
    network = on_meta(models.resnet20, shortcut="pad")
    weights = [m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sum(weights) == 268_336
    assert len(weights) == 20
    assert macs(network) == pytest.approx(40.55e6, rel=1e-4)


def test_vgg16_macs() -> None:
    assert macs(on_meta(models.cifar_vgg16_bn)) == pytest.approx(313.2e6, rel=1e-3)


@pytest.mark.parametrize(
    ("factory", "sibling"),
    [
        (models.cifar_mobilenet_v2, "mobilenet_v2"),
        (models.cifar_efficientnet_b0, "efficientnet_b0"),
    ],
    ids=["mobilenet_v2", "efficientnet_b0"],
)
def test_equals_torchvision_with_two_strides_fewer(factory: Factory, sibling: str) -> None:
    builder = pytest.importorskip("torchvision.models").get_model_builder(sibling)
    ours, theirs = on_meta(factory), on_meta(builder, num_classes=10)
    strided = [m for m in theirs.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    for convolution in strided[:2]:
        convolution.stride = (1, 1)
    assert macs(ours) == macs(theirs)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]


@pytest.mark.parametrize("factory", SMALL, ids=name_of)
def test_trains_and_infers(factory: Factory) -> None:
    network = factory(num_classes=7)
    images = torch.randn(2, 3, 32, 32)
    network.train()(images).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    with torch.no_grad():
        assert network.eval()(images).shape == (2, 7)


@pytest.mark.parametrize("factory", SMALL, ids=name_of)
def test_activations_neither_vanish_nor_explode(factory: Factory) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        scale = factory().train()(torch.randn(8, 3, 32, 32)).std()
    assert 1e-2 < scale < 1e2


@pytest.mark.parametrize(("channels", "padding"), [(32, (8, 8)), (19, (1, 2)), (16, (0, 0))])
def test_pad_shortcut_pads_both_sides(channels: int, padding: tuple[int, int]) -> None:
    x = torch.rand(1, 16, 4, 4) + 1
    out = PadShortcut()(x, channels)
    assert out.shape == (1, channels, 2, 2)
    before, after = padding
    assert torch.equal(out[:, before : channels - after], x[:, :, ::2, ::2])
    assert out[:, :before].eq(0).all()
    assert out[:, channels - after :].eq(0).all()


def test_pad_shortcut_of_a_narrower_stage_leaves_channels_out() -> None:
    x = torch.rand(1, 16, 4, 4)
    assert torch.equal(PadShortcut()(x, 13), x[:, 2:15, ::2, ::2])


def test_unknown_shortcut_is_refused() -> None:
    with pytest.raises(ValueError, match="'projection' or 'pad'"):
        models.resnet20(shortcut="option-b")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["resnet20", "cifar_vgg16_bn", "cifar_mobilenet_v2", "cifar_efficientnet_b0"]
)
def test_two_initialisations(name: str) -> None:
    factory = getattr(models, name)
    for init in ("fan_out", "fan_in"):
        torch.manual_seed(0)
        for module in factory(init=init).modules():
            if isinstance(module, nn.Linear):
                uniform, normal = module.in_features**-0.5, (2 / module.in_features) ** 0.5
                most = float(module.weight.detach().abs().max())
                assert most <= uniform if init == "fan_out" else most > 2 * normal
                assert not module.bias.any()
            elif isinstance(module, nn.Conv2d):
                outputs, inputs, *window = module.weight.shape
                fan = (outputs if init == "fan_out" else inputs) * math.prod(window)
                deviation, error = module.weight.detach().std(), (2 * module.weight.numel()) ** -0.5
                assert float(deviation) == pytest.approx((2 / fan) ** 0.5, rel=5 * error)
    with pytest.raises(ValueError, match="'fan_out' or 'fan_in'"):
        factory(init="xavier")


def test_vgg16_ends_in_an_average_pool() -> None:
    network = models.cifar_vgg16_bn().eval()
    pools = [m for m in network.modules() if isinstance(m, nn.MaxPool2d | nn.AvgPool2d)]
    assert [type(pool) for pool in pools] == [nn.MaxPool2d] * 4 + [nn.AvgPool2d]
    with torch.no_grad():
        images = torch.randn(2, 3, 32, 32)
        maps = network.features[:-1](images)
        assert maps.shape == (2, 512, 2, 2)
        torch.testing.assert_close(network(images), network.classifier(maps.mean((2, 3))))


@pytest.mark.filterwarnings("ignore:.*jit.script.* is deprecated")
@pytest.mark.parametrize(
    ("factory", "options"),
    [
        *((factory, {}) for factory in SMALL if factory is not models.resnet110),
        (models.resnet20, {"shortcut": "pad"}),
    ],
)
def test_networks_are_scripted_cropped_and_not(factory: Factory, options: dict[str, str]) -> None:
    network = factory(**options)
    small = precrop.crop(network, (3, 32, 32), params=0.5, macs=0.5)
    images = torch.randn(2, 3, 32, 32)
    for one in (network.eval(), small.eval()):
        torch.testing.assert_close(torch.jit.script(one)(images), one(images))
