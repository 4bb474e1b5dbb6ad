"""Small networks whose operations or shapes are unusual in vision; each with a plain convolution.

``NETWORKS`` maps a name to the network, the shape of its input and the layers that must get
narrower.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

SIZE = 8


class Around(nn.Module):
    """A stem, anything that turns its 16 channels into others, a layer behind it, a classifier."""

    def __init__(self, inner: nn.Module, width: int = 16, outputs: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.inner = inner
        self.last = nn.Conv2d(outputs, 24, 3, padding=1)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.inner(self.stem(x).relu()))
        return self.head(x.relu().mean((2, 3)))


class Function(nn.Module):
    """A function of a map, as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


# --- detours through other ranks, norms of channels -----------------------------------------------


class L2Norm(nn.Module):
    """SSD's norm: unit length over channels, times a learnt scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.n_channels = width
        self.weight = nn.Parameter(torch.full((width,), 20.0))

    def forward(self, x: Tensor) -> Tensor:
        norm = x.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10
        return self.weight.unsqueeze(0).unsqueeze(2).unsqueeze(3).expand_as(x) * x.div(norm)


class DivisiveNorm(nn.Module):
    """Generalised divisive normalisation of learnt image compression."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(width))
        self.gamma = nn.Parameter(0.1 * torch.eye(width))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.size(1)
        gamma = self.gamma.clamp(min=1e-6).reshape(channels, channels, 1, 1)
        return x * torch.rsqrt(F.conv2d(x**2, gamma, self.beta.clamp(min=1e-6)))


