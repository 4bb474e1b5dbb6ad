"""Sizes that modules keep in configurations, under other divisions and behind other branches."""

import collections
import copy
import dataclasses
import enum
from collections.abc import Callable, Iterator, MutableMapping
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.errors import PlanError
from precrop.fit.attributes import apply_edits, integers
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


class SharingSize:
    """An object whose copies share its list."""

    def __init__(self) -> None:
        self.width, self.widths = 32, [32]

    def __deepcopy__(self, memo: Any) -> "SharingSize":
        made = SharingSize()
        made.widths = self.widths
        return made


class SharedSize:
    """A class in the place of a configuration: the process has one."""

    width = 32


class Enumerated(enum.IntEnum):
    WIDTH = 32


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
    model.sharing = SharingSize()
    model.things = [torch, int, SharedSize, len, lambda: 0, torch.zeros(2), Enumerated.WIDTH]
    assert not [path for path, _ in integers(model) if "features" not in path]
    paths = ("fixed.width", "sharing.widths.0", "sharing.width", "things.2.width")
    for path in (*paths, "things.3.x", "things.4.__code__", "things.5.ndim", "things.6._value_"):
        with pytest.raises(PlanError, match="which this network does not have"):
            apply_edits(model, [("", path, 8)])
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


@dataclasses.dataclass
class Plain:
    dim: int = 32


@dataclasses.dataclass(frozen=True)
class Frozen:
    dim: int = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    dim: int = 32


class Stated(NamedTuple):
    name: str
    settings: Any


class ByClass:
    """Its class says the size, for all of them."""

    dim: ClassVar = 32


class Helper:
    """What a module calls; it holds the size."""

    def __init__(self) -> None:
        self.dim = 32

    def __call__(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.dim)


class Items(dict[str, Any]):
    """A dict whose entries can be read as attributes, with attributes of its own."""

    def __init__(self, **entries: Any) -> None:
        super().__init__(**entries)
        self.__dict__["_frozen"] = True

    __getattr__ = dict.__getitem__


class Twice(dict[str, Any]):
    """A dict that has its entries as attributes, too."""

    def __init__(self, **entries: Any) -> None:
        super().__init__(**entries)
        self.__dict__.update(entries)


class Nodes(MutableMapping[str, Any]):
    """A mapping that keeps its entries in nodes, has its own copies, and may refuse new values."""

    def __init__(self, read_only: bool = False, **entries: Any) -> None:
        self.__dict__["_nodes"] = {name: SimpleNamespace(value=v) for name, v in entries.items()}
        self.__dict__["_read_only"] = read_only

    def __getitem__(self, name: str) -> Any:
        return self._nodes[name].value

    def __getattr__(self, name: str) -> Any:
        return self[name] if name != "__deepcopy__" else None

    def __setitem__(self, name: str, value: Any) -> None:
        if self._read_only:
            raise TypeError("read only")
        self._nodes[name].value = value

    def __delitem__(self, name: str) -> None:
        del self._nodes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def __deepcopy__(self, memo: Any) -> "Nodes":
        entries = {name: copy.deepcopy(node.value, memo) for name, node in self._nodes.items()}
        return Nodes(self._read_only, **entries)


