"""Unusual operations and shapes: each is cropped like the plain convolution beside it."""

import copy
from collections.abc import Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import precrop
from tests.outside.cropping import cropped
from tests.outside.shape_networks import IMAGE, NETWORKS, Around, Discriminator, Function
from tests.planning import counted_params

SHARE = {"full image literal": 0.8}
"""Budgets of networks that keep too much of their cost for half of it."""


def deformed_flops(x: Any, weight: Any, *args: Any, out_shape: Any = None, **options: Any) -> int:
    """Twice the MACs of a convolution of these shapes; PyTorch's counter has no formula for it."""
    outputs, inputs, height, width = weight
    return int(2 * outputs * inputs * height * width * out_shape[0] * out_shape[2] * out_shape[3])


def counted(model: nn.Module, shape: Iterable[int]) -> int:
    formulas = {torch.ops.torchvision.deform_conv2d: deformed_flops}
    model = copy.deepcopy(model).eval()
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        model(torch.randn(1, *shape))
    return int(counter.get_total_flops()) // 2


def output_shapes(model: nn.Module, shape: Iterable[int], batch: int) -> list[torch.Size]:
    with torch.no_grad():
        outputs = copy.deepcopy(model).eval()(torch.randn(batch, *shape))
    return [leaf.shape for leaf in tree_leaves(outputs)]


def reached(model: nn.Module, shape: Iterable[int]) -> set[str]:
    """The parameters that a gradient reaches in train mode."""
    model = copy.deepcopy(model).train()
    outputs: list[Tensor] = tree_leaves(model(torch.randn(3, *shape)))
    torch.stack([leaf.abs().mean() for leaf in outputs]).sum().backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def check_cropped(model: nn.Module, shape: tuple[int, ...], **budgets: Any) -> precrop.Plan:
    """Plan and build, and compare with what PyTorch says of both networks."""
    plan = precrop.plan(model, shape, **budgets)
    built = plan.build(model)
    assert (counted_params(model), counted_params(built)) == (plan.base_params, plan.params)
    assert (counted(model, shape), counted(built, shape)) == (plan.base_macs, plan.macs)
    assert all(budget.used <= budget.limit for budget in plan.budgets.values())
    for batch in (1, 3):
        assert output_shapes(built, shape, batch) == output_shapes(model, shape, batch)
    assert built.state_dict().keys() == model.state_dict().keys()
    assert reached(built, shape) == reached(model, shape)
    return plan


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_around_and_within_have_widths_of_their_own(name: str) -> None:
    make, shape, free = NETWORKS[name]
    share = SHARE.get(name, 0.5)
    plan = check_cropped(make(), shape, params=share, macs=share)
    groups = {layer.name: layer.group for layer in plan.layers}
    assert {layer: groups[layer] is not None for layer in free} == dict.fromkeys(free, True)
    assert max(budget.used / budget.limit for budget in plan.budgets.values()) > 0.93


