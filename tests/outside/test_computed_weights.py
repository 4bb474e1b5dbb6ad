"""Layers whose weight is computed from other tensors are layers as any other: seen and cropped."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
import torch.ao.quantization as quantization
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.parametrize import register_parametrization

import precrop
from precrop.plans.build import fan_scale, resize
from tests.outside.cropping import cropped

SHAPE = (3, 10, 10)
NONE = cast(int, None)  # what PyTorch documents beside a number, but does not annotate


def plain(change: Callable[[Any], Any] = lambda layer: layer) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        change(nn.Conv2d(3, 32, 3)), nn.ReLU(), change(nn.Conv2d(32, 48, 3)), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), change(nn.Linear(48, 6)),
    )  # fmt: skip


class Mirrored(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.flip(-1)) / 2


class Masked(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", (torch.rand_like(weight) > 0.5).float())

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


class Scaled(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(len(weight), *[1] * (weight.dim() - 1)))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale


class Standardised(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        dims = tuple(range(1, weight.dim()))
        deviation, mean = torch.std_mean(weight, dims, keepdim=True)
        return (weight - mean) / (deviation + 1e-5)


class Limited(nn.Module):
    """No filter's norm exceeds one (EEGNet)."""

    def forward(self, weight: Tensor) -> Tensor:
        return torch.renorm(weight, 2, 0, 1.0)


