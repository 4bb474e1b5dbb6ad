"""Whatever a parameter is besides its numbers: attributes, class, memory format, ties, modes."""

from typing import Any

import pytest
import torch
from torch import nn

import precrop

SHAPE = (3, 10, 10)


class Marked(nn.Parameter):
    """A class of one's own."""


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.Conv2d(24, 32, 1), nn.Conv2d(32, 32, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip


def built(model: nn.Module) -> Any:
    small = precrop.crop(model, SHAPE, params=0.5, macs=0.5)
    assert [name for name, _ in small.named_parameters()] == [
        name for name, _ in model.named_parameters()
    ]
    return small


def test_attributes_of_parameters_and_buffers_stay() -> None:
    model = network()
    model[0].weight._no_weight_decay = True
    model[6].bias.options = {"lr_scale": [0.1], "beside": model[6].weight}
    model[1].running_mean.frozen = "yes"
    small = built(model)
    assert small[0].weight._no_weight_decay is True
    assert small[6].bias.options["lr_scale"] == [0.1]
    assert small[6].bias.options["beside"] is small[6].weight
    assert small[1].running_mean.frozen == "yes"
    assert not hasattr(small[2].weight, "_no_weight_decay")


def test_classes_of_parameters_stay() -> None:
    model = network()
    model[2].weight = Marked(model[2].weight.detach(), requires_grad=False)
    small = built(model)
    assert type(small[2].weight) is Marked
    assert not small[2].weight.requires_grad
    assert type(small[0].weight) is nn.Parameter


class ChangeOfColours(nn.Conv2d):
    """A mean that super-resolution networks take from images and add to them again."""

    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, 1)
        nn.init.dirac_(self.weight)
        nn.init.constant_(self.bias, sign * 0.4)  # type: ignore[arg-type]
        self.requires_grad_(False)


def test_fixed_layers_at_the_ends_keep_their_widths() -> None:
    """Fixed filters of the image, a change of colours before it is put out."""
    bank = nn.Conv2d(3, 30, 5, padding=2, bias=False).requires_grad_(False)
    for first, width in ((ChangeOfColours(-1), 3), (bank, 30)):
        model: Any = nn.Sequential(
            first, nn.Conv2d(width, 32, 3), nn.Conv2d(32, 16, 3).requires_grad_(False),
            nn.Conv2d(16, 3, 3), ChangeOfColours(1),
        )  # fmt: skip
        plan = precrop.plan(model, SHAPE, params=0.3, divisor=1)
        assert plan.frozen == {
            "0": "its weights are not trained",
            "3": "the weights of 4, which reads it, are not trained",
        }
        assert [plan.widths[name][1] for name in "034"] == [width, 3, 3]
        assert plan.widths["2"][1] < 16
        assert plan.solver["untrained"] == ["2"]
        small: Any = plan.build(model, init="reset")
        assert all(torch.equal(small[i].weight, model[i].weight) for i in (0, 4))
        assert small(torch.rand(2, *SHAPE)).shape == (2, 3, 4, 4)