KEPT = {
    "deformable": ("inner.offset", "torchvision::deform_conv2d in inner.conv"),
    "selected channels": ("inner.reduce", "index_select in inner"),
    "covariance": ("reduce", "index in the network"),
    "autoencoder by literal": ("fc", "view in Autoencoder keeps its sizes"),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_is_named_with_its_reason(name: str) -> None:
    make, shape, _ = NETWORKS[name]
    layer, reason = KEPT[name]
    assert precrop.plan(make(), shape, params=0.7).frozen[layer] == reason


class Signals(nn.Module):
    """Mixes signals, and puts each of the mixtures through the same layers."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(20, 6, 1)
        self.layers = nn.Sequential(
            *(nn.Conv1d(1, 16, 3), nn.ReLU(), nn.Conv1d(16, 32, 3, 2), nn.ReLU()),
            *(nn.Conv1d(32, 48, 3, 2), nn.ReLU(), nn.Conv1d(48, 24, 3, 2)),
        )
        self.head = nn.Linear(6 * 24, 4)

    def forward(self, x: Tensor) -> Tensor:
        each = self.mix(x).flatten(0, 1).unsqueeze(1)
        features = self.layers(each).mean(-1)
        out: Tensor = self.head(features.reshape(len(x), -1))
        return out


class StateMixer(nn.Module):
    """Layers on a state of few rows instead of positions, as EfficientViM's."""

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        self.take, self.give = nn.Conv1d(width, rows, 1), nn.Conv1d(width, rows, 1)
        self.mix = nn.Conv1d(width, 2 * width, 1)
        self.back = nn.Conv1d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        state = x @ self.take(x).softmax(-1).transpose(-2, -1)
        out: Tensor = x + self.back(self.mix(state).relu()) @ self.give(x)
        return out


def test_of_products_of_three_widths_the_ones_with_few_parameters_are_kept() -> None:
    body = (StateMixer(64, 6), StateMixer(64, 6), StateMixer(64, 6))
    model = nn.Sequential(nn.Conv1d(3, 64, 5), *body, nn.AdaptiveAvgPool1d(1), nn.Flatten())
    model.append(nn.Linear(64, 10))
    plan = check_cropped(model, (3, 40), params=0.5, macs=0.5)
    rows = [f"{place}.{name}" for place in (1, 2, 3) for name in ("take", "give")]
    assert plan.frozen == dict.fromkeys(rows, "its cost is a product of three widths")


def test_of_many_products_of_three_widths_the_one_in_all_is_kept() -> None:
    plan = check_cropped(Signals(), (20, 80), params=0.5, macs=0.5)
    assert plan.frozen == {"mix": "its cost is a product of three widths"}
    assert max(budget.used / budget.limit for budget in plan.budgets.values()) > 0.97


def test_only_what_a_number_in_the_code_states_is_kept() -> None:
    """Ten channels are sliced by a number: the other six may go."""
    model = Around(Function(lambda x: x[:, :10]), outputs=10)
    plan = check_cropped(model, IMAGE, params=0.6)
    assert 10 <= plan.widths["stem"][1] < 16
    assert plan.widths["last"][0] == 10


def test_a_network_of_outputs_is_refused_by_its_budget_alone() -> None:
    """Every child's map is an output; what lies between two of them is still free."""
    model = Discriminator()
    plan = check_cropped(model, IMAGE, params=0.8)
    assert plan.widths["inner.0"][1] < 48
    assert plan.widths["first"] == (3, 16)
    with pytest.raises(precrop.BudgetError):
        precrop.plan(model, IMAGE, params=0.3)


def test_complex_weights_are_sliced_and_keep_their_scale() -> None:
    make, shape, _ = NETWORKS["fourier operator"]
    model = make()
    plan = precrop.plan(model, shape, params=0.5)
    weight = plan.build(model).get_parameter("inner.weight")
    inputs, outputs = plan.widths["inner"]
    assert weight.is_complex()
    assert weight.shape == (inputs, outputs, 3, 3)
    assert torch.allclose(
        weight, model.get_parameter("inner.weight")[:inputs, :outputs] * (16 / inputs) ** 0.5
    )


def test_stated_sizes_follow() -> None:
    """Deformable and bilinear layers say the sizes that they have."""
    for name, path in (("deformable", "inner.conv"), ("bilinear", "bilinear")):
        make, shape, _ = NETWORKS[name]
        model = make()
        layer: Any = precrop.crop(model, shape, params=0.5).get_submodule(path)
        if path == "bilinear":
            ends = [layer.out_features, layer.in1_features, layer.in2_features]
        else:
            ends = [layer.out_channels, layer.in_channels, 3, 3]
        assert list(layer.weight.shape) == ends


NORMS = (
    "local response norm",
    "local response norm of 4",
    "pooled response norm",
    "l2 norm",
    "divisive norm",
)


@pytest.mark.parametrize("name", NORMS)
def test_synexp_reads_norms_as_factors_of_one(name: str) -> None:
    values = []
    for make in (NETWORKS[name][0], lambda: Around(nn.Identity())):
        torch.manual_seed(0)
        values.append(precrop.synexp(make(), IMAGE))
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_synexp_reads_a_deformable_layer_as_a_convolution() -> None:
    model, plain = NETWORKS["deformable"][0](), Around(nn.Conv2d(16, 16, 3, padding=1))
    names = {name.replace("inner.", "inner.conv."): name for name in plain.state_dict()}
    plain.load_state_dict({to: model.state_dict()[of] for of, to in names.items()})
    assert precrop.synexp(model, IMAGE) == pytest.approx(precrop.synexp(plain, IMAGE), rel=1e-12)


REFUSED = {
    "fourier operator": "absolute values say nothing of a Fourier transform",
    "bilinear": "_trilinear in bilinear",
    "mixed kernels by matrix": "it multiplies activations with each other",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_linear_is_refused_in_a_line(name: str) -> None:
    make, shape, _ = NETWORKS[name]
    with pytest.raises(precrop.PrecropError, match=REFUSED[name]) as caught:
        precrop.synexp(make(), shape)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrapped", [False, True])
def test_asserted_channels_follow(wrapped: bool) -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.channels, self.classes = 16, 16  # the second one is no size
            self.layer = nn.Conv2d(16, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1] != self.channels:
                raise ValueError("other channels")
            return self.layer(x)

    inner = nn.Sequential(nn.Identity(), Checked()) if wrapped else Checked()
    model = Around(inner)
    plan = check_cropped(model, IMAGE, params=0.2)
    assert not plan.frozen
    checked: Any = plan.build(model).get_submodule("inner.1" if wrapped else "inner")
    assert checked.channels == plan.widths["stem"][1] < 16
    assert checked.classes == 16


def test_a_network_of_chance_is_kept_as_it_is() -> None:
    """Its passes differ, so that nothing can be proved: full widths, or a budget's refusal."""

    class Dice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
            self.calls = [0]

        def __deepcopy__(self, memo: Any) -> "Dice":
            made = Dice()
            made.calls = self.calls  # shared by all copies
            memo[id(self)] = made
            return made

        def forward(self, x: Tensor) -> Tensor:
            self.calls[0] += 1
            for _ in range(self.calls[0] % 7):
                x = x + 1
            return self.second(self.first(x))

    with pytest.raises(precrop.BudgetError):
        precrop.plan(Dice(), IMAGE, params=0.5)
    assert precrop.plan(Dice(), IMAGE, params=1.0).widths["first"] == (3, 8)


class Windows(nn.Module):
    """Windows over time and all channels, cut as windows of an image, as x-vectors do."""

    def __init__(self, inputs: int, outputs: int, taken: int | None = None) -> None:
        super().__init__()
        self.inputs, self.taken = inputs, taken
        self.layer = nn.Linear(3 * (taken or inputs), outputs)

    def forward(self, x: Tensor) -> Tensor:
        window = 3, self.taken or self.inputs
        windows = F.unfold(x.unsqueeze(1), window, stride=(1, self.inputs))
        out: Tensor = self.layer(windows.transpose(1, 2)).relu()
        return out


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def test_a_window_over_all_channels_that_is_cut_as_an_images_follows() -> None:
    model = nn.Sequential(Windows(8, 32), Windows(32, 32), Mean(), nn.Linear(32, 5))
    plan, built = cropped(model, (20, 8), ["0.layer", "1.layer"])
    assert not plan.frozen
    assert built[1].inputs == plan.widths["0.layer"][1] < 32
    assert plan.widths["1.layer"][0] == 3 * built[1].inputs


def test_an_axis_of_which_a_window_takes_some_keeps_its_size() -> None:
    model = nn.Sequential(Windows(8, 32), Windows(32, 32, 30), Mean(), nn.Linear(32, 5))
    plan = precrop.plan(model, (20, 8), params=0.5)
    assert plan.frozen == {"0.layer": "im2col in 1"}
    assert plan.build(model)(torch.ones(2, 20, 8)).shape == (2, 5)


class FourEach(nn.Module):
    """Four numbers for every channel, computed from its mean (dynamic ReLU)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.number = channels, 4
        self.numbers = nn.Linear(channels, 4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.numbers(x.mean((2, 3))).view(-1, self.channels, 4)
        first, second, third, fourth = parts[..., None, None].unbind(2)
        return torch.maximum(x * first + second, x * third + fourth)


def test_a_few_numbers_for_every_channel_stay_as_many() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3), FourEach(32), nn.Conv2d(32, 8, 3))
    plan = check_cropped(model, (3, 8, 8), params=0.5, macs=0.7)
    built: Any = plan.build(model)
    assert not plan.frozen
    assert (built[1].channels, built[1].number) == (built[0].out_channels, 4)


class Involution(nn.Module):
    """A kernel for every place and group of a few channels, over windows of all of these."""

    def __init__(self, channels: int, each: int) -> None:
        super().__init__()
        self.group_channels, self.groups = each, channels // each
        self.make = nn.Conv2d(channels, self.groups * 9, 1)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.make(x).view(len(x), self.groups, 1, 9, *x.shape[2:])
        windows = F.unfold(x, 3, padding=1)
        windows = windows.view(len(x), self.groups, self.group_channels, 9, *x.shape[2:])
        return (kernel * windows).sum(3).view(x.shape)


@pytest.mark.parametrize("each", [4, 16])
def test_the_channels_of_a_group_vary_where_windows_lie_behind_them(each: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3), Involution(32, each), nn.Conv2d(32, 8, 3))
    plan = check_cropped(model, (3, 8, 8), params=0.6, macs=0.7)
    built: Any = plan.build(model)
    assert plan.frozen.keys() == {"1.make"}
    assert built[1].groups == 32 // each
    assert built[1].group_channels * built[1].groups == built[0].out_channels < 32
