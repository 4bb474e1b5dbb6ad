"""Networks of studies that are no network of the literature; named ``studies.networks:NAME``."""

from torch import nn

from precrop.models.initialise import kaiming

_STAGES = ((64, 64), (128, 128), (256, 256, 256))


def vgg8(num_classes: int = 10) -> nn.Sequential:
    """A chain for 16x16 images: the first three stages of VGG-16 and one linear layer."""
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
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * inputs, num_classes))
    kaiming(network)
    return network
