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
