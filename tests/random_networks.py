"""Random networks of every construction that precrop reads, made again from their seed.

A network is a stem, some blocks that keep the size of a map, perhaps a step down or up between
them, and one of several kinds of output. Most blocks contain others.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torchvision.ops import DeformConv2d

SIZE = 8
"""Height and width of the images."""

Made = tuple[nn.Module, int]
"""A module and the channels that it puts out."""

Maker = Callable[["Drawer", int], Made]
"""Makes a module for a number of input channels."""


@dataclass
class Drawer:
    """Draws choices from one seed; ``depth`` is how many blocks are around the present one."""

    random: Random
    size: int = SIZE
    depth: int = 0

    def width(self) -> int:
        """A number of channels; most have divisors."""
        return self.random.choice((4, 6, 8, 8, 10, 12, 12, 16, 16, 18, 20, 24, 7, 13))

    def one_of(self, *choices: Any) -> Any:
        """Any of some values."""
        return self.random.choice(choices)

    def divisor(self, *numbers: int) -> int:
        """A number from 1 to 8 that divides all of some."""
        return self.one_of(*(n for n in range(1, 9) if not any(m % n for m in numbers)))

    def cut(self, total: int, parts: int) -> list[int]:
        """Sizes of so many parts of a total."""
        places = sorted(self.random.sample(range(1, total), parts - 1))
        return [b - a for a, b in zip([0, *places], [*places, total], strict=True)]

    def block(self, channels: int) -> Made:
        """Any block; deep inside a simple one."""
        makers = SIMPLE if self.depth > 1 else (*SIMPLE, *BLOCKS, *BLOCKS)
        self.depth += 1
        made: Made = self.one_of(*makers)(self, channels)
        self.depth -= 1
        return made


class Apply(nn.Module):
    """Modules by name, and a function of them and the map; integers are attributes."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function
        self.__class__ = _kind(function.__qualname__)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@cache
def _kind(name: str) -> type[Apply]:
    """A class for every function, since code of one class is taken to be alike."""
    return type(f"Apply_{name}", (Apply,), {})


# --- single layers --------------------------------------------------------------------------------


class LastNorm(nn.Module):
    """A norm of channels that are moved to the end for it."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class KeptNorm(nn.Module):
    """A batch norm that is not trained, written out with buffers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in {"weight": 1, "bias": 0, "mean": 0, "var": 1}.items():
            self.register_buffer(name, torch.full((channels,), float(value)))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, var = (b.reshape(1, -1, 1, 1) for b in self.buffers())
        scale = weight * (var + 1e-5).rsqrt()
        return x * scale + (bias - mean * scale)


def norm(draw: Drawer, channels: int) -> nn.Module:
    """A normalisation of any kind, or none."""
    groups = draw.divisor(channels)
    return draw.one_of(
        lambda: nn.BatchNorm2d(channels),
        lambda: nn.BatchNorm2d(channels, affine=False),
        lambda: nn.GroupNorm(groups, channels),
        lambda: nn.InstanceNorm2d(channels, affine=True),
        lambda: LastNorm(nn.LayerNorm(channels)),
        lambda: LastNorm(nn.RMSNorm(channels)),
        lambda: nn.LocalResponseNorm(3),
        lambda: KeptNorm(channels),
        nn.Identity,
    )()


def activation(draw: Drawer, channels: int) -> nn.Module:
    """An activation, some in place, one with parameters."""
    return draw.one_of(
        nn.ReLU,
        lambda: nn.ReLU(inplace=True),
        nn.GELU,
        nn.SiLU,
        lambda: nn.PReLU(channels),
        nn.Tanh,
    )()


def plain(draw: Drawer, channels: int) -> Made:
    """A convolution, a norm, an activation."""
    width, kernel = draw.width(), draw.one_of(1, 3)
    layer = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=draw.one_of(True, False))
    return nn.Sequential(layer, norm(draw, width), activation(draw, width)), width


def grouped(draw: Drawer, channels: int) -> Made:
    """A convolution in groups, behind one that brings the channels for it."""
    groups = draw.one_of(2, 3, 4)
    inputs, width = groups * draw.one_of(2, 4, 5), groups * draw.one_of(1, 2, 4)
    return nn.Sequential(
        nn.Conv2d(channels, inputs, 1), nn.Conv2d(inputs, width, 3, padding=1, groups=groups)
    ), width