class Turned(nn.Module):
    """Kernels turned by a quarter, as networks that know of rotations have them."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight if weight.dim() == 2 else weight + weight.rot90(1, (2, 3))


class Binary(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return (weight.sign() * weight.abs().mean() - weight).detach() + weight


def parametrised(make: Callable[[Tensor], nn.Module]) -> Callable[[Any], Any]:
    return lambda layer: register_parametrization(layer, "weight", make(layer.weight))


def pruned(layer: Any) -> Any:
    prune.l1_unstructured(layer, "weight", 0.4)
    prune.random_structured(layer, "weight", amount=0.2, dim=0)
    return layer


CHANGES: dict[str, Callable[[Any], Any]] = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm, one length": lambda layer: parametrizations.weight_norm(
        layer, dim=cast(int, None)
    ),
    "old weight_norm": old_weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "old spectral_norm": old_spectral_norm,
    "symmetric": parametrised(lambda _: Mirrored()),
    "masked": parametrised(Masked),
    "scaled": parametrised(Scaled),
    "limited": parametrised(lambda _: Limited()),
    "turned": parametrised(lambda _: Turned()),
    "standardised": parametrised(lambda _: Standardised()),
    "binary": parametrised(lambda _: Binary()),
    "pruned": pruned,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("name", CHANGES)
def test_cropped_as_the_plain_network_beside_it(name: str) -> None:
    beside = precrop.plan(plain(), SHAPE, params=0.5, macs=0.5)
    plan, built = cropped(plain(CHANGES[name]), SHAPE, ["0", "2"])
    assert not plan.frozen
    for layer, (inputs, outputs) in beside.widths.items():
        assert plan.widths[layer] == pytest.approx((inputs, outputs), abs=1)
        module = built[int(layer)]
        assert module.weight.shape[:2] == plan.widths[layer][::-1]
        stated = (module.in_channels, module.out_channels) if int(layer) < 6 else None
        assert stated in (plan.widths[layer], None)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize(
    "name", ["weight_norm", "weight_norm, one length", "old weight_norm", "masked", "pruned"]
)
def test_computed_weights_are_rescaled_slices_once(name: str) -> None:
    model = plain(CHANGES[name])
    plan = precrop.plan(model, SHAPE, params=0.5, macs=0.5)
    built: Any = plan.build(model)
    for layer in plan.layers:
        old, new = (net[int(layer.name)].weight for net in (model, built))
        axes = plan.tensors[layer.weight]
        assert torch.allclose(new, resize(old, axes) * fan_scale(axes, layer.kind), atol=1e-6)


@pytest.mark.parametrize("name", ["spectral_norm", "old spectral_norm"])
def test_a_spectral_norm_is_one_right_after_the_build(name: str) -> None:
    built: Any = precrop.crop(plain(CHANGES[name]), SHAPE, params=0.5, macs=0.5)
    for layer in (built[0], built[2], built[6]):
        norm = torch.linalg.matrix_norm(layer.eval().weight.flatten(1), 2)
        assert norm.item() == pytest.approx(1, abs=0.05)


def test_an_orthogonal_layer_stays_orthogonal() -> None:
    torch.manual_seed(0)
    layer = parametrizations.orthogonal(nn.Linear(40, 24))
    model = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), layer, nn.ReLU(), nn.Linear(24, 3))
    plan, built = cropped(model, (8,), ["0", "2"])
    assert plan.widths["2"][1] < 24
    rows = built[2].weight
    assert torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-4)


@pytest.mark.parametrize("way", ["matrix_exp", "cayley", "householder"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_orthogonal_kernels_stay_orthogonal(kernel: int, way: str) -> None:
    torch.manual_seed(0)
    layer = parametrizations.orthogonal(nn.Conv2d(16, 32, kernel), orthogonal_map=way)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)
    )
    plan, built = cropped(model, SHAPE, ["0", "1"])
    assert not plan.frozen
    assert built[1].weight.shape[:2] == plan.widths["1"][::-1]
    products = built[1].weight @ built[1].weight.mT
    assert torch.allclose(products, torch.eye(kernel).expand_as(products), atol=1e-4)


@pytest.mark.parametrize("trivial", [True, False])
def test_a_much_narrower_orthogonal_layer_is_one(trivial: bool) -> None:
    torch.manual_seed(0)
    layer = parametrizations.orthogonal(nn.Linear(40, 24), use_trivialization=trivial)
    model = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), layer, nn.ReLU(), nn.Linear(24, 3))
    built: Any = precrop.crop(model, (8,), params=0.1)
    rows = built[2].weight
    assert len(rows) < 12
    assert torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-4)


def prepared(version: int, *, run: bool) -> nn.Module:
    model = nn.Sequential(quantization.QuantStub(), *plain(), quantization.DeQuantStub()).train()
    model.qconfig = quantization.get_default_qat_qconfig("fbgemm", version)
    model = quantization.prepare_qat(model)
    if run:
        model(torch.ones(2, *SHAPE))
    return model


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quant")
@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("run", [False, True])
def test_prepared_for_quantisation_aware_training(version: int, run: bool) -> None:
    plan, built = cropped(prepared(version, run=run), SHAPE, ["1", "3"])
    assert not plan.frozen
    converted = quantization.convert(built.eval())
    assert converted[3].weight().shape[:2] == plan.widths["3"][::-1]


class Pair(nn.Module):
    """A convolution with a weight of two parameters, as a custom layer has it."""

    def __init__(self, inputs: int, outputs: int, combine: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.combine = combine
        self.first = nn.Parameter(torch.randn(outputs, inputs, 3, 3) / 10)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3) / 10)
        self.scale = nn.Parameter(torch.ones(outputs, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.combine(self.first, self.weight) * self.scale)


def added(first: Tensor, second: Tensor) -> Tensor:
    return first + second


def multiplied(first: Tensor, second: Tensor) -> Tensor:
    return first.sigmoid() * second


def selected(first: Tensor, second: Tensor) -> Tensor:
    return torch.where(first > 0, second, torch.zeros_like(second))


@pytest.mark.parametrize("combine", [added, multiplied, selected])
def test_a_weight_of_two_parameters(combine: Any) -> None:
    model = nn.Sequential(
        Pair(3, 24, combine), nn.ReLU(), Pair(24, 32, combine), nn.ReLU(), nn.Conv2d(32, 4, 1)
    )
    plan, built = cropped(model, SHAPE, ["0", "2"])
    assert list(plan.widths) == ["0", "2", "4"]
    assert built[2].first.shape == built[2].weight.shape


class Bare(nn.Module):
    """Layers as parameters and functions; a mask that is a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.randn(24, 3, 3, 3) / 5)
        self.two = nn.Parameter(torch.randn(32, 24) / 5)
        self.three = nn.Parameter(torch.randn(4, 32) / 5)
        self.scores = nn.Parameter(torch.rand(32, 24))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.one - self.one.mean((1, 2, 3), keepdim=True)).relu().mean((2, 3))
        x = F.linear(x, self.two * (self.scores > 0.5)).relu()
        return x @ (self.three * 0.5).t()


def test_bare_parameters() -> None:
    plan, _ = cropped(Bare(), SHAPE, ["one", "two"])
    assert list(plan.widths) == ["one", "two", "three"]
    assert all(layer.density < 1 for layer in plan.layers)


class Popup(torch.autograd.Function):
    """Half of the scores, as zeros and ones (edge-popup, hidden networks)."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        mask = scores.clone()
        places = scores.flatten().sort()[1]
        half = scores.numel() // 2
        flat = mask.flatten()
        flat[places[:half]], flat[places[half:]] = 0, 1
        return mask

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Thresholded(nn.Conv2d):
    """A mask from the ranks of the weights, or of scores of their own; ``way`` says which."""

    def __init__(self, inputs: int, outputs: int, way: str) -> None:
        super().__init__(inputs, outputs, 3)
        self.way, self.scores = way, nn.Parameter(torch.rand_like(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.abs().flatten()
        if self.way == "popup":
            mask = Popup.apply(self.scores)
        elif self.way == "kthvalue":
            mask = self.scores * (self.weight.abs() > flat.kthvalue(flat.numel() // 2)[0])
        else:
            mask = self.scores * (self.weight.abs() >= flat.topk(flat.numel() // 2)[0].min())
        return F.conv2d(x, self.weight * mask, self.bias)


@pytest.mark.parametrize("way", ["popup", "kthvalue", "topk"])
def test_masks_from_ranks(way: str) -> None:
    model = nn.Sequential(Thresholded(3, 24, way), nn.ReLU(), Thresholded(24, 32, way), nn.ReLU())
    plan, _ = cropped(model.append(nn.Conv2d(32, 4, 1)), SHAPE, ["0", "2"])
    assert list(plan.widths) == ["0", "2", "4"]


class Assigned(nn.Conv2d):
    """A weight that forward replaces by its masked form."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3)
        self.mask: Tensor
        self.register_buffer("mask", torch.ones_like(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = self.weight.data * self.mask
        return super().forward(x)


class Merged(nn.Module):
    """Two kernels in training, one in evaluation: their product, or one that it is assigned to."""

    def __init__(self, inputs: int, outputs: int, assign: bool, smaller: bool) -> None:
        super().__init__()
        self.assign, self.smaller = assign, smaller
        self.first = nn.Conv2d(inputs, 2 * inputs, 1, bias=False)
        self.second = nn.Conv2d(2 * inputs, outputs, 3, bias=False)
        self.merged = nn.Conv2d(inputs, outputs, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            out: Tensor = self.second(self.first(x))
            return out
        turned = self.first.weight.flip(2, 3).permute(1, 0, 2, 3)
        kernel = F.conv2d(turned, self.second.weight, padding=2).flip(2, 3).permute(1, 0, 2, 3)
        if self.smaller:
            kernel = kernel[..., 1:-1, 1:-1]
        if not self.assign:
            return F.conv2d(x, kernel)
        self.merged.weight.data = kernel
        return self.merged(x)


@pytest.mark.parametrize(("assign", "smaller"), [(False, False), (True, False), (True, True)])
def test_kernels_that_are_merged_in_evaluation(assign: bool, smaller: bool) -> None:
    layer = Merged(24, 24, assign, smaller)
    model = nn.Sequential(nn.Conv2d(3, 24, 3), layer, nn.ReLU(), nn.Conv2d(24, 3, 1))
    before = sum(p.numel() for p in model.parameters())
    plan = precrop.plan(model, SHAPE, params=0.5, divisor=1)
    built: Any = plan.build(model)
    assert plan.base_params == before
    assert plan.params == sum(p.numel() for p in built.parameters())
    assert 0.4 < plan.params / before <= 0.5
    assert plan.widths["0"][1] < 24
    for mode in (True, False):
        built.train(mode)(torch.ones(2, *SHAPE)).sum().backward()


def test_a_weight_that_forward_assigns() -> None:
    model = nn.Sequential(Assigned(3, 24), nn.ReLU(), Assigned(24, 32), nn.Conv2d(32, 4, 1))
    cropped(model, SHAPE, ["0", "2"])


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("name", CHANGES)
def test_densities_become_masks_of_what_the_weight_is_made_of(name: str) -> None:
    model = plain(CHANGES[name])
    densities = precrop.densities(model, SHAPE, method="magnitude", params=0.3)
    assert list(densities) == ["0", "2", "6"]
    masks = precrop.masks(model, densities, "filter")
    for layer, mask in zip(densities, masks.values(), strict=True):
        assert mask.shape == model[int(layer)].weight.shape
        assert 0 < mask.float().mean() <= 1


NORMED: dict[str, Callable[[nn.Module], nn.Module]] = {
    **{
        way: partial(parametrizations.orthogonal, orthogonal_map=way)
        for way in ("matrix_exp", "cayley", "householder")
    },
    "without a base": partial(parametrizations.orthogonal, use_trivialization=False),
    "spectral_norm": parametrizations.spectral_norm,
    "old spectral_norm": old_spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*spectral_norm. is deprecated")
@pytest.mark.parametrize("way", NORMED)
def test_a_layer_that_is_not_cropped_computes_the_same(way: str) -> None:
    torch.manual_seed(0)
    layers = NORMED[way](nn.Linear(16, 16)), nn.ReLU(), nn.Linear(16, 12), nn.ReLU()
    model: Any = nn.Sequential(*layers, nn.Linear(12, 5)).eval()
    x = torch.randn(4, 16)
    same: Any = precrop.crop(model, (16,), params=1.0).eval()
    assert torch.equal(model(x), same(x))
    plan = precrop.plan(model, (16,), params=0.6, widths={"2": 2})
    assert torch.equal(model[0](x), plan.build(model).eval().get_submodule("0")(x))


def test_an_orthogonal_basis_keeps_its_directions() -> None:
    torch.manual_seed(0)
    layer: Any = parametrizations.orthogonal(nn.Linear(40, 24))
    model = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), layer, nn.ReLU(), nn.Linear(24, 3))
    built: Any = precrop.crop(model, (8,), params=0.8)
    old, new = (net.parametrizations.weight[0].base for net in (layer, built[2]))
    rows, columns = new.shape
    assert (rows, columns) < tuple(old.shape)
    assert ((old[:rows, :columns] * new).sum(0) > 0).all()


class Modulated(nn.Module):
    """A style scales the inputs of every sample's own kernels, which are normalised again."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 16, 32, kernel, kernel))
        self.style, self.kernel = nn.Linear(8, 32), kernel

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        weight = self.weight * self.style(style).view(batch, 1, channels, 1, 1)
        norms = torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8)
        weight = (weight * norms.view(batch, -1, 1, 1, 1)).view(
            -1, channels, self.kernel, self.kernel
        )
        images = x.view(1, batch * channels, height, width)
        made = F.conv2d(images, weight, padding=self.kernel // 2, groups=batch)
        return made.view(batch, -1, height, width)


class Generator(nn.Module):
    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(16, 4, 1)
        self.middle = Modulated(kernel)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        out: Tensor = self.last(self.middle(self.first(x), style))
        return out


@pytest.mark.parametrize("kernel", [1, 3])
def test_kernels_that_a_style_modulates(kernel: int) -> None:
    model, shapes = Generator(kernel), [(3, 8, 8), (8,)]
    plan = precrop.plan(model, shapes, params=0.7, divisor=1)
    assert not plan.frozen
    assert plan.widths["middle"] == (plan.widths["first"][1], plan.widths["last"][0])
    assert plan.build(model)(torch.ones(2, 3, 8, 8), torch.ones(2, 8)).shape == (2, 4, 8, 8)
