"""EfficientNet-B0 for CIFAR: Tan & Le 2019 (arXiv 1905.11946) without two of its strides."""

import torch.nn.functional as F
from torch import Tensor, nn

from precrop.models.initialise import Init, kaiming

# expansion, output channels, blocks, stride, kernel. The paper's table with stride 1 in the stem
# and in the second row: 32x32 images end at 4x4.
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 1, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(inplace=True),
    )


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from the whole map (Hu 2018, arXiv 1709.01507)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``(N, channels, H, W)`` channel by channel."""
        gate: Tensor = self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class MBConv(nn.Module):
    """An inverted residual block with squeeze-and-excitation and stochastic depth.

    Args:
        inputs: channels in.
        outputs: channels out.
        expansion: hidden channels as a multiple of ``inputs``.
        stride: of the depthwise convolution.
        kernel: size of the depthwise convolution.
        drop: probability that an image skips the residual branch in training.
    """

    def __init__(
        self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int, drop: float
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.drop = drop
        self.residual = stride == 1 and inputs == outputs
        self.expand = _conv(inputs, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _conv(hidden, hidden, kernel, stride, groups=hidden)
        self.gate = SqueezeExcite(hidden, max(1, inputs // 4))
        self.project = nn.Sequential(
            nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs, H, W)`` to ``(N, outputs, H/stride, W/stride)``."""
        out: Tensor = self.project(self.gate(self.depthwise(self.expand(x))))
        if not self.residual:
            return out
        if self.training and self.drop > 0:
            keep = 1 - self.drop
            out = out * (out.new_empty(len(out), 1, 1, 1).bernoulli_(keep) / keep)
        return x + out


class CifarEfficientNet(nn.Module):
    """A stem of 32 channels, seven stages of `MBConv` blocks and a head of 1280 channels.

    Args:
        num_classes: number of outputs.
        dropout: probability of dropout before the linear layer.
        stochastic_depth: drop probability of the last block; it grows linearly from 0.
        init: as in `precrop.models.initialise.kaiming`.
    """

    def __init__(
        self,
        num_classes: int = 10,
        dropout: float = 0.2,
        stochastic_depth: float = 0.2,
        init: Init = "fan_out",
    ) -> None:
        super().__init__()
        self.stem = _conv(3, 32, 3)
        total = sum(repeats for _, _, repeats, _, _ in _STAGES)
        blocks: list[nn.Module] = []
        inputs = 32
        for expansion, outputs, repeats, stride, kernel in _STAGES:
            for index in range(repeats):
                step = stride if index == 0 else 1
                drop = stochastic_depth * len(blocks) / total
                blocks.append(MBConv(inputs, outputs, expansion, step, kernel, drop))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv(inputs, 1280, 1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(1280, num_classes)
        kaiming(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, 3, 32, 32)`` to logits ``(N, num_classes)``."""
        x = self.head(self.blocks(self.stem(x)))
        out: Tensor = self.classifier(self.dropout(x.mean((2, 3))))
        return out


def cifar_efficientnet_b0(
    num_classes: int = 10,
    dropout: float = 0.2,
    stochastic_depth: float = 0.2,
    init: Init = "fan_out",
) -> CifarEfficientNet:
    """EfficientNet-B0 for 32x32 images: 4,020,358 parameters."""
    return CifarEfficientNet(num_classes, dropout, stochastic_depth, init)