def depthwise(draw: Drawer, channels: int) -> Made:
    """A depthwise convolution, perhaps with a multiplier, and a pointwise one."""
    inner, width = channels * draw.one_of(1, 1, 2), draw.width()
    return nn.Sequential(
        nn.Conv2d(channels, inner, 3, padding=1, groups=channels), nn.Conv2d(inner, width, 1)
    ), width


def transposed(draw: Drawer, channels: int) -> Made:
    """A transposed convolution, perhaps in groups."""
    groups = draw.divisor(channels)
    width = groups * draw.one_of(1, 2, 3, 4)
    return nn.ConvTranspose2d(channels, width, 3, padding=1, groups=groups), width


class Standardised(nn.Conv2d):
    """A convolution whose weights have no mean and unit variance over its inputs."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.flatten(1)
        weight = F.batch_norm(weight.unsqueeze(0), None, None, training=True)
        return F.conv2d(x, weight.view_as(self.weight), self.bias, padding=self.padding)


def reparametrised(draw: Drawer, channels: int) -> Made:
    """A convolution whose weight is computed of others."""
    width = draw.width()
    layer = nn.Conv2d(channels, width, 3, padding=1)
    made = draw.one_of(
        lambda: parametrizations.weight_norm(layer),
        lambda: parametrizations.spectral_norm(layer),
        lambda: Standardised(channels, width, 3, padding=1),
    )()
    return made, width


def deformable(draw: Drawer, channels: int) -> Made:
    """A deformable convolution with its offsets."""
    width = draw.width()
    return Apply(
        lambda m, x: m.conv(x, m.offset(x)),
        offset=nn.Conv2d(channels, 18, 3, padding=1),
        conv=DeformConv2d(channels, width, 3, padding=1),
    ), width


def bare(draw: Drawer, channels: int) -> Made:
    """Bare parameters: a mix of channels by an einsum, a table of positions."""
    width, size = draw.width(), draw.size

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Parameter(torch.randn(width, channels) * 0.1)
            self.table = nn.Parameter(torch.randn(1, channels, size, size))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bchw,oc->bohw", x + self.table, self.mix)

    return Bare(), width


class Mixture(nn.Module):
    """Kernels of three experts, mixed for every sample."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.route, self.width = nn.Linear(channels, 3), width
        self.weight = nn.Parameter(torch.randn(3, width, channels, 3, 3) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *space = x.shape
        share = self.route(x.mean((2, 3))).softmax(1)
        kernel = (share @ self.weight.flatten(1)).view(batch * self.width, channels, 3, 3)
        x = F.conv2d(x.reshape(1, -1, *space), kernel, padding=1, groups=batch)
        return x.view(batch, self.width, *space)


def mixture(draw: Drawer, channels: int) -> Made:
    """A convolution with mixed kernels."""
    width = draw.width()
    return Mixture(channels, width), width


class Spectral(nn.Module):
    """Complex weights for the low frequencies of every channel."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, width, 2, 2, 2) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        low = torch.fft.rfft2(x)[:, :, :2, :2]
        low = torch.einsum("bixy,ioxy->boxy", low, torch.view_as_complex(self.weight))
        return torch.fft.irfft2(low, s=x.shape[-2:])


def spectral(draw: Drawer, channels: int) -> Made:
    """A layer on frequencies."""
    width = draw.width()
    return Spectral(channels, width), width


# --- what moves channels about --------------------------------------------------------------------


def shuffled(draw: Drawer, channels: int) -> Made:
    """Channels dealt out to groups, by a view or by the operation for it."""
    groups = draw.divisor(channels)

    def by_view(m: Any, x: Tensor) -> Tensor:
        return x.view(len(x), m.groups, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape)

    way = draw.one_of(by_view, lambda m, x: F.channel_shuffle(x, m.groups))
    return Apply(way, groups=groups), channels


def gated(draw: Drawer, channels: int) -> Made:
    """Half of a layer's channels gate the other half."""
    width = draw.width()
    layer = nn.Conv2d(channels, 2 * width, 1)

    def by_chunk(m: Any, x: Tensor) -> Tensor:
        value, gate = m.layer(x).chunk(2, 1)
        return value * gate.sigmoid()

    def by_slice(m: Any, x: Tensor) -> Tensor:
        x = m.layer(x)
        return x[:, : m.width] * x[:, m.width :]

    way = draw.one_of(by_chunk, by_slice, lambda m, x: F.glu(m.layer(x), 1))
    return Apply(way, layer=layer, width=width), width


def unequal_parts(draw: Drawer, channels: int) -> Made:
    """A split into parts of any sizes, each with layers of its own, in another order."""
    total = max(draw.width(), 6)
    sizes = draw.cut(total, draw.one_of(2, 3))
    made = [draw.block(size) for size in sizes]
    order = draw.random.sample(range(len(sizes)), len(sizes))

    def apply(m: Any, x: Tensor) -> Tensor:
        parts = m.layer(x).split(m.sizes, 1)
        return torch.cat([m.parts[i](parts[i]) for i in order], 1)

    def by_code(m: Any, x: Tensor) -> Tensor:
        parts = m.layer(x).split(sizes, 1)
        return torch.cat([m.parts[i](parts[i]) for i in order], 1)

    return Apply(
        draw.one_of(apply, apply, by_code),
        layer=nn.Conv2d(channels, total, 1),
        sizes=sizes,
        parts=nn.ModuleList(module for module, _ in made),
    ), sum(width for _, width in made)


def partial(draw: Drawer, channels: int) -> Made:
    """A layer for some channels alone, the others pass it."""
    if channels < 4:
        return plain(draw, channels)
    part = draw.one_of(channels // 2, channels // 4, 3)

    def by_attribute(m: Any, x: Tensor) -> Tensor:
        return torch.cat([m.layer(x[:, : m.part]), x[:, m.part :]], 1)

    def by_code(m: Any, x: Tensor) -> Tensor:
        return torch.cat([m.layer(x[:, :part]), x[:, part:]], 1)

    def in_place(m: Any, x: Tensor) -> Tensor:
        x = x.clone()
        x[:, : m.part] = m.layer(x[:, : m.part].clone())
        return x

    layer = nn.Conv2d(part, part, 3, padding=1)
    return Apply(draw.one_of(by_attribute, by_code, in_place), layer=layer, part=part), channels


def padded(draw: Drawer, channels: int) -> Made:
    """A shortcut whose further channels are zero."""
    width = channels + draw.one_of(2, 4, 6)
    missing = width - channels

    def by_attribute(m: Any, x: Tensor) -> Tensor:
        return m.layer(x) + F.pad(x, (0, 0, 0, 0, 0, m.missing))

    def by_code(m: Any, x: Tensor) -> Tensor:
        half = missing // 2
        return m.layer(x) + F.pad(x, (0, 0, 0, 0, half, half))

    def by_shape(m: Any, x: Tensor) -> Tensor:
        y = m.layer(x)
        zeros = x.new_zeros(len(x), y.shape[1] - x.shape[1], *x.shape[2:])
        return y + torch.cat([x, zeros], 1)

    def by_partial(m: Any, x: Tensor) -> Tensor:
        return m.layer(x) + m.shortcut(x)

    layer = nn.Conv2d(channels, width, 3, padding=1)
    function = draw.one_of(by_attribute, by_code, by_shape, by_partial)
    if function is by_partial:
        return Apply(function, layer=layer, shortcut=functools.partial(filled, width=width)), width
    return Apply(function, layer=layer, missing=missing), width


def filled(x: Tensor, width: int) -> Tensor:
    """A map with further channels of zeros."""
    zeros = torch.zeros(len(x), width - x.shape[1], *x.shape[2:], device=x.device)
    return torch.cat([x, zeros], 1)


def held(draw: Drawer, channels: int) -> Made:
    """Plain tensors, no buffers: a mask of a weight, a table that is added, a number a channel."""
    width = draw.width()

    def masked(m: Any, x: Tensor) -> Tensor:
        return F.conv2d(x, m.layer.weight * m.mask.to(x.device), m.layer.bias, padding=1)

    def shifted(m: Any, x: Tensor) -> Tensor:
        return m.layer(x) + m.table.to(x.device)

    def scaled(m: Any, x: Tensor) -> Tensor:
        return (m.layer(x) - m.mean.to(x.device)[:, None, None]) * m.scale.to(x.device)

    layer = nn.Conv2d(channels, width, 3, padding=1)
    function = draw.one_of(masked, shifted, scaled)
    kept: dict[str, Tensor] = {"mask": torch.rand(layer.weight.shape).round()}
    if function is shifted:
        kept = {"table": torch.randn(1, width, draw.size, draw.size)}
    elif function is scaled:
        kept = {"mean": torch.randn(width), "scale": torch.rand(width, 1, 1)}
    return Apply(function, layer=layer, **kept), width


class StateCell(nn.Module):
    """A recurrent cell of maps that makes its own first state."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = nn.Conv2d(channels + hidden, 2 * hidden, 3, padding=1)

    def first(self, x: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros(len(x), self.hidden, *x.shape[2:], device=x.device)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        gate, new = self.gates(torch.cat([x, state], 1)).split(self.hidden, 1)
        return gate.sigmoid() * state + new.tanh()


def asked(draw: Drawer, channels: int) -> Made:
    """A recurrence whose state's width is asked of the cell, by a method or an attribute."""
    hidden = draw.width()

    def by_method(m: Any, x: Tensor) -> Tensor:
        return m.cell(x, m.cell(x, m.cell.first(x)))

    def by_attribute(m: Any, x: Tensor) -> Tensor:
        return m.cell(x, m.cell(x, x.new_zeros(len(x), m.cell.hidden, *x.shape[2:])))

    return Apply(draw.one_of(by_method, by_attribute), cell=StateCell(channels, hidden)), hidden


def pixels(draw: Drawer, channels: int) -> Made:
    """Pixels become channels, and channels pixels."""
    width = draw.one_of(2, 3, 4)
    return nn.Sequential(
        nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, 4 * width, 1), nn.PixelShuffle(2)
    ), width


def maxout(draw: Drawer, channels: int) -> Made:
    """The largest of some channels."""
    width, pieces = draw.width(), draw.one_of(2, 3)

    def apply(m: Any, x: Tensor) -> Tensor:
        return m.layer(x).view(len(x), m.width, m.pieces, *x.shape[2:]).amax(2)

    layer = nn.Conv2d(channels, width * pieces, 1)
    return Apply(apply, layer=layer, width=width, pieces=pieces), width


def chosen(draw: Drawer, channels: int) -> Made:
    """Channels in an order that a buffer keeps."""
    order = draw.random.sample(range(channels), channels)

    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("order", torch.tensor(order))

        def forward(self, x: Tensor) -> Tensor:
            return x.index_select(1, self.get_buffer("order"))

    return Chosen(), channels


def written_out(draw: Drawer, channels: int) -> Made:
    """A view whose sizes are numbers in the code, or an attribute."""
    size = draw.size

    def by_code(m: Any, x: Tensor) -> Tensor:
        return x.reshape(-1, channels, size, size)

    def by_attribute(m: Any, x: Tensor) -> Tensor:
        return x.reshape(-1, m.shape[0], size, size)

    def by_unflatten(m: Any, x: Tensor) -> Tensor:
        return x.flatten(1).unflatten(1, m.shape)

    shape = (channels, size, size)
    return Apply(draw.one_of(by_code, by_attribute, by_unflatten), shape=shape), channels


def asserted(draw: Drawer, channels: int) -> Made:
    """A layer that checks the number of channels first."""
    width = draw.width()

    def apply(m: Any, x: Tensor) -> Tensor:
        assert x.shape[1] == m.channels
        return m.layer(x)

    return Apply(apply, layer=nn.Conv2d(channels, width, 1), channels=channels), width


def configured(draw: Drawer, channels: int) -> Made:
    """Sizes in a dict that a module holds, halves of an attribute, positions counted up to one."""
    size, width = draw.size, 2 * draw.one_of(3, 4, 6, 8)

    def by_dict(m: Any, x: Tensor) -> Tensor:
        return m.layer(x).reshape(-1, m.config["width"], size, size)

    def by_half(m: Any, x: Tensor) -> Tensor:
        half, x = m.width // 2, m.layer(x)
        return torch.cat([x[:, half:].tanh(), x[:, :half]], 1)

    def by_count(m: Any, x: Tensor) -> Tensor:
        places = torch.arange(m.width, device=x.device) / 10
        return m.layer(x) + places.view(1, -1, 1, 1)

    def by_thirds(m: Any, x: Tensor) -> Tensor:
        parts = m.layer(x).chunk(3, 1)  # the last one is narrower
        return torch.cat([part * (i + 1) for i, part in enumerate(parts)], 1)

    way = draw.one_of(by_dict, by_half, by_count, by_thirds)
    layer = nn.Conv2d(channels, width, 1)
    return Apply(way, layer=layer, width=width, config={"width": width}), width


def ghost(draw: Drawer, channels: int) -> Made:
    """Cheap copies of channels, cut to the width that is wanted."""
    width = draw.width()
    half = -(-width // 2)

    def apply(m: Any, x: Tensor) -> Tensor:
        x = m.layer(x)
        return torch.cat([x, m.cheap(x)], 1)[:, : m.width]

    layer = nn.Conv2d(channels, half, 1)
    cheap = nn.Conv2d(half, half, 3, padding=1, groups=half)
    return Apply(apply, layer=layer, cheap=cheap, width=width), width


def hierarchy(draw: Drawer, channels: int) -> Made:
    """Parts of one width, each of which reads what the one before made."""
    width, scales = draw.one_of(3, 4, 6), draw.one_of(2, 3, 4)
    layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(scales - 1))

    def apply(m: Any, x: Tensor) -> Tensor:
        parts = list(m.layer(x).split(m.width, 1))
        for i, layer in enumerate(m.layers):
            parts[i + 1] = layer(parts[i + 1] + parts[i])
        return torch.cat(parts, 1)

    layer = nn.Conv2d(channels, width * scales, 1)
    return Apply(apply, layer=layer, layers=layers, width=width), width * scales


def moved(draw: Drawer, channels: int) -> Made:
    """Channels that are shifted in space, mirrored, strided, repeated, or joined by coordinates."""

    def shift(m: Any, x: Tensor) -> Tensor:
        y, part = torch.zeros_like(x), m.part
        y[:, :part] = x[:, :part].roll(1, 2)
        y[:, part:] = x[:, part:].roll(-1, 3)
        return y

    def coordinates(m: Any, x: Tensor) -> Tensor:
        row = torch.linspace(-1, 1, x.shape[3], device=x.device).expand(len(x), 1, *x.shape[2:])
        return torch.cat([x, row], 1)

    def add_some(m: Any, x: Tensor) -> Tensor:
        x = x.clone()
        x[:, : m.part] += x[:, : m.part].mean((2, 3), keepdim=True)
        return x

    half = (channels + 1) // 2
    way, width = draw.one_of(
        (shift, channels),
        (coordinates, channels + 1),
        (add_some, channels),
        (lambda m, x: x.flip(1) + x, channels),
        (lambda m, x: x[:, ::2], half),
        (lambda m, x: x.repeat(1, 2, 1, 1), 2 * channels),
        (lambda m, x: x.repeat_interleave(2, 1), 2 * channels),
        (lambda m, x: torch.cat([x, x.mean(1, keepdim=True).expand_as(x)], 1), 2 * channels),
        (lambda m, x: x.narrow(1, 0, m.part), max(1, channels // 3)),
    )
    return Apply(way, part=max(1, channels // 3)), width


class Involution(nn.Module):
    """A kernel for every place and group, made of the map, over its windows."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups, self.make = groups, nn.Conv2d(channels, groups * 9, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        kernel = self.make(x).view(batch, self.groups, 1, 9, height, width)
        windows = F.unfold(x, 3, padding=1)
        windows = windows.view(batch, self.groups, channels // self.groups, 9, height, width)
        return (kernel * windows).sum(3).view(batch, channels, height, width)


def involution(draw: Drawer, channels: int) -> Made:
    """An involution."""
    return Involution(channels, draw.divisor(channels)), channels


def between_channels(draw: Drawer, channels: int) -> Made:
    """Attention between channels, or their Gram matrix as features."""
    layers = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(2))

    def attend(m: Any, x: Tensor) -> Tensor:
        q, k = (F.normalize(layer(x).flatten(2), dim=-1) for layer in m.layers)
        return ((q @ k.mT).softmax(-1) @ x.flatten(2)).view(x.shape)

    def gram(m: Any, x: Tensor) -> Tensor:
        rows = m.layers[0](x).flatten(2)
        return x + (rows @ rows.mT).mean(2)[:, :, None, None] + m.layers[1](x)

    return Apply(draw.one_of(attend, gram), layers=layers), channels


class Tokens(nn.Module):
    """A class token and a table of positions in front of attention with a learnt bias."""

    def __init__(self, channels: int, width: int, places: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(channels, width, 1), nn.Linear(width, channels)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, places + 1, width))
        self.qkv = nn.Linear(width, 3 * width)
        self.bias = nn.Parameter(torch.zeros(2, places + 1, places + 1))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.enter(x).flatten(2).mT
        rows = torch.cat([self.token.expand(len(x), -1, -1), rows], 1) + self.places
        batch, places, width = rows.shape
        qkv = self.qkv(rows).reshape(batch, places, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        shares = (q @ k.mT * (width // 2) ** -0.5 + self.bias).softmax(-1)
        rows = rows + (shares @ v).transpose(1, 2).reshape(batch, places, width)
        return x + self.leave(rows[:, 1:] + rows[:, :1]).mT.reshape(x.shape)


def tokens(draw: Drawer, channels: int) -> Made:
    """A transformer's block with a class token."""
    return Tokens(channels, draw.one_of(8, 12, 16), draw.size**2), channels


def selective(draw: Drawer, channels: int) -> Made:
    """Branches weighed by a softmax over them, channel by channel."""
    width, inner = draw.width(), draw.one_of(3, 4, 8)
    layers = nn.ModuleList(nn.Conv2d(channels, width, k, padding=k // 2) for k in (1, 3))

    def apply(m: Any, x: Tensor) -> Tensor:
        maps = torch.stack([layer(x) for layer in m.layers], 1)
        z = m.squeeze(maps.sum(1).mean((2, 3)))
        shares = m.rise(z.relu()).view(len(x), 2, m.width).softmax(1)
        return (maps * shares[..., None, None]).sum(1)

    squeeze, rise = nn.Linear(width, inner), nn.Linear(inner, 2 * width)
    return Apply(apply, layers=layers, squeeze=squeeze, rise=rise, width=width), width


# --- gates and attention --------------------------------------------------------------------------


def squeezed(draw: Drawer, channels: int) -> Made:
    """Channels gated by what two layers make of their means."""
    inner = draw.one_of(2, 4, max(1, channels // 4))
    layers = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, channels, 1))
    return Apply(
        lambda m, x: x * m.layers(x.mean((2, 3), keepdim=True)).sigmoid(), layers=layers
    ), channels


def along_channels(draw: Drawer, channels: int) -> Made:
    """Channels gated by a convolution along them."""

    def apply(m: Any, x: Tensor) -> Tensor:
        gate = m.layer(x.mean((2, 3)).unsqueeze(1)).squeeze(1)
        return x * gate.sigmoid()[:, :, None, None]

    return Apply(apply, layer=nn.Conv1d(1, 1, 3, padding=1, bias=False)), channels


def in_space(draw: Drawer, channels: int) -> Made:
    """Places gated by the mean and the maximum over channels."""

    def apply(m: Any, x: Tensor) -> Tensor:
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * m.layer(both).sigmoid()

    return Apply(apply, layer=nn.Conv2d(2, 1, 3, padding=1)), channels


class Attention(nn.Module):
    """Attention between places; keys and values may have sizes of their own."""

    def __init__(self, channels: int, heads: int, key: int, value: int, way: str) -> None:
        super().__init__()
        self.heads, self.key, self.value, self.way = heads, key, value, way
        self.qkv = nn.Conv2d(channels, heads * (2 * key + value), 1)
        self.out = nn.Conv2d(heads * value, channels, 1)
        self.scale = key**-0.5

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        qkv = self.qkv(x).view(batch, self.heads, 2 * self.key + self.value, height * width)
        q, k, v = qkv.split([self.key, self.key, self.value], 2)
        if self.way == "fused":
            y = F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT
        elif self.way == "linear":
            y = (v @ k.softmax(-1).mT) @ q.softmax(-2)
        else:
            y = v @ ((q.mT @ k) * self.scale).softmax(-1).mT
        return x + self.out(y.reshape(batch, self.heads * self.value, height, width))


def attention(draw: Drawer, channels: int) -> Made:
    """Attention of our own."""
    way = draw.one_of("fused", "linear", "written")
    return Attention(
        channels, draw.one_of(1, 2, 3), draw.one_of(4, 6), draw.one_of(4, 8), way
    ), channels


class TorchAttention(nn.Module):
    """PyTorch's attention between places, or its encoder layer."""

    def __init__(self, channels: int, heads: int, whole: bool) -> None:
        super().__init__()
        width = channels * heads
        self.enter, self.leave = nn.Conv2d(channels, width, 1), nn.Linear(width, channels)
        self.layer: nn.Module
        if whole:
            self.layer = nn.TransformerEncoderLayer(width, heads, 20, 0.0, batch_first=True)
        else:
            self.layer = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.enter(x).flatten(2).transpose(1, 2)
        if isinstance(self.layer, nn.MultiheadAttention):
            rows, _ = self.layer(rows, rows, rows, need_weights=False)
        else:
            rows = self.layer(rows)
        return x + self.leave(rows).transpose(1, 2).reshape(x.shape)


def torch_attention(draw: Drawer, channels: int) -> Made:
    """PyTorch's own attention."""
    return TorchAttention(channels, draw.one_of(1, 2), draw.one_of(True, False)), channels


def mlp(draw: Drawer, channels: int) -> Made:
    """Linear layers on channels at the end, scaled by a learnt vector."""
    inner = draw.width()

    class Mlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.wide = nn.LayerNorm(channels), nn.Linear(channels, inner)
            self.narrow = nn.Linear(inner, channels)
            self.gamma = nn.Parameter(0.1 * torch.ones(channels))

        def forward(self, x: Tensor) -> Tensor:
            y = self.narrow(F.gelu(self.wide(self.norm(x.permute(0, 2, 3, 1)))))
            return x + (self.gamma * y).permute(0, 3, 1, 2)

    return Mlp(), channels


class Recurrent(nn.Module):
    """A recurrence over the places of every row."""

    def __init__(self, channels: int, hidden: int, kind: str) -> None:
        super().__init__()
        self.hidden = hidden
        self.layer: nn.Module
        if kind == "cell":
            self.layer = nn.GRUCell(channels, hidden)
        else:
            made = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind]
            self.layer = made(channels, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(batch * height, width, channels)
        if isinstance(self.layer, nn.GRUCell):
            state, states = rows.new_zeros(len(rows), self.hidden), []
            for step in rows.unbind(1):
                state = self.layer(step, state)
                states.append(state)
            rows = torch.stack(states, 1)
        else:
            rows, _ = self.layer(rows)
        return rows.reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def recurrent(draw: Drawer, channels: int) -> Made:
    """A recurrence of any kind."""
    hidden = draw.width()
    return Recurrent(channels, hidden, draw.one_of("lstm", "gru", "rnn", "cell")), hidden


def whole_image(draw: Drawer, channels: int) -> Made:
    """A map as one vector, linear layers, and a map again."""
    pool, inner = nn.AdaptiveAvgPool2d(2), draw.width()
    way = draw.one_of("vector", "map")
    if way == "vector":
        layers = nn.Sequential(
            nn.Linear(4 * channels, inner), nn.ReLU(), nn.Linear(inner, channels)
        )
        return Apply(
            lambda m, x: x + m.layers(m.pool(x).flatten(1))[:, :, None, None],
            pool=pool,
            layers=layers,
        ), channels

    def back(m: Any, x: Tensor) -> Tensor:
        y = m.pool(x)
        y = m.layer(y.flatten(1)).view(y.shape)
        return x + F.interpolate(y, size=x.shape[-2:])

    return Apply(back, pool=pool, layer=nn.Linear(4 * channels, 4 * channels)), channels


# --- blocks of blocks -----------------------------------------------------------------------------


def chain(draw: Drawer, channels: int) -> Made:
    """One block after the other."""
    first, width = draw.block(channels)
    second, width = draw.block(width)
    return nn.Sequential(first, second), width


def residual(draw: Drawer, channels: int) -> Made:
    """A sum with the input, projected if need be, perhaps scaled."""
    inner, width = draw.block(channels)
    fits = draw.one_of(True, False)
    if fits or width == channels:
        back = nn.Conv2d(width, channels, 1) if width != channels else nn.Identity()
        return Apply(
            draw.one_of(
                lambda m, x: x + m.back(m.inner(x)),
                lambda m, x: x.add(m.back(m.inner(x)), alpha=0.5),
            ),
            inner=inner,
            back=back,
        ), channels
    project = nn.Conv2d(channels, width, 1, bias=False)
    return Apply(lambda m, x: m.project(x) + m.inner(x), inner=inner, project=project), width


def branches(draw: Drawer, channels: int) -> Made:
    """Branches in a row, perhaps with the input among them."""
    made = [draw.block(channels) for _ in range(draw.one_of(2, 3))]
    with_input = draw.one_of(True, False)

    def apply(m: Any, x: Tensor) -> Tensor:
        maps = [branch(x) for branch in m.branches]
        return torch.cat([x, *maps] if with_input else maps, 1)

    width = sum(width for _, width in made) + with_input * channels
    return Apply(apply, branches=nn.ModuleList(module for module, _ in made)), width


def summed(draw: Drawer, channels: int) -> Made:
    """Branches of one width, summed, weighted by learnt numbers, or stacked and averaged."""
    width = draw.width()
    made = [draw.block(channels) for _ in range(2)]
    heads = nn.ModuleList(nn.Conv2d(inner, width, 1) for _, inner in made)

    def maps(m: Any, x: Tensor) -> list[Tensor]:
        return [head(branch(x)) for head, branch in zip(m.heads, m.branches, strict=True)]

    way = draw.one_of(
        lambda m, x: sum(maps(m, x)),
        lambda m, x: torch.stack(maps(m, x)).mean(0),
        lambda m, x: torch.maximum(*maps(m, x)),
        lambda m, x: maps(m, x)[0] * maps(m, x)[1].tanh(),
    )
    branches = nn.ModuleList(module for module, _ in made)
    return Apply(way, heads=heads, branches=branches), width


def shared(draw: Drawer, channels: int) -> Made:
    """One layer that is applied twice, or to two branches."""
    layer = nn.Conv2d(channels, channels, 3, padding=1)
    way, times = draw.one_of(
        (lambda m, x: m.layer(m.layer(x).relu()), 1),
        (lambda m, x: m.layer(x) + m.layer(F.max_pool2d(x, 3, 1, 1)), 1),
        (lambda m, x: torch.cat([m.layer(x), m.layer(x.flip(-1))], 1), 2),
    )
    return Apply(way, layer=layer), times * channels


def hourglass(draw: Drawer, channels: int) -> Made:
    """Down, a block, up, and a concatenation with what was there before."""
    if draw.size < 4:
        return plain(draw, channels)
    draw.size //= 2
    inner, width = draw.block(channels)
    draw.size *= 2
    down = draw.one_of(lambda: nn.MaxPool2d(2), lambda: nn.Conv2d(channels, channels, 2, 2))()
    up = draw.one_of(
        lambda: nn.Upsample(scale_factor=2), lambda: nn.ConvTranspose2d(width, width, 2, 2)
    )()
    return Apply(
        lambda m, x: torch.cat([x, m.up(m.inner(m.down(x)))], 1), down=down, inner=inner, up=up
    ), channels + width


def dense(draw: Drawer, channels: int) -> Made:
    """Layers that read all maps before them."""
    growth, count = draw.one_of(3, 4, 6), draw.one_of(2, 3)
    layers = nn.ModuleList(
        nn.Conv2d(channels + i * growth, growth, 3, padding=1) for i in range(count)
    )

    def apply(m: Any, x: Tensor) -> Tensor:
        for layer in m.layers:
            x = torch.cat([x, layer(x.relu())], 1)
        return x

    return Apply(apply, layers=layers), channels + count * growth


SIMPLE: tuple[Maker, ...] = (plain, plain, plain, grouped, depthwise, squeezed)
BLOCKS: tuple[Maker, ...] = (
    transposed, reparametrised, deformable, bare, mixture, spectral, shuffled, gated, unequal_parts,
    partial, padded, pixels, maxout, chosen, written_out, asserted, along_channels, in_space,
    attention, torch_attention, mlp, recurrent, whole_image, chain, residual, residual, residual,
    branches, branches, summed, shared, hourglass, dense, configured, configured, ghost, hierarchy,
    moved, moved, involution, between_channels, tokens, selective, held, held, asked,
)  # fmt: skip


# --- the whole network ----------------------------------------------------------------------------


@dataclass
class Result:
    """Outputs with names."""

    logits: Tensor
    features: Tensor | None = None


class Net(nn.Module):
    """A stem, blocks, a step down between two of them, and outputs of some kind."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = Drawer(Random(seed))
        torch.manual_seed(seed)
        width = draw.width()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        blocks: list[nn.Module] = []
        count = draw.one_of(2, 3, 3, 4)
        for place in range(count):
            block, width = draw.block(width)
            blocks.append(block)
            if place == 0 and draw.one_of(True, False):
                blocks.append(draw.one_of(nn.MaxPool2d(2), nn.Conv2d(width, width, 3, 2, 1)))
                draw.size //= 2
        self.blocks = nn.ModuleList(blocks)
        self.kind = draw.one_of(
            "pooled", "flat", "dense", "object", "features", "auxiliary", "train only"
        )
        inputs = width * draw.size**2 if self.kind == "flat" else width
        self.head: nn.Module = nn.Linear(inputs, 5)
        if self.kind == "dense":
            self.head = nn.Conv2d(width, 3, 1)
        if self.kind == "auxiliary":
            self.auxiliary = nn.Sequential(nn.Conv2d(width, 9, 1), nn.ReLU(), nn.Conv2d(9, 5, 1))

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        if self.kind == "flat":
            return self.head(x.flatten(1))
        if self.kind == "dense":
            return {"map": self.head(x)}
        logits = self.head(x.mean((2, 3)))
        if self.kind == "object":
            return Result(logits)
        if self.kind == "features":
            return Result(logits, x)
        if self.kind == "auxiliary" and self.training:
            return logits, self.auxiliary(x)
        if self.kind == "train only" and self.training:
            return logits, x.mean((2, 3))
        return logits
