"""`precrop.count` against PyTorch's own counter, and masks against sums by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.models import cifar_mobilenet_v2, cifar_vgg16_bn, resnet20
from precrop.zoo import load_model
from tests.planning import counted_macs, counted_params

IMAGE = (3, 32, 32)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (resnet20, IMAGE),
    "cifar_vgg16_bn": (cifar_vgg16_bn, IMAGE),
    "cifar_mobilenet_v2": (cifar_mobilenet_v2, IMAGE),
    "squeezenet1_1": (lambda: load_model("squeezenet1_1", {}), (3, 64, 64)),
    "googlenet": (lambda: load_model("googlenet", {}), (3, 64, 64)),
    "resnext50_32x4d": (lambda: load_model("resnext50_32x4d", {}), (3, 64, 64)),
    "densenet121": (lambda: load_model("densenet121", {}), (3, 64, 64)),
    "vit_b_16": (lambda: load_model("vit_b_16", {"image_size": 32}), (3, 32, 32)),
    "timm:gernet_s": (lambda: load_model("timm:gernet_s", {}), (3, 64, 64)),
    "transposed": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 2)), IMAGE),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_are_those_of_pytorch(name: str) -> None:
    build, shape = NETWORKS[name]
    model = build()
    count = precrop.count(model, shape)
    assert count.costs == {"params": counted_params(model), "macs": counted_macs(model, shape)}
    parameters = dict(model.named_parameters())
    assert all(layer.weights == parameters[layer.weight].numel() for layer in count.layers)
    assert sum(layer.macs for layer in count.layers) <= count.macs


def test_a_plan_says_the_same() -> None:
    model = resnet20()
    plan = precrop.plan(model, IMAGE, params=0.5)
    assert precrop.count(model, IMAGE).costs == {"params": plan.base_params, "macs": plan.base_macs}
    built = precrop.count(plan.build(model), IMAGE)
    assert built.costs == {"params": plan.params, "macs": plan.macs}
    widths = {layer.name: (layer.in_channels, layer.out_channels) for layer in built.layers}
    assert widths == plan.widths


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 16, 5)
    )


def test_masks_against_sums_by_hand() -> None:
    conv = torch.ones(6, 2, 3, 3, dtype=torch.bool)
    conv[0] = False  # 18 weights, each of which 4 x 4 pixels are multiplied by
    bias = torch.tensor([True, False, False, True, True])
    count = precrop.count(small(), (2, 4, 4), masks={"0.weight": conv, "3.bias": bias})
    assert count.params == (108 - 18) + 6 + 12 + 480 + 3
    assert [layer.weights for layer in count.layers] == [90, 480]
    assert [layer.macs for layer in count.layers] == [90 * 16, 480]
    assert count.macs == 90 * 16 + 480


@pytest.mark.parametrize("granularity", ["weight", "kernel", "filter", "channel"])
def test_masks_of_any_granularity(granularity: str) -> None:
    """Every weight of a layer is used equally often, in depthwise and strided ones too."""
    model = cifar_mobilenet_v2()
    dense = precrop.count(model, IMAGE)
    shares = {layer.name: 0.3 for layer in dense.layers}
    masks = precrop.masks(model, shares, granularity)
    masked = precrop.count(model, IMAGE, masks=masks)
    for before, after in zip(dense.layers, masked.layers, strict=True):
        kept = int(masks[before.weight].sum())
        assert after.weights == kept
        assert after.macs * before.weights == before.macs * kept
    gone = sum(int((~mask).sum()) for mask in masks.values())
    assert masked.params == dense.params - gone


def test_masked_filters_count_like_a_narrower_layer() -> None:
    kept = torch.zeros(6, 2, 3, 3, dtype=torch.bool)
    kept[:4] = True
    narrow = nn.Conv2d(2, 4, 3, bias=False)
    wide = nn.Conv2d(2, 6, 3, bias=False)
    masked = precrop.count(wide, (2, 9, 9), masks={"weight": kept})
    assert masked.costs == precrop.count(narrow, (2, 9, 9)).costs


def test_masks_that_are_applied() -> None:
    model = resnet20()
    dense = precrop.count(model, IMAGE)
    masks = precrop.masks(model, {layer.name: 0.1 for layer in dense.layers})
    masked = precrop.count(model, IMAGE, masks=masks)
    precrop.apply_masks(model, masks)
    assert precrop.count(model, IMAGE).costs == dense.costs
    assert precrop.count(model, IMAGE, masks=masks).costs == masked.costs


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


@pytest.mark.parametrize("name", ["first.weight", "second.weight"])
def test_a_weight_of_two_layers_counts_once(name: str) -> None:
    mask = torch.eye(4, dtype=torch.bool)
    assert precrop.count(Tied(), (4,)).costs == {"params": 16, "macs": 32}
    assert precrop.count(Tied(), (4,), masks={name: mask}).costs == {"params": 4, "macs": 8}


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"0.weigth": torch.ones(1).bool()}, "no parameter '0.weigth'; did you mean 0.weight"),
        ({"0.weight": torch.ones(6, 2).bool()}, "must be bool of shape"),
        ({"0.weight": torch.ones(6, 2, 3, 3)}, "must be bool of shape"),
    ],
)
def test_masks_that_fit_nothing(masks: dict[str, Tensor], message: str) -> None:
    with pytest.raises(precrop.PrecropError, match=message):
        precrop.count(small(), (2, 4, 4), masks=masks)


def test_the_model_is_only_looked_at() -> None:
    model = small().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    precrop.count(model, (2, 4, 4))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_examples_instead_of_a_shape() -> None:
    by_shape = precrop.count(small(), (2, 4, 4))
    assert precrop.count(small(), example_inputs=torch.zeros(3, 2, 4, 4)) == by_shape


def test_views() -> None:
    count = precrop.count(small(), (2, 4, 4))
    text = str(count)
    assert "1,728" in text  # the convolution's MACs
    assert f"{count.params:,}" in text
    assert "in no layer" in text  # the batch norm and the biases
    frame = count.to_frame()
    assert list(frame["name"]) == ["0", "3"]
    assert int(frame["macs"].sum()) == count.macs
    content = count.to_json()
    assert content["params"] == count.params
    assert [layer["weight"] for layer in content["layers"]] == ["0.weight", "3.weight"]


def test_a_deep_network_prints_a_screenful() -> None:
    assert len(str(precrop.count(load_model("densenet121", {}), (3, 64, 64))).splitlines()) <= 30


def test_masks_without_values_are_one_line() -> None:
    with torch.device("meta"):
        model = resnet20()
    masks = {"conv1.weight": torch.empty(16, 3, 3, 3, dtype=torch.bool, device="meta")}
    with pytest.raises(precrop.PrecropError, match="the mask of conv1.weight has no values"):
        precrop.count(model, (3, 8, 8), masks=masks)
    scores = {"conv1.weight": torch.empty(16, 3, 3, 3, device="meta")}
    with pytest.raises(precrop.PrecropError, match="the score of conv1.weight has no values"):
        precrop.masks(model, {"conv1": 0.5}, "weight", scores=scores)
