"""The oracle that cannot be fooled: a wide network cropped to the widths of its narrower sibling.

The sibling's weights must fit, give equal outputs, and run through the same operations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pytest
import timm
import torch
import torchvision
from timm.models.res2net import Bottle2neck
from torch import nn
from torchvision.models.densenet import DenseNet
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

import precrop
from precrop import planning as choosing
from precrop.read.inputs import Inputs
from precrop.read.lower import axis_form, lower
from precrop.read.network import Network, read_network
from precrop.read.recording import run
from precrop.solve.structure import Integers

SHAPE = (3, 64, 64)


def regnet(widths: list[int], groups: list[int], se_ratio: float | None) -> nn.Module:
    depths, four = [1, 2, 2, 1], 4
    params = BlockParams(depths, widths, groups, [1.0] * four, [2] * four, se_ratio)
    return RegNet(params)


def sibling_units(network: Network, sibling: nn.Module) -> list[int]:
    """The units at which every parameter has the shape of the sibling's.

    Every axis of every parameter is one linear equation; they are solved one unknown at a time.
    """
    lowered = lower(network)
    structure, ties = lowered.structure, lowered.ties
    index = {tie: i for i, tie in enumerate(ties)}
    shapes = {name: p.shape for name, p in sibling.named_parameters()}
    equations = [
        (axis_form(axis, index), size)
        for name, axes in network.known.tensors.items()
        if name in shapes
        for axis, size in zip(axes, shapes[name], strict=True)
    ]
    known: dict[int, int] = {}
    while len(known) < len(structure.groups):
        before = len(known)
        for form, size in equations:
            unknown = [key[0] for key in form if key and key[0] not in known]
            if len(unknown) == 1:
                rest = sum(n * (known[key[0]] if key else 1) for key, n in form.items()
                           if not key or key[0] in known)  # fmt: skip
                known[unknown[0]], remainder = divmod(size - rest, form[unknown[0],])
                assert remainder == 0, structure.groups[unknown[0]]
        assert len(known) > before, "some widths cannot be told from the sibling"
    for form, size in equations:
        assert size == sum(n * (known[key[0]] if key else 1) for key, n in form.items())
    return [known[i] for i in range(len(known))]


def forced(
    model: nn.Module, sibling: nn.Module, shape: tuple[int, ...], **options: Any
) -> precrop.Plan:
    """A plan with the sibling's widths, made as any other plan."""
    scale = options.get("groups") == "scale"
    units = sibling_units(read_network(model, Inputs(shape), scale_groups=scale), sibling)
    calls = []

    def round_units(*args: Any) -> Integers:
        calls.append(args)
        return np.array(units)

    with mock.patch.object(choosing, "round_units", round_units):
        plan = precrop.plan(model, shape, params=1.0, **options)
    assert len(calls) == 1, "the network was not understood: something was held"
    return plan


def operations(model: nn.Module, x: torch.Tensor) -> list[Any]:
    trace = run(model, [x], {}, None)
    assert trace.error is None
    return [(call.op, call.shapes) for call in trace.calls]


def check_sibling(
    wide: nn.Module, narrow: nn.Module, shape: tuple[int, ...], **options: Any
) -> None:
    plan = forced(wide, narrow, shape, **options)
    cropped = plan.build(wide).eval()
    narrow.eval()
    assert plan.params == sum(p.numel() for p in narrow.parameters())
    cropped.load_state_dict(narrow.state_dict(), strict=True)
    x = torch.randn(2, *shape)
    with torch.no_grad():
        ours, theirs = cropped(x), narrow(x)
    assert theirs.std() > 0
    assert torch.equal(ours, theirs)
    assert operations(cropped, x) == operations(narrow, x)


@dataclass(frozen=True)
class Pair:
    """Two networks of one structure, the wide one first."""

    wide: Callable[[], nn.Module]
    narrow: Callable[[], nn.Module]
    options: tuple[tuple[str, Any], ...] = ()


def scaled(make: Callable[..., nn.Module], wide: Any, narrow: Any, **options: Any) -> Pair:
    """A pair that differs in some arguments."""
    return Pair(partial(make, **wide), partial(make, **narrow), tuple(options.items()))


def named(wide: str, narrow: str) -> Pair:
    return Pair(partial(timm.create_model, wide), partial(timm.create_model, narrow))


