"""Networks of studies that are no network of the literature; named ``studies.networks:NAME``."""

from torch import nn

from precrop.models.initialise import kaiming
from precrop.models.vgg import STAGES, stages


def vgg8(num_classes: int = 10) -> nn.Sequential:
    """A chain for 16x16 images: the first three stages of VGG-16 and one linear layer."""
    first = STAGES[:3]
    features = 4 * first[-1][-1]
    network = nn.Sequential(*stages(first), nn.Flatten(), nn.Linear(features, num_classes))
    kaiming(network)
    return network
