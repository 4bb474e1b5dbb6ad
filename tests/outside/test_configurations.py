"""Sizes that modules keep in configurations, under other divisions and behind other branches."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.errors import PlanError
from precrop.fit.attributes import apply_edits, integers, is_record
from tests.outside.cropping import cropped


@dataclasses.dataclass
class Config:
    widths: list[int]
    classes: int = 10


class FixedSize:
    """An object that says how it is copied: it may be one that others share."""

    shared = None

    def __init__(self) -> None:
        self.width = 32

    def __deepcopy__(self, memo: Any) -> "FixedSize":
        return self


class Configured(nn.Module):
    """Tokens are brought back to a width that only the configuration says."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        first, last = config["widths"] if isinstance(config, dict) else config.widths
        self.stem = nn.Conv2d(3, first, 3, 2)
        self.body = nn.Conv2d(first, last, 3, 2)
        self.head = nn.Linear(last, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x).relu()).flatten(2).transpose(1, 2)
        config = self.config
        width = config["widths"][-1] if isinstance(config, dict) else config.widths[-1]
        tokens = x.reshape(x.shape[0], -1, width)
        return self.head(tokens.relu().mean(1))


CONFIGS = {
    "dataclass": Config([24, 48]),
    "namespace": SimpleNamespace(widths=(24, 48)),
    "dict": {"widths": [24, 48]},
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_width_in_a_configuration_follows(kind: str) -> None:
    model = Configured(CONFIGS[kind])
    plan, built = cropped(model, (3, 12, 12), movable=["stem", "body"])
    path = next(attribute for _, attribute, _ in plan.attributes if attribute.startswith("config"))
    assert path == "config.widths.1"
    now = dict(integers(built))["config.widths.1"]
    assert now == built.body.out_channels < 48
    assert dict(integers(model))["config.widths.1"] == 48  # the original's is another object


class Stages(nn.Module):
    """Two modules share one configuration, each reads its own entry."""

    def __init__(self) -> None:
        super().__init__()
        config = Config([24, 48])
        self.first, self.second = Stage(config, 0, 3), Stage(config, 1, 24)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).mean((2, 3)))


class Stage(nn.Module):
    def __init__(self, config: Config, index: int, inputs: int) -> None:
        super().__init__()
        self.config, self.index = config, index
        self.layer = nn.Conv2d(inputs, config.widths[index], 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        height, width = x.shape[2:]
        x = x.flatten(2).reshape(x.shape[0], self.config.widths[self.index], height * width)
        return x.reshape(x.shape[0], -1, height, width).relu()


def test_modules_share_a_configuration() -> None:
    _, built = cropped(Stages(), (3, 10, 10), movable=["first.layer", "second.layer"])
    assert built.first.config is built.second.config
    assert built.first.config.widths == [
        built.first.layer.out_channels,
        built.second.layer.out_channels,
    ]


class Attention(nn.Module):
    """One attribute says the width of what is split into heads; its heads differ by the stage."""

    def __init__(self, embed: int, heads: int) -> None:
        super().__init__()
        self.embed, self.heads = embed, heads
        self.query, self.key, self.value, self.out = (nn.Linear(embed, embed) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        size = self.embed // self.heads
        return x.view(x.shape[0], x.shape[1], self.heads, size).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        mixed = (q @ k.transpose(2, 3)).softmax(-1) @ v
        return x + self.out(mixed.transpose(1, 2).reshape(x.shape))


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.many = Attention(24, 1), Attention(48, 3)
        self.stem, self.between = nn.Linear(8, 24), nn.Linear(24, 48)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.many(self.between(self.one(self.stem(x)))).mean(1))


def test_a_width_is_divided_by_other_heads() -> None:
    layers = ("query", "key", "value")
    movable = [f"{stage}.{layer}" for stage in ("one", "many") for layer in layers]
    _, built = cropped(Heads(), (6, 8), movable=movable)
    assert built.many.embed == built.many.query.out_features < 48
    assert built.many.embed % 3 == 0


class Branches(nn.Module):
    """The same place in the code is another tensor in the other branch."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        self.pooled, self.width = pooled, 32
        self.inner, self.out = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x).view(x.shape[0], x.shape[1], 2, -1).transpose(1, 2)
        if self.pooled:
            y = y.reshape(x.shape[0], 2, 2, -1, y.shape[-1]).amax(2)
        y = y.transpose(1, 2).reshape(x.shape[0], -1, self.width)
        return self.out(y.relu())


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.whole, self.pooled = Branches(False), Branches(True)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pooled(self.whole(self.stem(x))).mean(1))


def test_what_one_branch_teaches_is_not_taken_for_the_other() -> None:
    _, built = cropped(Branching(), (6, 8), movable=["whole.inner", "pooled.inner"])
    for block in (built.whole, built.pooled):
        assert block.width == block.inner.out_features < 32


def test_what_is_shared_with_others_is_out_of_reach() -> None:
    model: Any = nn.Linear(3, 3)
    model.fixed = FixedSize()
    assert not is_record(model.fixed)
    for thing in (torch, int, len, lambda: 0, model, torch.zeros(2), 3, "text"):
        assert not is_record(thing)
    with pytest.raises(PlanError, match=r"fixed\.width"):
        apply_edits(model, [("", "fixed.width", 8)])
    model.config = Config([4, 8])
    apply_edits(model, [("", "config.widths.1", 6), ("", "config.classes", 5)])
    assert model.config == Config([4, 6], 5)
    for path in ("config.__class__.__name__", "config.__dict__", "config.classes.real"):
        with pytest.raises(PlanError):
            apply_edits(model, [("", path, 8)])


def test_plans_with_configurations_are_kept_in_files(tmp_path: Any) -> None:
    model = Configured(Config([24, 48]))
    plan = precrop.plan(model, (3, 12, 12), params=0.5)
    plan.save(tmp_path / "plan.json")
    built: Any = precrop.Plan.load(tmp_path / "plan.json").build(Configured(Config([24, 48])))
    assert built.config.widths[1] == built.body.out_channels


class Missing:
    """What packages put in place of an import that failed: every look at it raises."""

    def __getattr__(self, name: str) -> Any:
        raise ImportError("not installed")


MISSING: Any = Missing()


class Optional(Configured):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x is not None else MISSING.call(x)


def test_names_of_packages_that_are_missing_are_passed_over() -> None:
    cropped(Optional(Config([24, 48])), (3, 12, 12), movable=["stem", "body"])