tv = torchvision.models
resnet = partial(ResNet, Bottleneck, [1, 2, 1, 1])
densenet = partial(DenseNet, block_config=(2, 3, 3, 2))
res2net = partial(timm.models.resnet.ResNet, Bottle2neck, [2, 1, 2, 1], block_args={"scale": 4})

RELU = partial(nn.ReLU, inplace=True)  # the activation of FasterNet-T2

PAIRS = {
    "MobileNetV2 1.4 to 1.0": scaled(tv.mobilenet_v2, {"width_mult": 1.4}, {"width_mult": 1.0}),
    "Wide ResNet-50-2 to ResNet-50": Pair(tv.wide_resnet50_2, tv.resnet50),
    "Res2Net 26w to 14w": scaled(res2net, {"base_width": 26}, {"base_width": 14}),
    "Res2Net 48w to 26w": scaled(res2net, {"base_width": 48}, {"base_width": 26}),
    "EfficientNet-B2 to B1": Pair(tv.efficientnet_b2, tv.efficientnet_b1),
    "RegNetX groups kept": Pair(
        partial(regnet, [48, 96, 192, 384], [24, 24, 48, 48], None),
        partial(regnet, [32, 64, 128, 320], [16, 16, 32, 40], None),
    ),
    "RegNetY groups kept": Pair(
        partial(regnet, [48, 96, 192, 384], [24, 24, 48, 48], 0.25),
        partial(regnet, [32, 64, 128, 320], [16, 16, 32, 40], 0.25),
    ),
    "RegNetX groups scaled": Pair(
        partial(regnet, [48, 96, 192, 384], [16, 16, 16, 16], None),
        partial(regnet, [32, 64, 160, 320], [16, 16, 16, 16], None),
        (("groups", "scale"),),
    ),
    "ResNeXt 32x8d to 32x4d": scaled(
        partial(resnet, groups=32), {"width_per_group": 8}, {"width_per_group": 4}
    ),
    "ResNeXt 32x4d to 16x4d": scaled(
        partial(resnet, width_per_group=4), {"groups": 32}, {"groups": 16}, groups="scale"
    ),
    "DenseNet growth 32 to 24": scaled(
        densenet,
        {"growth_rate": 32, "num_init_features": 64},
        {"growth_rate": 24, "num_init_features": 48},
    ),
    "ShuffleNetV2 1.5 to 1.0": Pair(tv.shufflenet_v2_x1_5, tv.shufflenet_v2_x1_0),
    "MNASNet 1.3 to 0.75": Pair(tv.mnasnet1_3, tv.mnasnet0_75),
    "MobileNetV3 1.0 to 0.75": named("mobilenetv3_large_100", "mobilenetv3_large_075"),
    "MixNet-L to M": named("mixnet_l", "mixnet_m"),
    "ReXNet 1.3 to 1.0": named("rexnet_130", "rexnet_100"),
    "GhostNet 1.3 to 1.0": named("ghostnet_130", "ghostnet_100"),
    "FasterNet T2 to T1": Pair(
        partial(timm.create_model, "fasternet_t2"),
        partial(timm.create_model, "fasternet_t1", act_layer=RELU),
    ),
    "ConvNeXt pico to femto": named("convnext_pico", "convnext_femto"),
    "HRNet w30 to w18": named("hrnet_w30", "hrnet_w18"),
}

LONG = {
    "FasterNet T2 to T1",
    "HRNet w30 to w18",
    "GhostNet 1.3 to 1.0",
    "MixNet-L to M",
    "MobileNetV3 1.0 to 0.75",
    "ReXNet 1.3 to 1.0",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.matrix] if n in LONG else []) for n in PAIRS]
)
def test_sibling(name: str) -> None:
    pair = PAIRS[name]
    torch.manual_seed(0)
    check_sibling(pair.wide(), pair.narrow(), SHAPE, **dict(pair.options))


def test_every_width_is_found_from_the_sibling() -> None:
    network = read_network(ResNet(BasicBlock, [1, 1, 1, 1]), Inputs(SHAPE))
    structure = lower(network).structure
    assert sibling_units(network, ResNet(BasicBlock, [1, 1, 1, 1])) == structure.units
