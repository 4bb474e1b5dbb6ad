"""MobileNetV2 for CIFAR: Sandler et al. 2018 (arXiv 1801.04381) without two of its strides."""

from torch import Tensor, nn

from precrop.models.initialise import Init, kaiming

# expansion, output channels, blocks, stride. The paper's table with stride 1 in the stem and in
# the second row: 32x32 images end at 4x4.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1; add the input if shapes match."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expand = _conv(inputs, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _conv(hidden, hidden, 3, stride, groups=hidden)
        self.project = nn.Sequential(
            nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs, H, W)`` to ``(N, outputs, H/stride, W/stride)``."""
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class CifarMobileNetV2(nn.Module):
    """A stem of 32 channels, seven stages of inverted residuals and a head of 1280 channels."""

    def __init__(self, num_classes: int = 10, init: Init = "fan_out") -> None:
        super().__init__()
        self.stem = _conv(3, 32, 3)
        blocks: list[nn.Module] = []
        inputs = 32
        for expansion, outputs, repeats, stride in _STAGES:
            for index in range(repeats):
                step = stride if index == 0 else 1
                blocks.append(InvertedResidual(inputs, outputs, expansion, step))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv(inputs, 1280, 1)
        self.classifier = nn.Linear(1280, num_classes)
        kaiming(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, 3, 32, 32)`` to logits ``(N, num_classes)``."""
        x = self.head(self.blocks(self.stem(x)))
        out: Tensor = self.classifier(x.mean((2, 3)))
        return out


def cifar_mobilenet_v2(num_classes: int = 10, init: Init = "fan_out") -> CifarMobileNetV2:
    """MobileNetV2 for 32x32 images: 2,236,682 parameters."""
    return CifarMobileNetV2(num_classes, init)
