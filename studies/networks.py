"""Networks of studies that are no network of the literature; named ``studies.networks:NAME``."""

from collections.abc import Sequence

from torch import nn

from precrop.models.initialise import kaiming
from precrop.models.resnet import CifarResNet
from precrop.models.vgg import STAGES, stages


def vgg8(num_classes: int = 10) -> nn.Sequential:
    """A chain for 16x16 images: the first three stages of VGG-16 and one linear layer."""
    return _chain(STAGES[:3], num_classes)


def vgg8_inverted(num_classes: int = 10) -> nn.Sequential:
    """`vgg8` with the wide layers where the maps are large."""
    return _chain(((48, 48), (32, 32), (16, 16, 16)), num_classes)


def vgg8_zigzag(num_classes: int = 10) -> nn.Sequential:
    """`vgg8` with every other layer narrow."""
    return _chain(((64, 16), (64, 32), (128, 32, 128)), num_classes)


def resnet20_inverted(num_classes: int = 10) -> CifarResNet:
    """ResNet-20 with its stages narrowing instead of widening."""
    return CifarResNet(3, num_classes, widths=(32, 24, 16))


def resnet20_zigzag(num_classes: int = 10) -> CifarResNet:
    """ResNet-20 with a narrow stage between wide ones."""
    return CifarResNet(3, num_classes, widths=(32, 8, 64))


def _chain(widths: Sequence[Sequence[int]], num_classes: int) -> nn.Sequential:
    """Convolutions in three stages for 16x16 images, and one linear layer."""
    features = 4 * widths[-1][-1]
    network = nn.Sequential(*stages(widths), nn.Flatten(), nn.Linear(features, num_classes))
    kaiming(network)
    return network
