"""Small networks with inputs and outputs of every form."""

from torch import Tensor, nn


class Pair(nn.Module):
    """Two inputs, a tuple of outputs; one of them is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 8, 3, padding=1)
        self.right = nn.Conv2d(1, 8, 3, padding=1)

    def forward(self, x: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
        return (self.left(x) - self.right(input)).relu(), input


class Heads(nn.Module):
    """A dict of outputs, with keys that an ONNX graph may have for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, object]:
        y = self.norm(self.conv(x)).relu()
        return {"x": y, "relu": [y.mean((2, 3)), y.amax((2, 3))], "out": self.out(y.mean((2, 3)))}


class Named(nn.Module):
    """Inputs by name, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, *, image: Tensor, mask: Tensor) -> Tensor:
        return self.conv(image * mask.sigmoid()).flatten(2)


class Taken(nn.Module):
    """Parts under names that are attributes of what torch.export makes."""

    def __init__(self) -> None:
        super().__init__()
        self.meta, self.graph, self.code = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return self.code(self.graph(self.meta(image)) * mask.sigmoid()).flatten(2)


class Listed(nn.Module):
    """Any number of inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, *images: Tensor) -> Tensor:
        return self.conv(images[0] - 2 * images[1])


class Nested(nn.Module):
    """Inputs in a list and in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: list[Tensor], scales: dict[str, Tensor]) -> Tensor:
        return self.conv(images[0] - 2 * images[1]) * scales["gain"][:, :, None, None]


class OneByOne(nn.Module):
    """Loops over the batch, so that it can be exported for one batch size alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.conv(image[None]) for image in x]


class Valued(nn.Module):
    """Its path depends on values, which no exporter follows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y if float(y.sum()) > 0 else -y


class Gamma(nn.Module):
    """Has an operation that torch.export knows and ONNX does not."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y.lgamma()


def small(classes: int = 5) -> nn.Module:
    """A plain network with a norm."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )
