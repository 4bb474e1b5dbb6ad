"""Weights to which something is added before use: low-rank updates, a second parameter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

import precrop
from precrop.plans.build import fan_scale, resize
from tests.outside.cropping import cropped

SHAPE = (3, 10, 10)
INPUTS, OUTPUTS, RANK = 32, 48, 4


class Layer(nn.Module):
    """Parameters, a function of them that gives the weight, and one that uses it."""

    def __init__(
        self, weight: Callable[[Any], Tensor], use: Callable[[Tensor, Tensor], Tensor], *size: int
    ) -> None:
        super().__init__()
        self.of, self.use = weight, use
        self.weight = nn.Parameter(torch.randn(OUTPUTS, INPUTS, *size) / 9)
        self.more = nn.Parameter(torch.randn(OUTPUTS, INPUTS, *size) / 9)
        self.down = nn.Parameter(torch.randn(RANK, INPUTS) / 9)
        self.up = nn.Parameter(torch.randn(OUTPUTS, RANK) / 9)
        self.gain = nn.Parameter(torch.rand(OUTPUTS, *([1] * (1 + len(size)))))
        self.mask: Tensor
        self.register_buffer("mask", (torch.rand(OUTPUTS, INPUTS, *size) > 0.3).float())

    def forward(self, x: Tensor) -> Tensor:
        return self.use(x, self.of(self))


def pooled(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x.mean((2, 3)), weight)


def conv(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight).mean((2, 3))


LAYERS: dict[str, tuple[Any, ...]] = {
    "low rank": (lambda m: m.weight + m.up @ m.down, pooled),
    "scaled, in front": (lambda m: 0.5 * (m.up @ m.down) + m.weight, pooled),
    "one operation": (lambda m: torch.addmm(m.weight, m.up, m.down), pooled),
    "transposed": (lambda m: m.weight - (m.down.T @ m.up.T).T, pooled),
    "kernels": (lambda m: m.weight + (m.up @ m.down).view_as(m.weight), conv, 1, 1),
    "two parameters": (lambda m: m.weight + m.more, conv, 3, 3),
    "masked and scaled": (lambda m: m.mask * (m.weight + m.mask * m.more) * m.gain, conv, 3, 3),
    "centred": (lambda m: m.more - m.more.mean(1, keepdim=True) + m.weight, conv, 3, 3),
}


def network(name: str) -> nn.Sequential:
    torch.manual_seed(0)
    layer = Layer(*LAYERS[name])
    return nn.Sequential(
        nn.Conv2d(3, INPUTS, 3), nn.ReLU(), layer, nn.ReLU(), nn.Linear(OUTPUTS, 5)
    )


@pytest.mark.parametrize("name", LAYERS)
def test_the_weight_in_use_is_the_rescaled_slice(name: str) -> None:
    model: Any = network(name)
    for parameter in ("more", "up", "down", "gain"):
        if parameter not in LAYERS[name][0].__code__.co_names:
            delattr(model[2], parameter)
    plan, built = cropped(model, SHAPE, ["0"])
    layer = next(layer for layer in plan.layers if layer.weight in ("2.weight", "2.more"))
    assert layer.name == ("2" if layer.weight == "2.weight" else "2.more")
    assert layer.base_macs > 0
    assert layer.out_channels < OUTPUTS
    axes = plan.tensors[layer.weight]
    full, small = (net[2].of(net[2]).detach() for net in (model, built))
    if name == "centred":  # the mean is that of the channels that stay
        small, full = ((net[2].weight + net[2].more).detach() for net in (built, model))
    wanted = resize(full, axes) * fan_scale(axes, layer.kind)
    assert torch.allclose(small, wanted, atol=1e-6)
    again = precrop.Plan.from_json(plan.to_json()).build(model)
    assert all(map(torch.equal, again.state_dict().values(), built.state_dict().values()))


class LowRank(nn.Module):
    """A low-rank update as a parametrisation."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(outputs, 2) / 9)
        self.down = nn.Parameter(torch.randn(2, inputs) / 9)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def test_an_update_by_a_parametrisation() -> None:
    model: Any = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 40), nn.Linear(40, 3))
    register_parametrization(model[2], "weight", LowRank(40, 32))
    plan, built = cropped(model, (6,), ["0", "2"])
    axes = plan.tensors["2.parametrizations.weight.original"]
    wanted = resize(model[2].weight.detach(), axes) * fan_scale(axes, "linear")
    assert torch.allclose(built[2].weight, wanted, atol=1e-6)


def test_a_weight_with_an_update_has_a_density_and_a_mask() -> None:
    model = network("low rank")
    densities = precrop.densities(model, SHAPE, method="synexp", params=0.5)
    assert densities["2"] < 1
    masks = precrop.masks(model, densities, "weight")
    assert masks["2.weight"].float().mean() == pytest.approx(densities["2"], abs=0.01)


def test_a_parameter_that_several_weights_share_is_scaled_once() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.head = nn.Linear(6, 32), nn.Linear(40, 3)
            self.base = nn.Parameter(torch.randn(40, 32) / 9)
            self.one = nn.Parameter(torch.randn(40, 32) / 9)
            self.two = nn.Parameter(torch.randn(40, 32) / 9)

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x).relu()
            return self.head(F.linear(x, self.base + self.one) + F.linear(x, self.two + self.base))

    model = Shared()
    plan, built = cropped(model, (6,), ["enter"])
    for name in ("base", "one", "two"):
        axes = plan.tensors[name]
        wanted = resize(model.get_parameter(name).detach(), axes) * fan_scale(axes, "linear")
        assert torch.allclose(built.get_parameter(name), wanted, atol=1e-6)


@pytest.mark.parametrize("registered", [False, True])
def test_a_constant_that_is_added_to_a_weight_keeps_its_values(registered: bool) -> None:
    """As the kernel of the identity, which a branch that is merged later begins with."""

    class Identity(nn.Linear):
        def __init__(self) -> None:
            super().__init__(32, 32)
            if registered:
                self.register_buffer("same", torch.eye(32))
            else:
                self.same = torch.eye(32)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight + self.same, self.bias)

    model: Any = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), Identity(), nn.Linear(32, 3))
    plan, built = cropped(model, (6,), ["0", "2"])
    inputs, outputs = plan.widths["2"]
    assert torch.equal(built[2].same, torch.eye(32)[:outputs, :inputs])
    assert not torch.allclose(built[2].weight, model[2].weight[:outputs, :inputs])
