"""The network of NATS-Bench's size search space: Dong et al. 2021 (arXiv 2009.00437), section 3.2.

One topology that was trained with all 32,768 combinations of 8, 16, ..., 64 as its five widths, so
that choices of widths can be judged without training anything.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from precrop.models.initialise import kaiming

STAGES = 5


def _op(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


def projection(inputs: int, outputs: int) -> nn.Module:
    """Make the skip connection of a cell whose ends differ in width."""
    return _op(inputs, outputs, kernel=1)


class NatsCell(nn.Module):
    """Three nodes, each a sum of operations on all before it; the last one also adds a skip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.input_to_1 = _op(inputs, outputs)
        self.input_to_2 = _op(inputs, outputs)
        self.node_1_to_2 = _op(outputs, outputs)
        self.node_1_to_3 = _op(outputs, outputs)
        self.node_2_to_3 = _op(outputs, outputs)
        self.skip: nn.Module = nn.Identity() if inputs == outputs else projection(inputs, outputs)

    def nodes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three nodes, each ``(N, outputs, H, W)``, for ``(N, inputs, H, W)``."""
        first: Tensor = self.input_to_1(x)
        second: Tensor = self.input_to_2(x) + self.node_1_to_2(first)
        third: Tensor = self.skip(x) + self.node_1_to_3(first) + self.node_2_to_3(second)
        return first, second, third

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs, H, W)`` to ``(N, outputs, H, W)``."""
        return self.nodes(x)[-1]


class NatsReduction(nn.Module):
    """A residual block that halves the map; its shortcut is a pooling and a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_1 = _op(inputs, outputs, stride=2)
        self.conv_2 = _op(outputs, outputs)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False))

    def nodes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden map and output, ``(N, outputs, H/2, W/2)``, for ``(N, inputs, H, W)``."""
        hidden: Tensor = self.conv_1(x)
        out: Tensor = self.conv_2(hidden) + self.shortcut(x)
        return hidden, out

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs, H, W)`` to ``(N, outputs, H/2, W/2)``."""
        return self.nodes(x)[-1]


class NatsNetwork(nn.Module):
    """A stem, three cells with two reductions between them, and one linear layer.

    Args:
        widths: channels of the stem, first reduction, second cell, second reduction, third cell.
        num_classes: number of outputs.
    """

    cell: type[NatsCell] = NatsCell
    reduction: type[NatsReduction] = NatsReduction

    def __init__(self, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        if len(widths) != STAGES:
            raise ValueError(f"widths must be {STAGES} numbers of channels, not {widths!r}")
        c0, c1, c2, c3, c4 = widths
        self.stem = nn.Sequential(nn.Conv2d(3, c0, 3, padding=1, bias=False), nn.BatchNorm2d(c0))
        self.cell_1 = self.cell(c0, c0)
        self.reduction_1 = self.reduction(c0, c1)
        self.cell_2 = self.cell(c1, c2)
        self.reduction_2 = self.reduction(c2, c3)
        self.cell_3 = self.cell(c3, c4)
        self.norm = nn.BatchNorm2d(c4)
        self.classifier = nn.Linear(c4, num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
        x = self.cell_2(self.reduction_1(self.cell_1(self.stem(x))))
        x = F.relu(self.norm(self.cell_3(self.reduction_2(x))))
        out: Tensor = self.classifier(x.mean((2, 3)))
        return out


def nats_sss(widths: Sequence[int] = (64, 64, 64, 64, 64), num_classes: int = 10) -> NatsNetwork:
    """A network of NATS-Bench's size search space: 713,674 parameters with widths of 64."""
    return NatsNetwork(widths, num_classes)
