"""Masks, tables and statistics that modules keep as plain attributes are cropped as buffers are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precrop
from tests.outside.cropping import cropped

IMAGE = (3, 12, 12)


class Masked(nn.Conv2d):
    """A convolution whose mask is no buffer, as in scripts of the pruning literature."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.mask = torch.ones_like(self.weight).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask.to(x.device), self.bias, padding=self.padding)


class Positions(nn.Module):
    """A table of positions is added to a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inside = nn.Linear(6, 48), nn.Linear(48, 48)
        self.head = nn.Linear(48, 5)
        self.table = torch.randn(1, 9, 48)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.table
        out: Tensor = self.head(h + self.inside(h).relu()).mean(1)
        return out


class Centred(nn.Module):
    """Features are shifted and scaled by tensors of one number a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 24, 3), nn.Conv2d(24, 24, 3)
        self.mean, self._scale = torch.randn(24), torch.rand(24, 1, 1) + 1
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = (self.stem(x) - self.mean[:, None, None]) * self._scale
        out: Tensor = self.head(self.body(h.relu()).mean((2, 3)))
        return out


def masked() -> nn.Module:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))
    return nn.Sequential(Masked(3, 32), nn.ReLU(), Masked(32, 32), nn.ReLU(), *head)


def test_a_mask_follows_its_weight() -> None:
    model: Any = masked()
    model[0].mask = (torch.rand(32, 3, 3, 3) < 0.5).float()
    _, built = cropped(model, IMAGE, movable=["0"])
    kept = built[0].weight.shape[0]
    assert kept < 32
    assert torch.equal(built[0].mask, model[0].mask[:kept])
    assert built[2].mask.shape == built[2].weight.shape


def test_a_table_follows_the_stream() -> None:
    model = Positions()
    _, built = cropped(model, (9, 6), movable=["embed", "inside"])
    assert torch.equal(built.table, model.table[..., : built.embed.out_features])


def test_vectors_follow_their_channels() -> None:
    model = Centred()
    _, built = cropped(model, IMAGE, movable=["stem"])
    width = built.stem.out_channels
    assert width < 24
    assert built.mean.shape == (width,)
    assert built._scale.shape == (width, 1, 1)


def test_a_trained_network_keeps_the_same_channels_of_a_plain_tensor() -> None:
    model = Centred()
    plan = precrop.plan(model, IMAGE, params=0.5, divisor=1)
    built: Any = plan.build(model, init="l1")
    norms = model.stem.weight.detach().abs().sum((1, 2, 3))
    kept = norms.topk(built.stem.out_channels).indices.sort().values
    assert torch.equal(built.stem.weight, model.stem.weight[kept])
    assert torch.equal(built.mean, model.mean[kept])


class Scaled(nn.Module):
    """A residual block whose scale other blocks hold too."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale, self.layer = scale, nn.Conv2d(64, 64, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layer(x * self.scale).relu()
        return out


def test_a_tensor_that_several_modules_hold_stays_one() -> None:
    scale = torch.rand(64, 1, 1) + 1
    blocks = [Scaled(scale) for _ in range(3)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), *blocks, *head)
    plan, built = cropped(model, IMAGE, movable=["0", "1.layer"])
    width = built[0].out_channels
    assert torch.equal(built[1].scale, scale[:width])
    assert built[1].scale is built[2].scale is built[3].scale
    largest: Any = plan.build(model, init="l1")
    assert largest[3].scale is largest[1].scale
    assert largest(torch.randn(1, *IMAGE)).shape == (1, 4)


def test_a_plan_for_another_plain_tensor_is_refused() -> None:
    plan = precrop.plan(Centred(), IMAGE, params=0.5, divisor=1)
    other: Any = Centred()
    other.mean = torch.zeros(1)
    with pytest.raises(precrop.PlanError, match="does not resize mean"):
        plan.build(other)


def test_what_the_last_forward_left_is_no_part_of_the_network() -> None:
    model: Any = Centred()
    model.last = model(torch.randn(2, *IMAGE))
    plan = precrop.plan(model, IMAGE, params=0.5, divisor=1)
    assert "last" not in plan.tensors
    assert plan.build(model)(torch.randn(1, *IMAGE)).shape == (1, 4)


class Photo(Tensor):
    """A class of tensors of a package's own, as fastai hands them to networks."""


class Wrapping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x)).as_subclass(Photo)
        return self.head(F.relu(self.second(x) + 1).mean((2, 3)).as_subclass(Tensor))


def test_tensors_of_a_class_of_their_own() -> None:
    """No call makes them: they are the same elements, whatever Python says of their class."""
    model = Wrapping()
    cropped(model, IMAGE, movable=["first", "second"])
    densities = precrop.densities(model, IMAGE, method="synflow", params=0.5)
    assert densities.keys() == {"first", "second", "head"}


WRITES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "all": lambda o, x: o.__setitem__(slice(None), x),
    "a stretch of a map": lambda o, x: o[..., 2:].copy_(x[..., 2:]),
    "every other pixel": lambda o, x: o[:, :, ::2, ::2].copy_(x[:, :, ::2, ::2]),
    "a sum": lambda o, x: o.add_(x),
}