def test_fixed_layers_that_share_their_width_are_cropped_with_it() -> None:
    """Such as a frozen backbone's first layer, at whose stream others have their ends."""

    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.first = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 1)
            self.second, self.head = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 5, 1)
            self.requires_grad_(False)
            self.head.requires_grad_(True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.head(x + self.second(self.first(x).relu()))

    plan = precrop.plan(Stream(), SHAPE, params=0.3)
    assert not plan.frozen
    assert plan.solver["untrained"] == ["stem", "first", "second"]
    assert plan.widths["stem"][1] < 32


def test_tied_parameters_stay_tied() -> None:
    model = network()
    model.append(nn.Linear(4, 4))
    model.append(nn.Linear(4, 4))
    model[8].weight = model[7].weight
    small = built(model)
    assert small[8].weight is small[7].weight


@pytest.mark.parametrize("init", ["slice", "reset"])
def test_the_memory_format_stays(init: Any) -> None:
    model = network().to(memory_format=torch.channels_last)
    small: Any = precrop.plan(model, SHAPE, params=0.5, macs=0.5).build(model, init)
    for (name, old), new in zip(model.named_parameters(), small.parameters(), strict=True):
        order = [sorted(range(t.dim()), key=lambda d: -t.stride()[d]) for t in (old, new)]
        assert order[0] == order[1], name
    assert small[3].weight.is_contiguous(memory_format=torch.channels_last)
    plain = precrop.crop(network(), SHAPE, params=0.5, macs=0.5)
    if init == "slice":
        x = torch.randn(2, *SHAPE)
        assert torch.allclose(plain.eval()(x), small.eval()(x), atol=1e-6)
    assert all(parameter.is_contiguous() for parameter in plain.parameters())


def test_a_transposed_layout_stays() -> None:
    model = network()
    model[6].weight = nn.Parameter(torch.randn(32, 4).t())
    small = built(model)
    assert small[6].weight.shape[1] < 32
    assert small[6].weight.t().is_contiguous()
    assert not small[6].weight.is_contiguous()


class Gained(nn.Module):
    """Its first parameter is of another type than all others."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1).to(dtype), requires_grad=False)
        self.body = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x)
        return out * self.gain.to(out.dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn])
def test_inputs_are_of_the_type_of_most_parameters(dtype: torch.dtype) -> None:
    model = Gained(dtype)
    plan = precrop.plan(model, SHAPE, params=0.5)
    assert plan.params < 0.51 * plan.base_params
    small = plan.build(model)
    assert small(torch.ones(2, *SHAPE)).shape == (2, 4)
    assert small.gain.dtype == dtype
    assert min(precrop.densities(model, SHAPE, method="synflow", params=0.5).values()) > 0


class Grouped(Gained):
    """Its ``parameters()`` are groups for an optimizer."""

    def parameters(self, recurse: bool = True) -> Any:
        """Groups with learning rates."""
        return [{"params": [self.gain], "lr": 0.1}, {"params": [*self.body.parameters(recurse)]}]


@pytest.mark.filterwarnings("ignore::precrop.LayerCollapseWarning")
def test_parameters_may_be_groups_for_an_optimizer() -> None:
    model, plain = Grouped(torch.float32), Gained(torch.float32)
    plan = precrop.plan(model, SHAPE, params=0.5)
    assert plan.widths == precrop.plan(plain, SHAPE, params=0.5).widths
    small = plan.build(model)
    assert sum(p.numel() for _, p in small.named_parameters()) == plan.params
    assert small(torch.ones(2, *SHAPE)).shape == (2, 4)
    data = [(torch.ones(2, *SHAPE), torch.arange(2))]
    for method in ("synflow", "snip", "grasp"):
        found = precrop.densities(model, SHAPE, method=method, params=0.9, data=data)
        assert set(precrop.masks(model, found)) == {f"{name}.weight" for name in found}


class Answering(nn.Module):
    """It has an answer to every name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x)
        return out

    def __getattr__(self, name: str) -> Any:
        """What is there, or a number."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return 7


def test_a_network_may_answer_any_name() -> None:
    model = Answering()
    assert model.anything == 7
    plan = precrop.plan(model, SHAPE, params=0.5)
    plain = precrop.plan(network(), SHAPE, params=0.5)
    assert plan.widths == {f"body.{name}": widths for name, widths in plain.widths.items()}
    assert plan.build(model)(torch.ones(2, *SHAPE)).shape == (2, 4)


def test_a_fixed_weight_beside_a_trained_mask_is_cropped() -> None:
    class Masked(nn.Conv2d):
        """Supermasks: what is trained is what the weight is multiplied by."""

        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(inputs, outputs, 3)
            self.mask = nn.Parameter(torch.ones_like(self.weight))
            self.weight.requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv2d(x, self.weight * self.mask, self.bias)

    model = nn.Sequential(Masked(3, 16), nn.ReLU(), Masked(16, 8), nn.ReLU(), Masked(8, 4))
    plan = precrop.plan(model, (3, 9, 9), params=0.5, divisor=1)
    assert plan.widths["0"][1] < 16
    assert plan.widths["2"][1] < 8
