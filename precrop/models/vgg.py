"""VGG-16 for CIFAR, in the form that the pruning-at-initialisation literature uses.

Simonyan & Zisserman 2015 (arXiv 1409.1556) with batch norm and one linear layer; the form of
Frankle et al. 2021 (arXiv 2009.08576) and Tanaka et al. 2020 (SynFlow, arXiv 2006.05467).
"""

from torch import Tensor, nn

from precrop.models.initialise import kaiming

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class CifarVGG(nn.Module):
    """13 convolutions in five stages, each ended by a max-pool, and one linear layer.

    Convolutions have no bias: batch norm follows and would take it away.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for stage in _STAGES:
            for outputs in stage:
                layers += [
                    nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(inplace=True),
                ]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, 3, 32, 32)`` to logits ``(N, num_classes)``."""
        out: Tensor = self.classifier(self.features(x).flatten(1))
        return out


def cifar_vgg16_bn(num_classes: int = 10) -> CifarVGG:
    """VGG-16-BN for 32x32 images: 14,724,042 parameters."""
    return CifarVGG(num_classes)