@pytest.mark.parametrize("memory", [None, 0.8])
@pytest.mark.parametrize("write", WRITES)
def test_what_is_written_into_a_tensor_made_on_the_cpu(write: str, memory: float | None) -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1)
            self.three, self.head = nn.Conv2d(16, 16, 3), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.two(self.one(x))
            out = torch.zeros(x.shape)
            WRITES[write](out, x)
            return self.head(self.three(out).mean((2, 3)))

    budgets = {"params": 0.5} if memory is None else {"memory": memory}
    plan, _ = cropped(Writing(), IMAGE, ["one", "two", "three"], **budgets)
    assert plan.widths["two"][1] < 16


REBOUND: dict[str, Callable[[Any, Tensor, Tensor], Any]] = {
    "moved": lambda m, x, k: m.cache.to(x),
    "of a type": lambda m, x, k: m.cache.type_as(x),
    "copied": lambda m, x, k: m.cache.clone(),
    "emptied": lambda m, x, k: torch.zeros_like(m.cache),
    "made anew": lambda m, x, k: torch.zeros(len(x), 16, m.keys.out_features),
    "longer": lambda m, x, k: torch.cat([m.cache.to(x)[: len(x)], k], 1),
}


class Caching(nn.Module):
    """Forward puts another tensor in the place of its cache, and what it computes into that."""

    def __init__(self, rebind: str, registered: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.rebind = rebind
        self.keys, self.head = nn.Linear(8, 32), nn.Linear(32, 4)
        cache = torch.zeros(4, 16, 32, dtype=dtype)
        if registered:
            self.register_buffer("cache", cache)
        else:
            self.cache = cache

    def forward(self, x: Tensor) -> Tensor:
        keys = self.keys(x)
        self.cache = REBOUND[self.rebind](self, x, keys).detach()
        self.cache[: len(x), : x.shape[1]] = keys
        out: Tensor = self.head(self.cache[: len(x), : x.shape[1]].to(x))
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("rebind", REBOUND)
def test_a_cache_that_forward_replaces(rebind: str, registered: bool, dtype: torch.dtype) -> None:
    model = Caching(rebind, registered, dtype)
    cache = model.cache
    plan = precrop.plan(model, (6, 8), params=0.5, divisor=1)
    built: Any = plan.build(model)
    assert model.cache is cache
    assert cache.dtype == dtype
    assert not cache.any()
    assert not plan.frozen
    width = built.keys.out_features
    assert width < 32
    read = rebind != "made anew"  # else nothing reads what it was
    assert built.cache.shape == (4, 16, width if read else 32)
    x = torch.randn(2, 6, 8)
    assert torch.equal(built(x), built.head(built.keys(x)))
    built(x).sum().backward()
    assert built.keys.weight.grad is not None


class Growing(nn.Module):
    """Keys of earlier inputs are kept in a dict; at first there are none."""

    def __init__(self, trains: bool) -> None:
        super().__init__()
        self.keys, self.head, self.trains = nn.Linear(8, 32), nn.Linear(32, 4), trains
        self.kept: dict[str, Tensor] = {}
        self.table = torch.zeros(1, 1, 32)

    def forward(self, x: Tensor) -> Tensor:
        keys = self.keys(x) + self.table
        self.table = self.table.to(x.device).clone()
        before = [self.kept["keys"]] if "keys" in self.kept else []
        self.kept["keys"] = torch.cat([*before, keys], 1)
        if self.training and not self.trains:
            raise ValueError("it needs targets")
        out: Tensor = self.head(self.kept["keys"][:, -x.shape[1] :])
        return out


@pytest.mark.parametrize("trains", [False, True])
def test_every_pass_begins_with_the_network_as_it_is(trains: bool) -> None:
    model = Growing(trains)
    plan = precrop.plan(model, (6, 8), params=0.5, divisor=1)
    assert plan.frozen.keys() == (set() if trains else {"train mode"})
    built: Any = plan.build(model)
    assert built.keys.out_features == built.table.shape[-1] < 32
    assert not model.kept
    assert not built.kept
    assert built.eval()(torch.randn(2, 6, 8)).shape == (2, 6, 4)


class Told(nn.Module):
    """Attention that is told before each call how large its map is, and what is hidden."""

    height: int
    hidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.width, self.heads = 32, 2
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(len(x), self.height * self.height, self.width)
        parts = self.qkv(x).view(*x.shape[:2], 3, self.heads, self.width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        y = (q @ k.transpose(-2, -1) + self.hidden).softmax(-1) @ v
        out: Tensor = self.out(y.transpose(1, 2).reshape(x.shape))
        return x + out


class Telling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 5)
        self.blocks = nn.ModuleList(Told() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        side, x = x.shape[-1], x.flatten(2).transpose(1, 2)
        block: Any
        for block in self.blocks:
            block.height, block.hidden = side, torch.zeros(side**2, side**2, device=x.device)
            x = block(x)
        out: Tensor = self.head(x.mean(1))
        return out


def test_what_a_block_is_told_before_its_call() -> None:
    _, built = cropped(Telling(), IMAGE, movable=["stem", "blocks.1.qkv"], params=0.45)
    assert built.blocks[0].width == built.stem.out_channels < 32
