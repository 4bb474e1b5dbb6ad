"""Small networks that the tests measure, and a clock that they set."""

import torch
from torch import Tensor, nn

from precrop.read.inputs import Inputs

SHAPE = (3, 8, 8)


class Small(nn.Module):
    """Convolutions of several kinds, each with a norm, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 32, 1)
        self.conv2 = nn.Conv2d(32, 32, (3, 1), padding="same", dilation=2)
        self.fc = nn.Linear(32, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.pointwise(self.depthwise(x)))
        x = torch.relu(self.conv2(x))
        return self.fc(x.mean((2, 3)))


def small() -> Small:
    torch.manual_seed(0)
    return Small().eval()


def image() -> Tensor:
    """What a function of one's own gives as example inputs."""
    return torch.zeros(1, *SHAPE)


def inputs() -> Inputs:
    return Inputs(SHAPE)


def mask(model: nn.Module, share: float) -> nn.Module:
    """Keep about this share of every weight, in place."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand(parameter.shape, generator=random) < share)
    return model


class Clock:
    """Stands still until somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now
