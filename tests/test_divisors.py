"""Widths in steps: layers that several groups make up, and layers narrower than the step."""

import pytest
import torch
from torch import Tensor, nn

import precrop

SHAPE = (3, 8, 8)


class Parted(nn.Module):
    """A convolution whose output is cut in two parts that go different ways."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.parts = [first, second]
        self.stem = nn.Conv2d(3, first + second, 3)
        self.a, self.b = nn.Conv2d(first, 24, 3), nn.Conv2d(second, 24, 3)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).split(self.parts, dim=1)
        return self.head(torch.cat([self.a(a), self.b(b)], 1).mean((2, 3)))


class Joined(nn.Module):
    """A depthwise convolution over a concatenation of two layers."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, first, 3), nn.Conv2d(3, second, 3)
        self.mixed = nn.Conv2d(first + second, first + second, 3, groups=first + second)
        self.last, self.head = nn.Conv2d(first + second, 24, 1), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mixed(torch.cat([self.a(x), self.b(x)], 1))
        return self.head(self.last(y).mean((2, 3)))


def even(plan: precrop.Plan, divisor: int) -> bool:
    """Whether every layer is a multiple of the divisor or as it was."""
    return all(
        layer.out_channels % divisor == 0 or layer.out_channels == layer.base_out
        for layer in plan.layers
    )


@pytest.mark.parametrize("kind", [Parted, Joined])
@pytest.mark.parametrize("sizes", [(20, 28), (20, 44), (12, 36), (24, 40)])
def test_parts_of_a_layer_sum_to_a_multiple(kind: type[nn.Module], sizes: tuple[int, int]) -> None:
    for share in (0.9, 0.7, 0.5, 0.35):
        model = kind(*sizes)
        plan = precrop.plan(model, SHAPE, params=share, divisor=8)
        assert even(plan, 8)
        assert "uneven" not in plan.solver
        assert sum(p.numel() for p in plan.build(model).parameters()) == plan.params
    whole = precrop.plan(kind(*sizes), SHAPE, params=1.0, divisor=8)
    assert whole.params == whole.base_params


def test_a_part_narrower_than_the_divisor_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    from precrop.plans.table import show

    plan = precrop.plan(Joined(5, 40), SHAPE, params=0.5, divisor=8)
    assert plan.widths["a"] == (3, 5)
    assert plan.solver["uneven"] == ["mixed"]
    assert plan.widths["mixed"][1] % 8 == 5
    show(plan)
    assert "No multiples of 8, as parts of them cannot be: mixed" in capsys.readouterr().out


def narrow() -> nn.Sequential:
    """Two convolutions of eight channels."""
    ends = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), *ends)


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({}, range(1, 33)),
        ({"min_width": 7}, range(7, 33)),
        ({"min_width": 8}, range(8, 33)),
        ({"min_width": 13}, [8, *range(13, 33)]),
        ({"divisor": 8}, [8, 16, 24, 32]),
        ({"divisor": 16}, [8, 16, 32]),
        ({"divisor": 5, "min_width": 11}, [8, 15, 20, 25, 30]),
    ],
)
def test_layers_narrower_than_the_step_may_widen(
    options: dict[str, int], allowed: list[int]
) -> None:
    plan = precrop.plan(narrow(), SHAPE, params=3.0, expand=True, **options)  # type: ignore[arg-type]
    widths = [plan.widths[name][1] for name in ("0", "2")]
    assert max(widths) > 8
    assert set(widths) <= {*allowed}
    for more in ({"divisor": 64}, {"min_width": 40}):
        kept = precrop.plan(narrow(), SHAPE, params=3.0, expand=True, **more)  # type: ignore[arg-type]
        assert kept.params == kept.base_params
