"""ResNets for CIFAR: He et al. 2016, "Deep Residual Learning" (arXiv 1512.03385), section 4.2."""

from typing import Literal, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from precrop.models.initialise import Init, kaiming

Shortcut = Literal["projection", "pad"]


class PadShortcut(nn.Module):
    """The paper's option A: drop every other pixel and pad the missing channels with zeros."""

    def forward(self, x: Tensor, channels: int) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, channels, H/2, W/2)``, half the zeros on either side.

        In a cropped network, ``channels`` may be below ``C``; then channels are cut off instead.
        """
        missing = channels - x.shape[1]
        before = missing // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, missing - before))


class Projection(nn.Sequential):
    """A 1x1 convolution with batch norm, called with the arguments of `PadShortcut`."""

    def forward(self, x: Tensor, channels: int) -> Tensor:  # type: ignore[override]
        """Map ``(N, C, H, W)`` to ``(N, channels, H/2, W/2)``."""
        for module in self:
            x = module(x)
        return x


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection around them."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module | None = None
        if stride > 1 and shortcut == "pad":
            self.shortcut = PadShortcut()
        elif stride > 1:
            self.shortcut = Projection(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, outputs, H/stride, W/stride)``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.shortcut is not None:
            x = self.shortcut(x, out.shape[1])
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """A stem as wide as the first stage, and three stages of ``blocks`` blocks each.

    Args:
        blocks: blocks in each stage; the network has ``6 * blocks + 2`` layers.
        num_classes: number of outputs.
        shortcut: where a stage changes size, ``projection`` is a 1x1 convolution with batch norm,
            ``pad`` the parameter-free option A of the paper's CIFAR experiments.
        init: as in `precrop.models.initialise.kaiming`.
        widths: channels of the stages, by default the paper's.
    """

    def __init__(
        self,
        blocks: int,
        num_classes: int = 10,
        shortcut: Shortcut = "projection",
        init: Init = "fan_out",
        widths: tuple[int, int, int] = (16, 32, 64),
    ) -> None:
        super().__init__()
        if shortcut not in ("projection", "pad"):
            raise ValueError(f"shortcut must be 'projection' or 'pad', not {shortcut!r}")
        first, second, third = widths
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, first, blocks, 1, shortcut)
        self.layer2 = _stage(first, second, blocks, 2, shortcut)
        self.layer3 = _stage(second, third, blocks, 2, shortcut)
        self.fc = nn.Linear(third, num_classes)
        kaiming(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, 3, 32, 32)`` to logits ``(N, num_classes)``."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


def _stage(inputs: int, outputs: int, blocks: int, stride: int, shortcut: Shortcut) -> nn.Module:
    first = BasicBlock(inputs, outputs, stride, shortcut)
    rest = (BasicBlock(outputs, outputs, 1, shortcut) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


class Builder(Protocol):
    """Builds a ResNet of one depth."""

    def __call__(
        self, num_classes: int = 10, shortcut: Shortcut = "projection", init: Init = "fan_out"
    ) -> CifarResNet:
        """Return the network with fresh weights."""


def _builder(depth: int, size: str) -> Builder:
    """Return the builder of the ResNet of ``6 n + 2`` layers, n blocks in each of three stages."""

    def build(
        num_classes: int = 10, shortcut: Shortcut = "projection", init: Init = "fan_out"
    ) -> CifarResNet:
        return CifarResNet((depth - 2) // 6, num_classes, shortcut, init)

    build.__name__ = build.__qualname__ = f"resnet{depth}"
    build.__doc__ = f"ResNet-{depth}: {size}."
    return build


resnet20 = _builder(20, '272,474 parameters (269,722 with ``shortcut="pad"``)')
resnet32 = _builder(32, '466,906 parameters (464,154 with ``shortcut="pad"``)')
resnet44 = _builder(44, '661,338 parameters (658,586 with ``shortcut="pad"``)')
resnet56 = _builder(56, '855,770 parameters (853,018 with ``shortcut="pad"``)')
resnet110 = _builder(110, '1,730,714 parameters (1,727,962 with ``shortcut="pad"``)')
resnet1202 = _builder(1202, '19,424,026 parameters (19,421,274 with ``shortcut="pad"``)')
