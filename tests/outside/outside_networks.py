"""Small networks of our own, built like those of other packages that were once cropped wrongly.

The names say what they are like; docs/coverage-outside.md measures the packages themselves.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class Scaler(nn.Module):
    """Up or down by two, for exactly as many channels as it was made for."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.channels, self.up = channels, up
        self.conv = nn.Conv2d(channels, channels, 3, 1 if up else 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.channels
        return self.conv(F.interpolate(x, scale_factor=2.0) if self.up else x)


class TimedBlock(nn.Module):
    """A residual block that adds an embedding of the time step."""

    def __init__(self, inputs: int, outputs: int, times: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(4, inputs), nn.GroupNorm(4, outputs)])
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(times, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.first(F.silu(self.norms[0](x)))
        y = self.second(F.silu(self.norms[1](y + self.time(F.silu(time))[:, :, None, None])))
        return self.skip(x) + y


class PixelAttention(nn.Module):
    """Attention between pixels; heads of a stated size."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.heads, self.scale = channels // size, size**-0.5
        self.norm = nn.GroupNorm(4, channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(tokens).chunk(3, dim=2)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(mixed).transpose(1, 2).reshape(x.shape)


class Diffusion(nn.Module):
    """A U-Net of diffusion: time embedding, samplers that check, attention, skips."""

    def __init__(self) -> None:
        super().__init__()
        self.times = nn.Sequential(nn.Linear(8, 32), nn.SiLU(), nn.Linear(32, 32))
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.down, self.middle = TimedBlock(16, 16, 32), TimedBlock(16, 32, 32)
        self.up = TimedBlock(48, 16, 32)
        self.attention = PixelAttention(32, 8)
        self.sampler, self.back = Scaler(16, False), Scaler(32, True)
        self.head = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        waves = time * torch.arange(1, 5, device=time.device, dtype=time.dtype)
        embedded = self.times(torch.cat([waves.sin(), waves.cos()], 1))
        first = self.down(self.stem(x), embedded)
        deep = self.attention(self.middle(self.sampler(first), embedded))
        return self.head(F.silu(self.up(torch.cat([self.back(deep), first], 1), embedded)))


class LatentCode(nn.Module):
    """A variational autoencoder of images whose latent is split into mean and spread."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), Scaler(16, False), nn.GroupNorm(4, 16), nn.SiLU()
        )
        self.moments = nn.Conv2d(16, 8, 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(4, 16, 3, padding=1), Scaler(16, True), nn.SiLU(), nn.Conv2d(16, 3, 3, 1, 1)
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        mean, spread = self.moments(self.encoder(x)).chunk(2, dim=1)
        sample = mean + spread.clamp(-30, 20).mul(0.5).exp() * torch.ones_like(mean)
        return {"image": self.decoder(sample), "mean": mean}


class Codebook(nn.Module):
    """A codebook: the nearest of the entries, and the gradient passed by."""

    def __init__(self, entries: int, size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(entries, size)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.permute(0, 2, 3, 1).flatten(0, 2)
        found = self.table(torch.cdist(flat, self.table.weight).argmin(1))
        found = found.view(x.shape[0], x.shape[2], x.shape[3], -1).permute(0, 3, 1, 2)
        return x + (found - x).detach()


def quantised() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 24, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(24, 16, 1),
        Codebook(8, 16),
        nn.ConvTranspose2d(16, 24, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(24, 3, 3, padding=1),
    )


class Waveform(nn.Module):
    """A speech encoder: convolutions, weight-normed grouped positions, attention.

    In train mode chance could leave out layers; it doesn't, so that gradients can be compared.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drop = 0.0
        self.extractor = nn.ModuleList([nn.Conv1d(1, 16, 10, 5), nn.Conv1d(16, 24, 3, 2)])
        self.norm, self.project = nn.GroupNorm(16, 16), nn.Linear(24, 32)
        self.positions = weight_norm(nn.Conv1d(32, 32, 8, padding=4, groups=4), dim=2)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm(self.extractor[0](x[:, None])))
        x = self.project(F.gelu(self.extractor[1](x)).transpose(1, 2))
        x = x + F.gelu(self.positions(x.transpose(1, 2))[:, :, :-1]).transpose(1, 2)
        for layer in self.layers:
            if not self.training or torch.rand(()) >= self.drop:
                x = layer(x)
        return self.head(x)


class Macaron(nn.Module):
    """A conformer's block: half steps, attention with masked lengths, a gated convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 64), nn.SiLU(), nn.Linear(64, width)
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.gated = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.pointwise = nn.Sequential(nn.BatchNorm1d(width), nn.SiLU(), nn.Conv1d(width, width, 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + 0.5 * self.steps[0](x)
        y = self.norm(x)
        x = x + self.attention(y, y, y, key_padding_mask=mask, need_weights=False)[0]
        y = self.depthwise(F.glu(self.gated(x.transpose(1, 2)), dim=1))
        x = x + self.pointwise(y).transpose(1, 2)
        return x + 0.5 * self.steps[1](x)


class Conformer(nn.Module):
    """Blocks that hide what is beyond each length; the longest length is read as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Linear(12, 32), Macaron(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.full((x.shape[0],), x.shape[1], device=x.device)
        places = torch.arange(int(lengths.max()), device=x.device)
        return self.head(self.block(self.stem(x), places[None] >= lengths[:, None]))


class Separator(nn.Module):
    """Source separation in two branches, spectra and waves, with a recurrent middle."""

    def __init__(self) -> None:
        super().__init__()
        self.wave, self.spectrum = (
            nn.Conv1d(1, 16, 8, 4, 2),
            nn.Conv2d(2, 16, (8, 3), (4, 1), (2, 1)),
        )
        self.collect = nn.Conv2d(16, 16, (4, 1))
        self.recurrent = nn.LSTM(16, 16, bidirectional=True, batch_first=True)
        self.project, self.back = nn.Linear(32, 16), nn.ConvTranspose1d(16, 1, 8, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        window = torch.hann_window(32, device=x.device, dtype=x.dtype)
        spectrum = torch.stft(x, 32, 4, window=window, return_complex=True)[:, :16, :-1]
        parts = torch.view_as_real(spectrum).permute(0, 3, 1, 2)
        deep = self.collect(F.gelu(self.spectrum(parts))).squeeze(2) + self.wave(x[:, None])
        y = self.project(self.recurrent(deep.transpose(1, 2))[0]).transpose(1, 2)
        return self.back(deep + y)


class Distribution(nn.Module):
    """A detector's boxes as distributions over distances, with a convolution of fixed weights."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.conv = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data[:] = torch.arange(bins, dtype=torch.float).view(1, bins, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, anchors = x.shape
        split = x.view(batch, 4, self.bins, anchors).transpose(2, 1).softmax(1)
        return self.conv(split).view(batch, 4, anchors)


class PartialStage(nn.Module):
    """Half of the channels pass by, and every block's result is kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.side = width // 2
        self.first, self.last = nn.Conv2d(width, width, 1), nn.Conv2d(2 * width, width, 1)
        self.blocks = nn.ModuleList(nn.Conv2d(self.side, self.side, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).split((self.side, self.side), 1))
        parts.extend(block(parts[-1]).relu() for block in self.blocks)
        return self.last(torch.cat(parts, 1))


class QkvOfTwoSizes(nn.Module):
    """Attention whose keys are half as wide as its values, in one projection, with positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head = heads, width // heads
        self.key = self.head // 2
        self.qkv = nn.Conv2d(width, width + self.key * heads * 2, 1)
        self.positions, self.out = (
            nn.Conv2d(width, width, 3, 1, 1, groups=width),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, breadth = x.shape
        qkv = self.qkv(x).view(batch, self.heads, 2 * self.key + self.head, height * breadth)
        q, k, v = qkv.split([self.key, self.key, self.head], dim=2)
        weights = (q.transpose(2, 3) @ k * self.key**-0.5).softmax(-1)
        y = (v @ weights.transpose(2, 3)).view(batch, width, height, breadth)
        return x + self.out(y + self.positions(v.reshape(batch, width, height, breadth)))


class Detector(nn.Module):
    """Anchors in eval, raw maps in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.stages = nn.ModuleList([PartialStage(16), PartialStage(32)])
        self.down, self.attention = nn.Conv2d(16, 32, 3, 2, 1), QkvOfTwoSizes(32, 2)
        self.boxes = nn.ModuleList(nn.Conv2d(width, 4 * 8, 1) for width in (16, 32))
        self.classes = nn.ModuleList(nn.Conv2d(width, 5, 1) for width in (16, 32))
        self.distances = Distribution(8)

    def forward(self, x: Tensor) -> Any:
        first = self.stages[0](self.stem(x).relu())
        second = self.attention(self.stages[1](self.down(first).relu()))
        maps = [
            torch.cat([box(y), kind(y)], 1)
            for box, kind, y in zip(self.boxes, self.classes, (first, second), strict=True)
        ]
        if self.training:
            return {"maps": maps}
        flat = torch.cat([y.flatten(2) for y in maps], 2)
        boxes, kinds = flat.split((32, 5), 1)
        return torch.cat([self.distances(boxes), kinds.sigmoid()], 1), maps


class Reparametrised(nn.Module):
    """Three convolutions and a shortcut in train mode, merged into one kernel in eval mode."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(inputs, outputs, 1)
        self.steps = nn.Sequential(
            nn.Conv2d(inputs, 2 * inputs, 1),
            nn.Conv2d(2 * inputs, 2 * outputs, 3),
            nn.Conv2d(2 * outputs, outputs, 1),
        )
        self.merged = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.steps(F.pad(x, (1, 1, 1, 1))) + self.skip(x)
        steps: Any = self.steps
        (w1, b1), (w2, b2), (w3, b3) = ((step.weight.data, step.bias.data) for step in steps)
        kernel, bias = self.merge(w1, w2, 2), (w2 * b1.reshape(1, -1, 1, 1)).sum((1, 2, 3)) + b2
        kernel = self.merge(kernel, w3, 0)
        bias = (w3 * bias.reshape(1, -1, 1, 1)).sum((1, 2, 3)) + b3
        skip: Any = self.skip
        merged: Any = self.merged
        shortcut = F.pad(skip.weight.data, (1, 1, 1, 1))
        merged.weight.data = (kernel + shortcut).contiguous()
        merged.bias.data = bias + skip.bias.data
        return self.merged(x)

    @staticmethod
    def merge(first: Tensor, second: Tensor, padding: int) -> Tensor:
        merged = F.conv2d(first.flip(2, 3).permute(1, 0, 2, 3), second, padding=padding)
        return merged.flip(2, 3).permute(1, 0, 2, 3)


def restorer() -> nn.Module:
    return nn.Sequential(
        Reparametrised(4, 16),
        nn.SiLU(),
        Reparametrised(16, 16),
        nn.SiLU(),
        nn.Conv2d(16, 12, 3, 1, 1),
    )


class ChannelAttention(nn.Module):
    """Attention between channels, with a temperature per head, and a gated feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.temperature = heads, nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv, self.out = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
        self.local = nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width)
        self.gated, self.last = nn.Conv2d(width, 4 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.reshape(x.shape[0], self.heads, -1, x.shape[2] * x.shape[3])
            for part in self.local(self.qkv(x)).chunk(3, dim=1)
        )
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(2, 3) * self.temperature
        x = x + self.out((scores.softmax(-1) @ v).reshape(x.shape))
        gate, value = self.gated(x).chunk(2, dim=1)
        return x + self.last(F.gelu(gate) * value)


class Shuffled(nn.Module):
    """Restoration: attention of channels between an unshuffle and a shuffle of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(12, 24, 3, padding=1), ChannelAttention(24, 2)
        self.head = nn.Conv2d(24, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.block(self.stem(F.pixel_unshuffle(x, 2))))
        return x + F.pixel_shuffle(y, 2)


class Octave(nn.Module):
    """Convolutions between two resolutions, by slices of one weight."""

    def __init__(self, inputs: int, outputs: int, low: float) -> None:
        super().__init__()
        self.coarse_in, self.coarse_out = int(low * inputs), int(low * outputs)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3) * 0.1)

    def forward(self, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        out, inside = self.coarse_out, self.coarse_in
        smaller = F.avg_pool2d(fine, 2)
        high = F.conv2d(fine, self.weight[out:, inside:], padding=1)
        high = high + F.interpolate(
            F.conv2d(coarse, self.weight[out:, :inside], padding=1), scale_factor=2.0
        )
        deep = F.conv2d(coarse, self.weight[:out, :inside], padding=1)
        return high, deep + F.conv2d(smaller, self.weight[:out, inside:], padding=1)


class Octaves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 3, padding=1)
        self.octave, self.head = Octave(32, 32, 0.5), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.octave(self.fine(x), self.coarse(F.avg_pool2d(x, 2)))
        return self.head(torch.cat([part.relu().mean((2, 3)) for part in parts], 1))


class Patches(nn.Module):
    """Forecasting by patches of each channel: reversible norm, unfolded patches, a flat head."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.embed, self.place = nn.Linear(8, 32), nn.Parameter(torch.zeros(4, 32))
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
        self.norm, self.head = nn.BatchNorm1d(32), nn.Linear(4 * 32, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5
        series = ((x - mean) / spread * self.scale).transpose(1, 2)
        patches = self.embed(series.unfold(2, 8, 8)) + self.place
        batch, channels = patches.shape[:2]
        y = self.layer(patches.reshape(batch * channels, *patches.shape[2:]))
        y = self.norm(y.transpose(1, 2)).transpose(1, 2).reshape(batch, channels, -1)
        return self.head(y).transpose(1, 2) / self.scale * spread + mean


class Basis(nn.Module):
    """A block that explains a part of the past and foresees as much of the future."""

    def __init__(self, pool: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool1d(pool)
        self.layers = nn.Sequential(
            nn.Linear(24 // pool, 32),
            nn.ReLU(),
            nn.Linear(32, 32),
            nn.ReLU(),
            nn.Linear(32, 24 + 4),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        past, future = self.layers(self.pool(x[:, None])[:, 0]).split((24, 4), 1)
        return past, F.interpolate(future[:, None], size=8, mode="linear")[:, 0]


class Residuals(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Basis(2), Basis(4)])

    def forward(self, x: Tensor) -> Tensor:
        forecast = x[:, -1:].repeat(1, 8)
        for block in self.blocks:
            past, future = block(x)
            x, forecast = x - past, forecast + future
        return forecast


class Causal(nn.Module):
    """A temporal network: weight-normed dilated convolutions whose ends are cut, skips summed."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv1d(inputs, 24, 3, padding=2 * step, dilation=step))
            for inputs, step in ((4, 1), (24, 2), (24, 4))
        )
        self.skips = nn.ModuleList(nn.Conv1d(24, 16, 1) for _ in range(3))
        self.head = nn.Conv1d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        total: Any = 0
        for layer, skip in zip(self.layers, self.skips, strict=True):
            x = layer(x)[:, :, : x.shape[2]].relu()
            total = total + skip(x)
        return self.head(total)


class Windows(nn.Module):
    """Attention in windows with a table of relative places, moved by half a window."""

    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.width, self.heads, self.size = width, heads, size
        self.table = nn.Parameter(torch.zeros((2 * size - 1) ** 2, heads))
        places = torch.stack(torch.meshgrid(*[torch.arange(size)] * 2, indexing="ij")).flatten(1)
        apart = places[:, :, None] - places[:, None] + size - 1
        self.register_buffer("index", apart[0] * (2 * size - 1) + apart[1])
        self.norm, self.qkv, self.out = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, height, breadth, width = x.shape
        size = self.size
        y = torch.roll(self.norm(x), (-size // 2, -size // 2), (1, 2))
        y = y.view(batch, height // size, size, breadth // size, size, width)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, width)
        qkv = self.qkv(y).reshape(y.shape[0], size * size, 3, self.heads, self.width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        index: Any = self.index
        bias = self.table[index.view(-1)].view(size * size, size * size, -1).permute(2, 0, 1)
        y = ((q @ k.transpose(2, 3) + bias).softmax(-1) @ v).transpose(1, 2).reshape(y.shape)
        y = self.out(y).view(batch, height // size, breadth // size, size, size, width)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, breadth, width)
        return x + torch.roll(y, (size // 2, size // 2), (1, 2))


class Windowed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 24, 4, 4), Windows(24, 3, 4)
        self.merge, self.head = nn.Linear(4 * 24, 48, bias=False), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(self.stem(x).permute(0, 2, 3, 1))
        parts = [y[:, row::2, column::2] for column in range(2) for row in range(2)]
        return self.head(self.merge(torch.cat(parts, -1)).flatten(1, 2).mean(1))


class GroupedHeads(nn.Module):
    """A decoder's layer: rotated queries and keys, fewer keys than queries, a gated unit."""

    def __init__(self, width: int, heads: int, shared: int) -> None:
        super().__init__()
        self.heads, self.shared, self.size = heads, shared, width // heads
        self.query, self.out = (
            nn.Linear(width, width, bias=False),
            nn.Linear(width, width, bias=False),
        )
        self.key = nn.Linear(width, shared * self.size, bias=False)
        self.value = nn.Linear(width, shared * self.size, bias=False)
        self.gate, self.up, self.down = (
            nn.Linear(width, 64),
            nn.Linear(width, 64),
            nn.Linear(64, width),
        )
        self.norms = nn.ModuleList([nn.RMSNorm(width), nn.RMSNorm(width)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](x)
        q, k, v = (
            layer(y).view(*y.shape[:2], -1, self.size).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        k, v = (part.repeat_interleave(self.heads // self.shared, 1) for part in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(*y.shape[:2], -1))
        y = self.norms[1](x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def decoder() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), GroupedHeads(32, 4, 2), nn.Linear(32, 10))


class RecallAndAdd(nn.Module):
    """Segmentation: a pyramid whose levels meet, and attention of channels and of places."""

    def __init__(self) -> None:
        super().__init__()
        self.downs = nn.ModuleList([nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)])
        self.laterals = nn.ModuleList([nn.Conv2d(16, 24, 1), nn.Conv2d(32, 24, 1)])
        self.channels = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(24, 6, 1),
            nn.ReLU(),
            nn.Conv2d(6, 24, 1),
            nn.Sigmoid(),
        )
        self.places = nn.Sequential(nn.Conv2d(24, 1, 1), nn.Sigmoid())
        self.head = nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.downs[0](x).relu()
        deep = self.laterals[1](self.downs[1](first).relu())
        y = self.laterals[0](first) + F.interpolate(deep, size=first.shape[2:], mode="nearest")
        y = y * self.channels(y) + y * self.places(y)
        return F.interpolate(self.head(y), scale_factor=2.0, mode="bilinear")


class Residual3d(nn.Module):
    """Volumes: group norms, blocks before the convolutions, a sum of skips."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv3d(1, 16, 3, padding=1), nn.Conv3d(16, 32, 3, 2, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(4, width), nn.ReLU(), nn.Conv3d(width, width, 3, padding=1))
            for width in (16, 32)
        )
        self.up, self.head = nn.Conv3d(32, 16, 1), nn.Conv3d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.stem(x)
        first = first + self.blocks[0](first)
        deep = self.down(first)
        deep = self.up(deep + self.blocks[1](deep))
        return self.head(first + F.interpolate(deep, scale_factor=2.0, mode="trilinear"))


class LowRank(nn.Module):
    """An expert of low rank: two projections multiplied, and one back."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, rank, 1), nn.Conv2d(width, rank, 1)
        self.last = nn.Conv2d(rank, width, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.last(self.first(x) * self.second(context))


class Experts(nn.Module):
    """A router that weighs experts of growing rank; each sees every input, most count nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.local = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.gate = nn.Linear(16, 3, bias=False)
        self.experts = nn.ModuleList(LowRank(16, 2 + 2 * index) for index in range(3))
        self.head = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y, context = self.local(self.stem(x)).chunk(2, dim=1)
        weights = self.gate(y.mean((2, 3))).softmax(1)
        best = torch.zeros_like(weights).scatter(1, weights.argmax(1, keepdim=True), 1.0)
        for index, expert in enumerate(self.experts):
            y = y + expert(y, context) * (best * weights)[:, index, None, None, None]
        return self.head(y)


class Speaking(nn.Module):
    """A decoder of speech: attention that remembers where it was, two cells, frame by frame."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 32
        self.encoder = nn.LSTM(8, 12, batch_first=True, bidirectional=True)
        self.prenet = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.cells = nn.ModuleList([nn.LSTMCell(16 + 24, 32), nn.LSTMCell(32 + 24, 32)])
        self.query, self.memory = nn.Linear(32, 10), nn.Linear(24, 10)
        self.places = nn.Conv1d(1, 4, 5, padding=2)
        self.place, self.score = nn.Linear(4, 10), nn.Linear(10, 1)
        self.frame = nn.Linear(32 + 24, 6)

    def forward(self, text: Tensor, frames: Tensor) -> Tensor:
        memory = self.encoder(text)[0]
        keys, batch = self.memory(memory), text.shape[0]
        states = [(memory.new_zeros(batch, self.size),) * 2 for _ in range(2)]
        seen, context = memory.new_zeros(batch, text.shape[1]), memory[:, 0]
        made = []
        for step in range(frames.shape[1]):
            inputs = torch.cat([self.prenet(frames[:, step]), context], 1)
            states[0] = self.cells[0](inputs, states[0])
            where = self.place(self.places(seen[:, None]).transpose(1, 2))
            energy = self.score(torch.tanh(self.query(states[0][0])[:, None] + keys + where))
            weights = energy[:, :, 0].softmax(1)
            seen = seen + weights
            context = torch.bmm(weights[:, None], memory)[:, 0]
            states[1] = self.cells[1](torch.cat([states[0][0], context], 1), states[1])
            made.append(self.frame(torch.cat([states[1][0], context], 1)))
        return torch.stack(made, 1)
