"""Small networks of every construction that must be read, and random compositions of them.

A *block* maps ``(batch, channels, size, size)`` to the same kind of tensor. It is made from the
channels that come in, the channels that are wanted (a block may round them) and the size.
`BLOCKS` says of every block how many independent widths ``stem -> block -> head`` has: the oracle.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import MobileNetV2, ShuffleNetV2

from precrop.models.vgg import STAGES, stages


def rounded(width: int, divisor: int) -> int:
    """The nearest multiple of ``divisor`` from above."""
    return -(-width // divisor) * divisor


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    """A convolution that keeps the size, normalised."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def short_mobilenet() -> nn.Module:
    """MobileNetV2 with three of its 17 blocks: all of its layers, in a fraction of the time."""
    blocks = [[1, 16, 1, 1], [6, 24, 2, 2]]  # expansion, channels, number, stride
    return MobileNetV2(num_classes=10, inverted_residual_setting=blocks)


def short_shufflenet() -> nn.Module:
    """ShuffleNetV2 with two blocks in each stage."""
    return ShuffleNetV2([2, 2, 2], [24, 48, 96, 192, 256], num_classes=10)


def narrow_vgg() -> nn.Module:
    """VGG-16 for CIFAR with a quarter of its channels."""
    widths = [[size // 4 for size in stage] for stage in STAGES]
    return nn.Sequential(*stages(widths), nn.Flatten(), nn.Linear(128, 10))


# --- layers and norms ---------------------------------------------------------------------------


class Normed(nn.Module):
    """A convolution behind any norm; LayerNorm runs with channels last."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm: nn.Module = {
            "group": lambda: nn.GroupNorm(4, outputs),
            "instance": lambda: nn.InstanceNorm2d(outputs, affine=True),
            "layer": lambda: nn.LayerNorm(outputs),
        }[norm]()
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if isinstance(self.norm, nn.LayerNorm):
            x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        else:
            x = self.norm(x)
        return self.act(x)


class Line(nn.Module):
    """A convolution along the flattened image."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x.flatten(2)))
        return y.reshape(x.shape[0], -1, *x.shape[2:])


class Volume(nn.Module):
    """The image as one frame of a video."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.norm = nn.BatchNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x.unsqueeze(2)))).squeeze(2)


def transposed(inputs: int, outputs: int, groups: int = 1) -> nn.Module:
    """Twice the size and back."""
    up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2, groups=groups)
    return nn.Sequential(up, nn.BatchNorm2d(outputs), nn.MaxPool2d(2))


def depthwise(inputs: int, outputs: int, multiplier: int = 1) -> nn.Module:
    """A depthwise convolution and a pointwise one."""
    middle = inputs * multiplier
    return nn.Sequential(conv(inputs, middle, groups=inputs), conv(middle, outputs, 1))


class Standardised(nn.Conv2d):
    """Weights of zero mean and unit variance, as in ResNet-v2 of BiT."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        mean = weight.mean(dim=(1, 2, 3), keepdim=True)
        deviation = weight.std(dim=(1, 2, 3), keepdim=True) + 1e-5
        return self._conv_forward(input, (weight - mean) / deviation, self.bias)


class ScaledStandardised(nn.Conv2d):
    """Weights standardised by a batch norm over their reshaped form, with a gain (NFNet)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))

    def forward(self, input: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        gain = self.gain.view(-1)
        weight = F.batch_norm(rows, None, None, weight=gain, training=True, momentum=0.0)
        return self._conv_forward(input, weight.reshape_as(self.weight), self.bias)


class MatrixConv(nn.Module):
    """A pointwise convolution whose weight is stored as a matrix."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / math.sqrt(inputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.view(*self.weight.shape, 1, 1))


# --- sums, rows, branches -----------------------------------------------------------------------


class Residual(nn.Module):
    """A bottleneck added to its input, or to a projection of it where the width changes."""

    def __init__(self, inputs: int, outputs: int, drop: float = 0.0) -> None:
        super().__init__()
        middle = max(outputs // 2, 2)
        self.body = nn.Sequential(conv(inputs, middle, 1), conv(middle, outputs))
        self.shortcut = conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.training and self.drop > 0:  # stochastic depth
            keep = torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= self.drop
            y = y * keep / (1 - self.drop)
        return F.dropout(y, 0.1, self.training) + self.shortcut(x)


class PaddedShortcut(nn.Module):
    """A shortcut of zeros for channels that the input does not have (option A of ResNet)."""

    def __init__(self, inputs: int, outputs: int, *, both: bool = False) -> None:
        super().__init__()
        self.body = conv(inputs, outputs)
        self.extra = outputs - inputs
        self.both = both

    def forward(self, x: Tensor) -> Tensor:
        before = self.extra // 2 if self.both else 0
        shortcut = F.pad(x, (0, 0, 0, 0, before, self.extra - before))
        return self.body(x) + shortcut


class Dense(nn.Module):
    """Two layers, each of which sees everything before it."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.first = conv(inputs, growth)
        self.second = conv(inputs + growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        features.append(self.first(torch.cat(features, 1)))
        features.append(self.second(torch.cat(features, 1)))
        return torch.cat(features, 1)


class Inception(nn.Module):
    """Branches side by side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        third = max(outputs // 3, 2)
        self.point = conv(inputs, third, 1)
        self.wide = nn.Sequential(conv(inputs, third + 1, 1), conv(third + 1, 2 * third))
        self.pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(inputs, third, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.point(x), self.wide(x), self.pool(x)], dim=1)


# --- parts of an axis ---------------------------------------------------------------------------


class Chunked(nn.Module):
    """Half of the channels gate the other half."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, 2 * outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.conv(x).chunk(2, dim=1)
        return value * gate.sigmoid()


class Glu(nn.Module):
    """The same by the operation made for it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, 2 * outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.conv(x), dim=1)


class HalfConv(nn.Module):
    """Half of the channels pass by; the half is computed from the input's shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels - channels // 2, channels - channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        return torch.cat([x[:, :half], self.conv(x[:, half:])], dim=1)


class PartialConv(nn.Module):
    """The first channels are convolved in place; their number is stored (FasterNet)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.active = max(channels // 4, 1)
        self.rest = channels - self.active
        self.conv = nn.Conv2d(self.active, self.active, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first, rest = torch.split(x, [self.active, self.rest], dim=1)
        return torch.cat([self.conv(first), rest], dim=1)


class Hierarchy(nn.Module):
    """Parts of a stored width, each fed with the one before (Res2Net)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.width = max(outputs // 3, 2)
        self.conv1 = conv(inputs, 3 * self.width, 1)
        self.convs = nn.ModuleList(conv(self.width, self.width) for _ in range(2))
        self.conv3 = conv(3 * self.width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(self.conv1(x), self.width, 1)
        done = [parts[0]]
        for layer, part in zip(self.convs, parts[1:], strict=True):
            done.append(layer(part + done[-1]))
        return self.conv3(torch.cat(done, 1))


class Mixed(nn.Module):
    """Depthwise convolutions of several kernels on parts whose sizes are in a list (MixNet)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.expand = conv(inputs, outputs, 1)
        self.splits = [outputs - outputs // 3, outputs // 3]
        self.convs = nn.ModuleList(
            conv(width, width, kernel, groups=width)
            for width, kernel in zip(self.splits, (3, 5), strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(self.expand(x), self.splits, 1)
        rows = [layer(part) for layer, part in zip(self.convs, parts, strict=True)]
        return torch.cat(rows, 1)


class Ghost(nn.Module):
    """Cheap copies of channels, of which a stored number is kept."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        primary = -(-outputs // 2)
        self.primary = conv(inputs, primary, 1)
        self.cheap = conv(primary, primary, groups=primary)

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary(x)
        both = torch.cat([first, self.cheap(first)], dim=1)
        return both[:, : self.outputs]


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Deal channels out to groups in turn."""
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).contiguous().view(batch, channels, height, width)


class ShuffleUnit(nn.Module):
    """Half passes by, half is convolved, then both are shuffled (ShuffleNet v2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(conv(half, half, 1), conv(half, half, groups=half))

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=1)
        return shuffle(torch.cat((kept, self.branch(changed)), dim=1), 2)


class GroupShuffle(nn.Module):
    """Grouped pointwise convolutions with a shuffle between (ShuffleNet v1)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.groups = 2
        self.first = conv(inputs, outputs, 1, groups=2)
        self.second = conv(outputs, outputs, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(shuffle(self.first(x), self.groups))


class Subpixel(nn.Module):
    """Channels become pixels and pixels channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.before = nn.Conv2d(inputs, 4 * outputs, 1)
        self.between = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.up, self.down = nn.PixelShuffle(2), nn.PixelUnshuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.between(self.up(self.before(x))))


# --- gates, scales ------------------------------------------------------------------------------


class SqueezeExcite(nn.Module):
    """A gate for every channel, from the means of all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, max(channels // 4, 1), 1)
        self.expand = nn.Conv2d(max(channels // 4, 1), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.relu_(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * F.hardsigmoid(gate)


class LinearGate(nn.Module):
    """The same with linear layers between a squeeze and an unsqueeze."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, 6), nn.Linear(6, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, _, _ = x.size()
        gate = F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(gate)))).view(batch, channels, 1, 1)
        return x * gate.expand_as(x)


class EfficientGate(nn.Module):
    """A gate by a convolution that runs along the channels (ECA)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv(x.mean((2, 3)).view(x.shape[0], 1, -1))
        return x * gate.view(x.shape[0], -1, 1, 1).sigmoid()


class SelectiveKernel(nn.Module):
    """Two branches weighted against each other (SK)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(inputs, outputs, kernel) for kernel in (3, 5))
        self.fc = nn.Conv2d(outputs, 5, 1)
        self.select = nn.Conv2d(5, 2 * outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        paths = torch.stack([layer(x) for layer in self.convs], dim=1)
        weights = self.select(self.fc(paths.sum(1).mean((2, 3), keepdim=True)))
        weights = weights.view(x.shape[0], 2, paths.shape[2], 1, 1).softmax(dim=1)
        return (paths * weights).sum(dim=1)


class Scaled(nn.Module):
    """A residual MLP with channels last and a learnt scale per channel (ConvNeXt)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 2 * channels)
        self.reduce = nn.Linear(2 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.mix(x).permute(0, 2, 3, 1))
        y = self.gamma * self.reduce(F.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


# --- attention ----------------------------------------------------------------------------------


class Attention(nn.Module):
    """Self-attention over pixels: queries, keys and values from one linear layer."""

    def __init__(self, channels: int, size: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(torch.zeros(1, size * size, channels))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        y = x.flatten(2).transpose(1, 2) + self.position
        qkv = self.qkv(y).reshape(batch, -1, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v
        y = self.out(y.transpose(1, 2).reshape(batch, -1, channels))
        return x + y.transpose(1, 2).reshape(batch, channels, height, width)


class TorchAttention(nn.Module):
    """The same by PyTorch's module."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2).transpose(1, 2)
        y = self.attention(y, y, y, need_weights=False)[0]
        return x + y.transpose(1, 2).reshape(x.shape)


class NonLocal(nn.Module):
    """Attention of convolutions, with a width of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = max(channels // 2, 1)
        self.theta, self.phi = nn.Conv2d(channels, middle, 1), nn.Conv2d(channels, middle, 1)
        self.g, self.out = nn.Conv2d(channels, middle, 1), nn.Conv2d(middle, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = (layer(x).flatten(2) for layer in (self.theta, self.phi, self.g))
        weights = torch.softmax(theta.transpose(1, 2) @ phi, dim=-1)
        y = (g @ weights).reshape(x.shape[0], -1, *x.shape[2:])
        return x + self.out(y)


# --- code ---------------------------------------------------------------------------------------


class Reused(nn.Module):
    """One convolution, several times."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = self.conv(x)
        return x


class InPlace(nn.Module):
    """Sums and gates written into tensors that exist."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b = conv(inputs, outputs), conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y + 0.5
        y += self.b(x)
        y.mul_(2.0).clamp_(min=-1.0)
        return y


class Branching(nn.Module):
    """Python decides what runs: by shapes, by the mode, by a number of channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.wide, self.narrow = conv(inputs, outputs, 5), conv(inputs, outputs)
        self.noise = nn.Parameter(torch.zeros(outputs, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == 4
        y = self.wide(x) if x.shape[-1] > 6 else self.narrow(x)
        if self.training:
            y = y + self.noise * torch.randn_like(y)
        return y


class Checked(nn.Module):
    """States its input's width and insists on it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.conv = conv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.inputs, f"expected {self.inputs} channels"
        return self.conv(x)


@dataclass(frozen=True)
class Block:
    """How a block is made from (inputs, outputs, size), and the independent widths around it.

    ``groups`` counts those of ``stem -> block -> head`` at 16 and 24 channels.
    """

    make: Callable[[int, int, int], nn.Module]
    groups: int


BLOCKS: dict[str, Block] = {
    "conv": Block(lambda i, o, s: conv(i, o), 2),
    "strided": Block(lambda i, o, s: conv(i, o, stride=2), 2),
    "group norm": Block(lambda i, o, s: Normed(i, rounded(o, 4), "group"), 2),
    "instance norm": Block(lambda i, o, s: Normed(i, o, "instance"), 2),
    "layer norm": Block(lambda i, o, s: Normed(i, o, "layer"), 2),
    "conv1d": Block(lambda i, o, s: Line(i, o), 2),
    "conv3d": Block(lambda i, o, s: Volume(i, o), 2),
    "transposed": Block(lambda i, o, s: transposed(i, o), 2),
    "transposed grouped": Block(
        lambda i, o, s: nn.Sequential(
            conv(i, rounded(i, 4)), transposed(rounded(i, 4), rounded(o, 4), 4)
        ),
        3,
    ),
    "transposed depthwise": Block(lambda i, o, s: transposed(i, i, i), 1),
    "grouped": Block(
        lambda i, o, s: nn.Sequential(
            conv(i, rounded(o, 4)), conv(rounded(o, 4), rounded(o, 4), groups=4)
        ),
        3,
    ),
    "depthwise": Block(lambda i, o, s: depthwise(i, o), 2),
    "depthwise multiplied": Block(lambda i, o, s: depthwise(i, o, 2), 2),
    "standardised": Block(lambda i, o, s: Standardised(i, o, 3, padding=1), 2),
    "scaled standardised": Block(lambda i, o, s: ScaledStandardised(i, o), 2),
    "matrix conv": Block(lambda i, o, s: MatrixConv(i, o), 2),
    "residual": Block(lambda i, o, s: Residual(i, i), 2),
    "residual projected": Block(lambda i, o, s: Residual(i, o if o != i else o + 2), 3),
    "stochastic depth": Block(lambda i, o, s: Residual(i, i, 0.5), 2),
    "padded shortcut": Block(lambda i, o, s: PaddedShortcut(i, i + o), 2),
    # Zeros before and behind are two widths for as long as the plan keeps them equal.
    "padded both sides": Block(lambda i, o, s: PaddedShortcut(i, i + o, both=True), 3),
    "dense": Block(lambda i, o, s: Dense(i, max(o // 2, 1)), 3),
    "inception": Block(lambda i, o, s: Inception(i, o), 5),
    "chunked": Block(lambda i, o, s: Chunked(i, o), 2),
    "glu": Block(lambda i, o, s: Glu(i, o), 2),
    "half conv": Block(lambda i, o, s: HalfConv(i), 2),
    "partial conv": Block(lambda i, o, s: PartialConv(i), 3),
    "hierarchy": Block(lambda i, o, s: Hierarchy(i, o), 4),
    "mixed": Block(lambda i, o, s: Mixed(i, o), 3),
    "ghost": Block(lambda i, o, s: Ghost(i, o), 2),
    "shuffle unit": Block(
        lambda i, o, s: nn.Sequential(conv(i, rounded(o, 4)), ShuffleUnit(rounded(o, 4))), 2
    ),
    "group shuffle": Block(
        lambda i, o, s: nn.Sequential(
            conv(i, rounded(o, 2)), GroupShuffle(rounded(o, 2), rounded(o, 2))
        ),
        4,
    ),
    "subpixel": Block(lambda i, o, s: Subpixel(i, o), 3),
    "squeeze excite": Block(lambda i, o, s: SqueezeExcite(i), 2),
    "linear gate": Block(lambda i, o, s: LinearGate(i), 2),
    "efficient gate": Block(lambda i, o, s: EfficientGate(), 1),
    "selective kernel": Block(lambda i, o, s: SelectiveKernel(i, o), 3),
    "scaled": Block(lambda i, o, s: Scaled(i), 2),
    "attention": Block(
        lambda i, o, s: nn.Sequential(conv(i, rounded(o, 4)), Attention(rounded(o, 4), s)), 2
    ),
    "torch attention": Block(
        lambda i, o, s: nn.Sequential(conv(i, rounded(o, 4)), TorchAttention(rounded(o, 4))), 2
    ),
    "non-local": Block(lambda i, o, s: NonLocal(i), 3),
    "reused": Block(lambda i, o, s: Reused(i), 1),
    "in place": Block(lambda i, o, s: InPlace(i, o), 2),
    "branching": Block(lambda i, o, s: Branching(i, o), 2),
    "checked": Block(lambda i, o, s: Checked(i, o), 2),
}


# --- whole networks -----------------------------------------------------------------------------


class Net(nn.Module):
    """A stem, blocks, a head; with an auxiliary head that only training runs, if wanted.

    ``output`` is ``tensor``, ``tuple`` or ``dict``; the latter two also return the last features.
    """

    def __init__(
        self,
        stem: nn.Module,
        blocks: Sequence[nn.Module],
        head: nn.Module,
        aux: nn.Module | None = None,
        output: str = "tensor",
    ) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.ModuleList(blocks), head
        self.aux, self.output = aux, output

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        y = self.head(x)
        if self.aux is not None and self.training:
            return y, self.aux(x)
        pooled = x.mean((2, 3))
        return {"tensor": y, "tuple": (y, pooled), "dict": {"out": y, "features": pooled}}[
            self.output
        ]


class Matching(nn.Module):
    """A head that compares pooled features with learnt prototypes, fixed in number."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(5, channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.mean((2, 3)), self.prototypes)


HEADS: dict[str, Callable[[int, int], nn.Module]] = {
    "pool": lambda c, s: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 5)),
    "flatten": lambda c, s: nn.Sequential(
        nn.Flatten(), nn.Linear(c * s * s, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 5)
    ),
    "conv": lambda c, s: nn.Sequential(
        nn.Dropout(0.2), nn.Conv2d(c, 5, 1), nn.AdaptiveMaxPool2d(1)
    ),
    "prototypes": lambda c, s: Matching(c),
}

SHAPE = (3, 8, 8)


def small(block: str, inputs: int = 16, outputs: int = 24, head: str = "pool") -> Net:
    """``stem -> block -> head`` on `SHAPE`."""
    return assemble([(block, outputs)], stem=inputs, head=head)


def assemble(
    blocks: Sequence[tuple[str, int]],
    *,
    stem: int = 16,
    head: str = "pool",
    aux: bool = False,
    output: str = "tensor",
) -> Net:
    """A network of named blocks with the channels wanted of each; weights are always the same."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        first = conv(SHAPE[0], stem)
        x = torch.zeros(1, stem, *SHAPE[1:])
        made = []
        for name, width in blocks:
            block = BLOCKS[name].make(x.shape[1], width, x.shape[2])
            x = block.eval()(x)
            made.append(block)
        channels, size = x.shape[1:3]
        auxiliary = HEADS["pool"](channels, size) if aux else None
        net = Net(first, made, HEADS[head](channels, size), auxiliary, output)
    return net.train()


@st.composite
def networks(draw: st.DrawFn, max_blocks: int = 4) -> Net:
    """Random compositions of the blocks; the same draw gives the same weights."""
    width = st.sampled_from([4, 6, 8, 10, 12, 13, 16, 24])
    block = st.tuples(st.sampled_from(sorted(BLOCKS)), width)
    return assemble(
        draw(st.lists(block, min_size=1, max_size=max_blocks)),
        stem=draw(width),
        head=draw(st.sampled_from(sorted(HEADS))),
        aux=draw(st.booleans()),
        output=draw(st.sampled_from(["tensor", "tuple", "dict"])),
    )