class PooledNorm(nn.Module):
    """Local response normalisation by a pool over channels, as the first Inception had it."""

    def __init__(self) -> None:
        super().__init__()
        self.average = nn.AvgPool3d((5, 1, 1), stride=1, padding=(2, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        squares = self.average(x.pow(2).unsqueeze(1)).squeeze(1)
        return x / squares.mul(1e-4).add(1.0).pow(0.75)


class Causal(nn.Module):
    """Convolutions of a clip along time with what they have seen before in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv3d(n, 12, 3, padding=(0, 1, 1)) for n in (8, 12))
        self.stem, self.head = nn.Conv3d(3, 8, 1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x, seen = self.stem(x), []
        for layer in self.layers:
            before = x[:, :, :1].repeat(1, 1, 2, 1, 1)
            seen.append(x[:, :, -2:].clone())
            x = layer(torch.cat([before, x], 2)).relu()
        return self.head(x.mean((2, 3, 4))) + 0 * sum(part.mean() for part in seen)


# --- deformable convolutions ----------------------------------------------------------------------


class Deformable(nn.Module):
    """A convolution whose window is bent by offsets, and weighted by a mask."""

    def __init__(self, width: int, groups: int = 1, masked: bool = True) -> None:
        super().__init__()
        self.offset = nn.Conv2d(width, 18, 3, padding=1)
        self.mask = nn.Conv2d(width, 9, 3, padding=1) if masked else None
        self.conv = DeformConv2d(width, 16, 3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        mask = self.mask(x).sigmoid() if self.mask is not None else None
        return self.conv(x, self.offset(x), mask)


# --- frequencies and complex weights --------------------------------------------------------------


class Spectral(nn.Module):
    """A Fourier neural operator's layer: complex weights for a few low frequencies."""

    def __init__(self, width: int, modes: int = 3) -> None:
        super().__init__()
        self.out, self.modes = width, modes
        shape = (width, width, modes, modes)
        self.weight = nn.Parameter(torch.randn(shape, dtype=torch.cfloat) / width)
        self.skip = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.fft.rfft2(x)
        low = found[:, :, : self.modes, : self.modes]
        made = torch.zeros(len(x), self.out, *found.shape[-2:], dtype=torch.cfloat, device=x.device)
        made[:, :, : self.modes, : self.modes] = torch.einsum("bixy,ioxy->boxy", low, self.weight)
        return F.gelu(torch.fft.irfft2(made, s=x.shape[-2:]) + self.skip(x))


class GlobalFilter(nn.Module):
    """GFNet: tokens are filtered by an elementwise product of spectra, kept as pairs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), nn.Linear(width, width)
        self.complex_weight = nn.Parameter(torch.randn(SIZE, SIZE // 2 + 1, width, 2) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        maps = self.norm(tokens).view(-1, height, width, channels)
        spectrum = torch.fft.rfft2(maps, dim=(1, 2), norm="ortho")
        spectrum = spectrum * torch.view_as_complex(self.complex_weight)
        maps = torch.fft.irfft2(spectrum, s=(height, width), dim=(1, 2), norm="ortho")
        tokens = tokens + self.mlp(maps.reshape(-1, height * width, channels))
        return tokens.transpose(1, 2).view(-1, channels, height, width)


class RealParts(nn.Module):
    """A layer on real and imaginary parts side by side, as in fast Fourier convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(2 * width, 2 * width, 1), nn.BatchNorm2d(2 * width)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        pairs = torch.view_as_real(torch.fft.rfftn(x, dim=(-2, -1), norm="ortho"))
        rows = pairs.permute(0, 1, 4, 2, 3).contiguous().view(batch, -1, height, width // 2 + 1)
        rows = self.norm(self.layer(rows)).relu()
        pairs = rows.view(batch, -1, 2, height, width // 2 + 1).permute(0, 1, 3, 4, 2).contiguous()
        return torch.fft.irfftn(torch.view_as_complex(pairs), (height, width), (-2, -1), "ortho")


# --- layers of bare parameters --------------------------------------------------------------------


class Kan(nn.Module):
    """A Kolmogorov-Arnold layer: splines of every input, with a weight for every output."""

    def __init__(self, inputs: int, outputs: int, grid: int = 5, order: int = 3) -> None:
        super().__init__()
        self.in_features, self.out_features, self.order = inputs, outputs, order
        knots = torch.arange(-order, grid + order + 1) * (2 / grid) - 1
        self.register_buffer("grid", knots.expand(inputs, -1).contiguous())
        self.base_weight = nn.Parameter(torch.randn(outputs, inputs) * 0.1)
        self.spline_weight = nn.Parameter(torch.randn(outputs, inputs, grid + order) * 0.1)
        self.spline_scaler = nn.Parameter(torch.ones(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        grid, spread = self.get_buffer("grid"), x.unsqueeze(-1)
        bases = ((spread >= grid[:, :-1]) & (spread < grid[:, 1:])).to(x.dtype)
        for k in range(1, self.order + 1):
            left = (spread - grid[:, : -(k + 1)]) / (grid[:, k:-1] - grid[:, : -(k + 1)])
            right = (grid[:, k + 1 :] - spread) / (grid[:, k + 1 :] - grid[:, 1:-k])
            bases = left * bases[:, :, :-1] + right * bases[:, :, 1:]
        weight = self.spline_weight * self.spline_scaler.unsqueeze(-1)
        spline = F.linear(bases.view(x.size(0), -1), weight.view(self.out_features, -1))
        return F.linear(F.silu(x), self.base_weight) + spline


class KanNet(nn.Module):
    """A convolution, and two Kolmogorov-Arnold layers as its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.first, self.second = Kan(16, 24), Kan(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.stem(x).mean((2, 3))))


class Einsum(nn.Module):
    """Bare parameters: a mix of channels, one matrix for every head, one for every place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(20, width) * 0.1)
        self.heads = nn.Parameter(torch.randn(2, 10, 12) * 0.1)
        self.places = nn.Parameter(torch.randn(SIZE, SIZE, 12) * 0.1)
        self.out = nn.Parameter(torch.randn(2, 12, 16) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("bchw,oc->bhwo", x, self.mix)
        x = torch.einsum("bhwnd,nde->bhwne", x.unflatten(-1, (2, -1)), self.heads)
        x = torch.einsum("bhwne,hwe->bhwne", x, self.places)
        return torch.einsum("bhwne,neo->bohw", x, self.out)


class TwoEyes(nn.Module):
    """Two branches that meet in a bilinear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 12, 3), nn.Conv2d(3, 16, 3)
        self.bilinear, self.head = nn.Bilinear(12, 16, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = (layer(x).relu().mean((2, 3)) for layer in (self.left, self.right))
        return self.head(self.bilinear(left, right).relu())


class Siamese(nn.Module):
    """Two views of one input, compared by their cosine and by all distances between places."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3))
        self.head = nn.Linear(2, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.net(x).flatten(2).mT, self.net(x.flip(-1)).flatten(2).mT
        cosine = F.cosine_similarity(a.mean(1), b.mean(1))
        distance = torch.cdist(a, b).mean((1, 2))
        return self.head(torch.stack([cosine, distance], 1))


class Prototypes(nn.Module):
    """Distances to learnt prototypes, and cosines with normalised weights."""

    def __init__(self, far: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3))
        self.prototypes = nn.Parameter(torch.randn(30 if far else 10, 24))
        self.weight = nn.Parameter(torch.randn(10, 24))
        self.far = far

    def forward(self, x: Tensor) -> Tensor:
        x = self.net(x).mean((2, 3))
        if self.far:
            x = x.repeat(30, 1)
        cosine = F.linear(F.normalize(x), F.normalize(self.weight))
        return cosine - torch.cdist(x, self.prototypes)[:, :10]


class Gram(nn.Module):
    """The Gram matrix of a map, written out and read by a linear layer."""

    def __init__(self, reduced: int = 8) -> None:
        super().__init__()
        self.stem, self.reduce = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, reduced, 1)
        self.head = nn.Linear(reduced * reduced, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.reduce(self.stem(x).relu()).flatten(2)
        gram = rows @ rows.mT / rows.shape[-1]
        return self.head(F.normalize(gram.flatten(1)))


class Covariance(nn.Module):
    """The upper triangle of a covariance matrix: its places are written out."""

    def __init__(self, reduced: int = 6) -> None:
        super().__init__()
        self.stem, self.reduce = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, reduced, 1)
        self.head = nn.Linear(reduced * (reduced + 1) // 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.reduce(self.stem(x).relu()).flatten(2)
        gram = rows @ rows.mT
        i, j = torch.triu_indices(gram.shape[1], gram.shape[1]).unbind()
        return self.head(gram[:, i, j])


# --- kernels that are made in forward -------------------------------------------------------------


class MixedKernels(nn.Module):
    """A kernel for every sample, mixed of experts by routing; the batch goes into the groups."""

    def __init__(self, width: int, outputs: int, experts: int = 3, how: str = "matrix") -> None:
        super().__init__()
        self.route, self.how, self.outputs = nn.Linear(width, experts), how, outputs
        self.weight = nn.Parameter(torch.randn(experts, outputs, width, 3, 3) * 0.05)
        self.bias = nn.Parameter(torch.zeros(experts, outputs))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *space = x.shape
        share = self.route(x.mean((2, 3))).softmax(1)
        if self.how == "matrix":
            kernel = (share @ self.weight.flatten(1)).view(-1, channels, 3, 3)
        elif self.how == "einsum":
            kernel = torch.einsum("be,eoihw->boihw", share, self.weight).flatten(0, 1)
        else:
            kernel = (share.view(batch, -1, 1, 1, 1, 1) * self.weight).sum(1)
            kernel = kernel.view(batch * self.outputs, channels, 3, 3)
        bias = (share @ self.bias).view(-1)
        y = F.conv2d(x.reshape(1, -1, *space), kernel, bias, padding=1, groups=batch)
        return y.view(batch, self.outputs, *space)


class FlatExperts(nn.Module):
    """The same with the experts' kernels kept flat, as some packages store them."""

    def __init__(self, width: int, outputs: int, experts: int = 3) -> None:
        super().__init__()
        self.shape, self.route = (outputs, width, 3, 3), nn.Linear(width, experts)
        self.weight = nn.Parameter(torch.randn(experts, outputs * width * 9) * 0.05)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        kernel = torch.matmul(self.route(x.mean((2, 3))).sigmoid(), self.weight)
        kernel = kernel.view(batch * self.shape[0], *self.shape[1:])
        y = F.conv2d(x.reshape(1, batch * channels, height, width), kernel, padding=1, groups=batch)
        return y.view(batch, self.shape[0], height, width)


class Modulated(nn.Module):
    """A generator's convolution: weights scaled by a style and normed, the batch in the groups."""

    def __init__(self, width: int, outputs: int, style: int = 12) -> None:
        super().__init__()
        self.style, self.out_channel = nn.Linear(style, width), outputs
        self.weight = nn.Parameter(torch.randn(1, outputs, width, 3, 3))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        weight = 0.1 * self.weight * self.style(style).view(batch, 1, channels, 1, 1)
        scale = torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8)
        weight = weight * scale.view(batch, self.out_channel, 1, 1, 1)
        weight = weight.view(batch * self.out_channel, channels, 3, 3)
        x = F.conv2d(x.view(1, batch * channels, height, width), weight, padding=1, groups=batch)
        return x.view(batch, self.out_channel, height, width)


class Generator(nn.Module):
    """From a learnt constant through modulated convolutions to an image."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(8, 20), nn.LeakyReLU(0.2), nn.Linear(20, 12))
        self.constant = nn.Parameter(torch.randn(1, 16, 4, 4))
        self.first, self.second = Modulated(16, 16), Modulated(16, 12)
        self.image = nn.Conv2d(12, 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        style = self.mapping(z)
        x = self.first(self.constant.repeat(z.shape[0], 1, 1, 1), style).relu()
        return self.image(self.second(F.interpolate(x, scale_factor=2), style).relu())


class Hyper(nn.Module):
    """A layer that makes another one's kernel for every sample."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.make = nn.Linear(width, width * 9)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        kernel = self.make(x.mean((2, 3))).view(batch * channels, 1, 3, 3)
        y = F.conv2d(x.reshape(1, -1, height, width), kernel, padding=1, groups=batch * channels)
        return y.view(batch, channels, height, width)


class MergedKernels(nn.Module):
    """Three convolutions in train mode whose product is one kernel in eval mode."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1, bias=False),
            nn.Conv2d(2 * width, 2 * outputs, 3, bias=False),
            nn.Conv2d(2 * outputs, outputs, 1, bias=False),
        )
        self.skip = nn.Conv2d(width, outputs, 1, bias=False)
        self.eval_conv = nn.Conv2d(width, outputs, 3, padding=1, bias=False)
        self.eval_conv.weight.requires_grad = False

    def merged(self) -> Tensor:
        first, second, third = (p.detach() for p in self.conv.parameters())
        kernel = F.conv2d(first.flip(2, 3).permute(1, 0, 2, 3), second, padding=2)
        kernel = F.conv2d(kernel, third).flip(2, 3).permute(1, 0, 2, 3)
        return kernel + F.pad(self.skip.weight.detach(), (1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.conv(F.pad(x, (1, 1, 1, 1))) + self.skip(x)
        self.eval_conv.weight.data = self.merged()
        return self.eval_conv(x)


class ParameterFreeAttention(nn.Module):
    """SPAN: a symmetric activation of a block's own output gates it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = MergedKernels(width, width), MergedKernels(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.silu(self.first(x)))
        return (y + x) * (torch.sigmoid(y) - 0.5)


# --- memory tricks, chosen channels, gates --------------------------------------------------------


class Selected(nn.Module):
    """CondenseNet: channels in an order that a buffer keeps, then a grouped convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("index", torch.randperm(width))
        self.expand, self.conv = nn.Conv2d(width, 32, 1), nn.Conv2d(width, 16, 3, padding=1)
        self.reduce = nn.Conv2d(32, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(self.expand(x).relu())
        return self.conv(torch.index_select(x, 1, self.get_buffer("index")))


class Reversible(nn.Module):
    """RevNet: two halves that are added to each other; memory that is not needed is given up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.f, self.g = (nn.Conv2d(half, half, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first, second = (part.contiguous() for part in x.chunk(2, 1))
        y = first + self.f(second)
        z = second + self.g(y)
        first.detach().set_()  # type: ignore[call-overload]
        out = torch.cat([y, z], 1)
        kept = torch.empty(0, device=x.device)
        kept.set_(out.detach())  # type: ignore[call-overload]
        return out + 0 * kept


class Gate(nn.Module):
    """NAFNet: half of the channels times the other half; and a gate of two linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(width, width, 1)
        self.value = nn.Conv2d(width, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.wide(x).chunk(2, dim=1)
        return x + F.glu(self.value(self.narrow(a * b)), 1)


class ListFusion(nn.Module):
    """Maps of a list are fused; zeros stand for the one that is missing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(width, 12, 3, padding=1) for _ in range(2))
        self.fuse = nn.Conv2d(36, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [layer(x) for layer in self.parts]
        maps.append(torch.zeros_like(maps[0]))
        return self.fuse(torch.cat(maps, 1))


# --- sizes that are written out or stored ---------------------------------------------------------


class Autoencoder(nn.Module):
    """To a mean and a variance, and back from a vector to a map by a stored size."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.base, self.shape = how, 32, (32, 2, 2)
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.Flatten()
        )
        self.mean, self.spread = nn.Linear(32 * 4, 6), nn.Linear(32 * 4, 6)
        self.fc, self.unflatten = nn.Linear(6, 32 * 4), nn.Unflatten(1, (32, 2, 2))
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1)
        )

    def grown(self, x: Tensor) -> Tensor:
        if self.how == "module":
            return self.unflatten(x)
        if self.how == "function":
            return x.unflatten(1, self.shape)
        if self.how == "view":
            return x.view(-1, self.base, 2, 2)
        if self.how == "tuple":
            return x.view(x.shape[0], *self.shape)
        return x.view(-1, 32, 2, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.encoder(x)
        mean, spread = self.mean(x), self.spread(x)
        return self.decoder(self.grown(self.fc(mean + spread.exp()))), mean, spread


class Shortcut(nn.Module):
    """A residual network whose shortcuts get further channels that are zero."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.stem, self.a, self.b = (
            nn.Conv2d(3, 16, 3, padding=1),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Conv2d(16, 32, 3, 2, 1),
        )
        self.inner, self.head = nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 5)
        planes = 32
        self.lifted = lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4))

    def wider(self, x: Tensor, like: Tensor) -> Tensor:
        if self.how == "closure":
            return self.lifted(x)
        x = F.avg_pool2d(x, 2)
        if self.how == "times zero":
            return torch.cat([x, x.mul(0)], 1)
        if self.how == "literal":
            return torch.cat([x, x.new_zeros(len(x), 16, *x.shape[2:])], 1)
        zeros = torch.zeros(len(x), like.shape[1] - x.shape[1], *x.shape[2:], device=x.device)
        return torch.cat([x, zeros], 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.a(x).relu()
        y = self.b(x)
        x = (y + self.wider(x, y)).relu()
        return self.head((x + self.inner(x)).mean((2, 3)))


class FullImage(nn.Module):
    """A map as one vector, a linear layer over all of it, and a map again."""

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.how, self.pool = how, nn.AvgPool2d(4)
        self.fc, self.conv = nn.Linear(4 * width, 4 * width), nn.Conv2d(width, width, 1)
        self.vector, self.wide = nn.Linear(4 * width, 20), nn.Conv2d(20, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)
        if self.how == "back":
            y = self.conv(self.fc(y.flatten(1)).relu().view(y.shape))
        elif self.how == "vector":
            y = self.wide(self.vector(y.flatten(1)).relu()[:, :, None, None])
        else:
            y = self.wide(self.vector(y.view(-1, 16 * 4)).view(-1, 20, 1, 1))
        return x + F.interpolate(y, size=x.shape[-2:])


class Merging(nn.Module):
    """Four neighbours of a map become channels: patch merging, and a focus layer before it."""

    def __init__(self) -> None:
        super().__init__()
        self.focus, self.norm = nn.Conv2d(12, 16, 3, padding=1), nn.LayerNorm(64)
        self.reduction, self.head = nn.Linear(64, 24, bias=False), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]
        x = self.focus(torch.cat(corners, 1)).permute(0, 2, 3, 1)
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        return self.head(self.reduction(self.norm(x)).mean((1, 2)))


class Implicit(nn.Module):
    """YOLOv7: learnt vectors are added before a convolution and multiplied behind it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channel = width
        self.add = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.times = nn.Parameter(torch.ones(1, 20, 1, 1))
        self.conv, self.out = nn.Conv2d(width, 20, 1), nn.Conv2d(20, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.times * self.conv(self.add + x))


class Transposed(nn.Module):
    """Transposed convolutions of all kinds: strides, groups, one dimension more."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 24, 4, 2, 1)
        self.groups = nn.ConvTranspose2d(24, 16, 3, 1, 1, groups=4)
        self.depthwise = nn.ConvTranspose2d(16, 16, 2, 2, groups=16)
        self.image = nn.ConvTranspose2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.groups(self.up(self.stem(x).relu()).relu())
        return self.image(self.depthwise(x.relu()))


class ChannelsLast(nn.Module):
    """Channels at the end of every map, with linear layers and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 16, 2, 2), nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.norm, self.wide, self.narrow = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(48, 16)
        self.gamma, self.head = nn.Parameter(torch.ones(16)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        x = x + (self.gamma * self.narrow(F.gelu(self.wide(y)))).permute(0, 3, 1, 2)
        return self.head(x.mean((2, 3)))


class Discriminator(nn.Module):
    """Every map is an output, for a loss on features: none of them may change."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 4, 2, 1)
        self.inner = nn.Sequential(nn.Conv2d(16, 48, 1), nn.LeakyReLU(0.2), nn.Conv2d(48, 24, 1))
        self.final = nn.Conv2d(24, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [x]
        for layer in self.children():
            maps.append(layer(maps[-1]))
        return maps[1:]


def around(inner: nn.Module, **options: int) -> nn.Module:
    """The module between a stem and a last layer."""
    return Around(inner, **options)


IMAGE = (3, SIZE, SIZE)
ENDS = ("stem", "last")

Named = tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]

NETWORKS: dict[str, Named] = {
    "local response norm": (lambda: around(nn.LocalResponseNorm(5)), IMAGE, ENDS),
    "local response norm of 4": (lambda: around(nn.LocalResponseNorm(4)), IMAGE, ENDS),
    "pooled response norm": (lambda: around(PooledNorm()), IMAGE, ENDS),
    "l2 norm": (lambda: around(L2Norm(16)), IMAGE, ENDS),
    "divisive norm": (lambda: around(DivisiveNorm(16)), IMAGE, ENDS),
    "causal": (Causal, (3, 4, 6, 6), ("stem", "layers.0", "layers.1")),
    "deformable": (lambda: around(Deformable(16)), IMAGE, (*ENDS, "inner.conv")),
    "deformable groups": (
        lambda: around(Deformable(16, groups=2, masked=False)), IMAGE, (*ENDS, "inner.conv"),
    ),
    "fourier operator": (lambda: around(Spectral(16)), IMAGE, (*ENDS, "inner.skip")),
    "global filter": (lambda: around(GlobalFilter(16)), IMAGE, ENDS),
    "real parts": (lambda: around(RealParts(16)), IMAGE, (*ENDS, "inner.layer")),
    "kan": (KanNet, IMAGE, ("stem", "first", "first.base_weight")),
    "einsum": (lambda: around(Einsum(16)), IMAGE, (*ENDS, "inner.mix")),
    "bilinear": (TwoEyes, IMAGE, ("left", "right", "bilinear")),
    "siamese": (Siamese, IMAGE, ("net.0", "net.2")),
    "prototypes": (Prototypes, IMAGE, ("net.0", "net.2")),
    "many prototypes": (lambda: Prototypes(far=True), IMAGE, ("net.0", "net.2")),
    "gram": (Gram, IMAGE, ("stem",)),
    "covariance": (Covariance, IMAGE, ("stem",)),
    **{
        f"mixed kernels by {how}": (
            partial(Around, MixedKernels(16, 16, how=how)), IMAGE, (*ENDS, "inner"),
        )
        for how in ("matrix", "einsum", "sum")
    },
    "flat experts": (lambda: around(FlatExperts(16, 16)), IMAGE, (*ENDS, "inner")),
    "modulated": (Generator, (8,), ("mapping.0", "first.style", "second")),
    "hyper network": (lambda: around(Hyper(16)), IMAGE, ("last",)),
    "merged kernels": (lambda: around(ParameterFreeAttention(16)), IMAGE, ENDS),
    "selected channels": (lambda: around(Selected(16)), IMAGE, (*ENDS, "inner.expand")),
    "reversible": (lambda: around(Reversible(16)), IMAGE, ENDS),
    "gate": (lambda: around(Gate(16)), IMAGE, (*ENDS, "inner.narrow")),
    "list fusion": (lambda: around(ListFusion(16)), IMAGE, (*ENDS, "inner.fuse")),
    **{
        f"autoencoder by {how}": (
            partial(Autoencoder, how), IMAGE, ("encoder.0", "fc", "decoder.0"),
        )
        for how in ("module", "function", "view", "tuple")
    },
    "autoencoder by literal": (
        lambda: Autoencoder("literal"), IMAGE, ("encoder.0", "encoder.2", "decoder.0"),
    ),
    **{
        f"padded shortcut by {how}": (partial(Shortcut, how), IMAGE, ("stem", "b"))
        for how in ("closure", "times zero", "literal", "difference")
    },
    "full image back": (lambda: around(FullImage(16, "back")), IMAGE, ENDS),
    "full image vector": (lambda: around(FullImage(16, "vector")), IMAGE, (*ENDS, "inner.vector")),
    "full image literal": (lambda: around(FullImage(16, "literal")), IMAGE, ("last",)),
    "patch merging": (Merging, IMAGE, ("focus", "reduction")),
    "implicit": (lambda: around(Implicit(16)), IMAGE, (*ENDS, "inner.conv")),
    "transposed": (Transposed, IMAGE, ("stem", "up", "groups")),
    "channels last": (ChannelsLast, IMAGE, ("stem", "wide")),
    "response norm of sequences": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 16, 3), nn.LocalResponseNorm(3), nn.Conv1d(16, 24, 3), nn.Flatten(),
            nn.Linear(24 * 8, 5),
        ), (4, 12), ("0", "2"),
    ),
}  # fmt: skip
