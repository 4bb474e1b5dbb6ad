"""VGG-16 for CIFAR, in the form that the pruning-at-initialisation literature uses.

Simonyan & Zisserman 2015 (arXiv 1409.1556) with batch norm, an average pool in place of the last
max-pool and one linear layer: the form of Frankle et al. 2021 (arXiv 2009.08576) and Tanaka et al.
2020 (SynFlow, arXiv 2006.05467), except that their convolutions have biases.
"""

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from precrop.models.initialise import Init, kaiming

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class CifarVGG(nn.Module):
    """13 convolutions in five stages, each with a pool at its end, and one linear layer."""

    def __init__(self, num_classes: int = 10, init: Init = "fan_out") -> None:
        super().__init__()
        self.features = nn.Sequential(*stages(STAGES))
        self.features[-1] = nn.AvgPool2d(2)
        self.classifier = nn.Linear(STAGES[-1][-1], num_classes)
        kaiming(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, 3, 32, 32)`` to logits ``(N, num_classes)``."""
        out: Tensor = self.classifier(self.features(x).flatten(1))
        return out


def stages(widths: Iterable[Iterable[int]]) -> Iterator[nn.Module]:
    """Yield convolutions of these widths, from three channels; each stage ends with a max-pool.

    Convolutions have no bias, as the batch norm that follows would cancel it.
    """
    inputs = 3
    for stage in widths:
        for outputs in stage:
            yield nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            yield nn.BatchNorm2d(outputs)
            yield nn.ReLU(inplace=True)
            inputs = outputs
        yield nn.MaxPool2d(2)


def cifar_vgg16_bn(num_classes: int = 10, init: Init = "fan_out") -> CifarVGG:
    """VGG-16-BN for 32x32 images: 14,724,042 parameters."""
    return CifarVGG(num_classes, init)