class Fields:
    """Attributes, with copies of its own."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __setattr__(self, name: str, value: Any) -> None:
        raise TypeError("frozen")

    def __deepcopy__(self, memo: Any) -> "Fields":
        return Fields(**copy.deepcopy(vars(self), memo))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Tokens(nn.Module):
    """Attention of which every size is read where the configuration has it."""

    def __init__(self, config: Any, read: Callable[[Any], Any]) -> None:
        super().__init__()
        self.config, self.read = config, read
        self.stem, self.parts = nn.Linear(12, 32), nn.Linear(32, 96)
        self.out, self.head = nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.parts(self.stem(x)).split(int(self.read(self.config)), -1)
        x = self.out((q @ k.mT).softmax(-1) @ v)
        return self.head(x.reshape(*x.shape[:-1], self.read(self.config)).mean(1))


Place = tuple[Callable[[], Any], Callable[[Any], Any]]
PLACES: dict[str, Place] = {
    "in two records": (lambda: SimpleNamespace(model=Plain()), lambda c: c.model.dim),
    "in two dicts": (lambda: {"model": {"dim": 32}}, lambda c: c["model"]["dim"]),
    "in a record in a dict": (lambda: {"model": Plain()}, lambda c: c["model"].dim),
    "in a dict in a record": (lambda: Config([], {"dim": 32}), lambda c: c.classes["dim"]),  # type: ignore[arg-type]
    "in dicts in a list in a dict": (
        lambda: {"stages": [{"dim": 8, "heads": 2}, {"dim": 32, "heads": 4}]},
        lambda c: c["stages"][1]["dim"],
    ),
    "in records in a list": (lambda: [Plain(3), Plain()], lambda c: c[1].dim),
    "in frozen records in a tuple": (lambda: (Frozen(3), Frozen()), lambda c: c[1].dim),
    "in slots": (lambda: [Slotted()], lambda c: c[0].dim),
    "in a dict in a tuple": (lambda: [("conv", {"c": 32})], lambda c: c[0][1]["c"]),
    "in tuples with names": (
        lambda: [Stated("conv", Stated("c", 32))],
        lambda c: c[0].settings.settings,
    ),
    "in a queue": (lambda: collections.deque([3, 32]), lambda c: c[1]),
    "in an object's class": (ByClass, lambda c: c.dim),
    "in items": (lambda: Items(model=Items(dim=32)), lambda c: c.model.dim),
    "in items and attributes, by name": (lambda: Twice(dim=32), lambda c: c.dim),
    "in items and attributes, by key": (lambda: Twice(dim=32), lambda c: c["dim"]),
    "in nodes": (lambda: Nodes(model=Nodes(dim=32)), lambda c: c.model.dim),
    "in fields": (lambda: Fields(model=Fields(dim=32)), lambda c: c.model.dim),
    "a NumPy integer": (lambda: np.int64(32), lambda c: c),
    "a small NumPy integer": (lambda: [np.uint8(3), np.uint8(32)], lambda c: c[1]),
    "in an array": (lambda: np.array([16, 32]), lambda c: c[1]),
    "in a list of an array": (lambda: np.array([[16, 32], [2, 3]]), lambda c: c.tolist()[0][1]),
    "a float": (lambda: 32.0, int),
    "a float in a dict": (lambda: {"rate": 1.0, "dim": 32.0}, lambda c: int(c["dim"])),
}
KEYS = ["embed-dim", "a/b", "model.dim", "1", "'", "\\x2e", "", 1, ("up", 0)]
BESIDE = {"model": {"dim": 7}, "a": {"b": 7}, "embed_dim": 7, -1: 7, ("up", 1): 7, ("up",): 7}
KEPT: dict[str, Place] = {
    "a class": (lambda: ByClass, lambda c: c.dim),
    "a range": (lambda: range(32, 64), lambda c: c[0]),
    "an enumeration": (lambda: Enumerated.WIDTH, int),
    "read only": (lambda: Nodes(True, dim=32), lambda c: c.dim),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_size_follows_wherever_it_is(place: str) -> None:
    check_followed(*PLACES[place])


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_a_size_follows_whatever_its_key(key: Any) -> None:
    built = check_followed(lambda: {**BESIDE, key: 32}, lambda config: config[key])
    assert {**built.config, key: 32} == {**BESIDE, key: 32}


def check_followed(make: Callable[[], Any], read: Callable[[Any], Any]) -> Any:
    model = Tokens(make(), read)
    plan, built = cropped(model, (6, 12), ["stem", "parts", "out"], params=0.5)
    assert not plan.frozen
    assert read(built.config) == built.out.out_features < 32
    assert type(read(built.config)) is type(read(make()))
    assert read(model.config) == read(make()) == 32
    again: Any = precrop.Plan.from_json(plan.to_json()).build(Tokens(make(), read))
    again.load_state_dict(built.state_dict())
    x = torch.randn(2, 6, 12)
    assert torch.equal(again.eval()(x), built.eval()(x))
    return built


@pytest.mark.parametrize("place", KEPT)
def test_a_size_that_no_copy_can_have_otherwise_is_kept(place: str) -> None:
    make, read = KEPT[place]
    model = Tokens(make(), read)
    plan = precrop.plan(model, (6, 12), params=0.7)
    assert plan.frozen
    built: Any = plan.build(model)
    assert built(torch.randn(2, 6, 12)).shape == (2, 5)
    assert read(model.config) == read(built.config) == read(make()) == 32


class Called(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.helper, self.head = nn.Linear(12, 32), Helper(), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.helper(self.stem(x)).relu())
        return out


def test_a_size_in_what_is_called_follows() -> None:
    _, built = cropped(Called(), (12,), ["stem"], params=0.51)
    assert built.helper.dim == built.stem.out_features < 32


class InClass(nn.Module):
    """Its class says the size, and an array says others."""

    dim: ClassVar = 32

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(12, self.dim), nn.Linear(self.dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.stem(x).reshape(-1, self.dim).relu())
        return out


def test_a_size_in_a_class_is_hidden_by_the_copys_own() -> None:
    model = InClass()
    _, built = cropped(model, (12,), ["stem"], params=0.51)
    assert built.dim == built.stem.out_features < 32
    assert (InClass.dim, model.dim, copy.deepcopy(built).dim) == (32, 32, built.dim)


class Blocks(nn.Module):
    """Blocks share a configuration, which has two sizes."""

    def __init__(self) -> None:
        super().__init__()
        config = SimpleNamespace(model=SimpleNamespace(dim=32, inner=48), data={"size": 7})
        self.stem, self.head = nn.Linear(12, 32), nn.Linear(32, 5)
        self.blocks = nn.Sequential(*(Gated(config) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.stem(x)))
        return out


class Gated(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, model = config, config.model
        self.rise, self.fall = nn.Linear(32, 2 * model.inner), nn.Linear(model.inner, 32)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.rise(x).split(self.config.model.inner, -1)
        return x + self.fall(value * gate.sigmoid()).reshape(-1, self.config.model.dim)


def test_blocks_share_sizes_deep_in_a_configuration() -> None:
    _, built = cropped(Blocks(), (12,), ["stem", *(f"blocks.{i}.rise" for i in range(3))])
    config = built.blocks[0].config
    assert all(block.config is config for block in built.blocks)
    assert config.model.dim == built.stem.out_features < 32
    assert config.model.inner == built.blocks[0].fall.in_features < 48
    assert config.data == {"size": 7}


class Program(nn.Module):
    """Runs what a list of nodes says, as networks do that were read from a file."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.layers: Any = nn.ModuleList()
        self.nodes: list[dict[str, Any]] = []
        for place, width in enumerate(widths):
            self.layers += [nn.Linear(12, 2 * width), nn.Linear(width, 12)]
            self.nodes += [
                {"do": "call", "layer": 2 * place},
                {"do": "cut", "start": 0, "end": width, "to": "a"},
                {"do": "cut", "start": width, "end": 2 * width, "to": "b"},
                {"do": "multiply"},
                {"do": "call", "layer": 2 * place + 1},
            ]

    def forward(self, x: Tensor) -> Tensor:
        known: dict[str, Tensor] = {}
        for node in self.nodes:
            match node["do"]:
                case "call":
                    x = self.layers[node["layer"]](x)
                case "cut":
                    known[node["to"]] = x[:, node["start"] : node["end"]]
                case "multiply":
                    x = known["a"] * known["b"]
        return x


def test_a_network_that_is_a_list_of_nodes() -> None:
    plan, built = cropped(Program((24, 32, 24)), (12,), ["layers.0", "layers.2", "layers.4"])
    assert not plan.frozen
    for place in range(3):
        first, second = built.nodes[5 * place + 1 : 5 * place + 3]
        width = built.layers[2 * place + 1].in_features
        assert (first["end"], second["start"], second["end"]) == (width, width, 2 * width)
