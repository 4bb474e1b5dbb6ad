"""Unusual operations and shapes: each is cropped like the plain convolution beside it."""

import copy
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import precrop
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
    "deformable": ("inner.offset", "deform_conv2d in inner.conv"),
    "selected channels": ("inner.reduce", "index_select in inner"),
    "covariance": ("reduce", "index in the network"),
    "autoencoder by literal": ("fc", "view in Autoencoder keeps its sizes"),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_is_named_with_its_reason(name: str) -> None:
    make, shape, _ = NETWORKS[name]
    layer, reason = KEPT[name]
    assert precrop.plan(make(), shape, params=0.7).frozen[layer] == reason


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
