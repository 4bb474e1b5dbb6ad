"""Tables that networks keep outside of their modules stay as they were."""

import functools
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import precrop

SHAPE = (3, 8, 8)
PLACES: dict[Any, Any] = {}
NESTED: dict[str, dict[int, Tensor]] = {"tables": {}}
LAST: Tensor | None = None


class Base(nn.Module):
    """Multiplies its places, of which there are as many at any width, by a table."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 3)

    def table(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(self.second(x * self.table(x)).mean((2, 3)))


def made(x: Tensor) -> Tensor:
    return torch.linspace(0, 1, x.shape[-1], device=x.device)


class OfClass(Base):
    tables: ClassVar[dict[int, Tensor]] = {}

    def table(self, x: Tensor) -> Tensor:
        if x.shape[-1] not in self.tables:
            self.tables[x.shape[-1]] = made(x)
        return self.tables[x.shape[-1]]


class ClassAttribute(Base):
    kept: ClassVar[Tensor | None] = None

    def table(self, x: Tensor) -> Tensor:
        if ClassAttribute.kept is None:
            type(self).kept = made(x)
        assert ClassAttribute.kept is not None
        return ClassAttribute.kept


class OfModule(Base):
    def table(self, x: Tensor) -> Tensor:
        return PLACES.setdefault("places", made(x))


class OfModuleNested(Base):
    def table(self, x: Tensor) -> Tensor:
        return NESTED["tables"].setdefault(x.shape[-1], made(x))


class OfGlobal(Base):
    def table(self, x: Tensor) -> Tensor:
        global LAST
        if LAST is None:
            LAST = made(x)
        return LAST


def listed(x: Tensor, known: list[Tensor] = []) -> Tensor:  # noqa: B006 - the case
    if not known:
        known.append(made(x))
    return known[0]


class OfDefault(Base):
    def table(self, x: Tensor) -> Tensor:
        return listed(x)


@functools.cache
def cached(size: int, device: str) -> Tensor:
    return torch.linspace(0, 1, size, device=device)


@functools.lru_cache(maxsize=4)
def without_device(size: int) -> tuple[Tensor, ...]:
    return (torch.linspace(0, 1, size),)


class Cached(Base):
    def table(self, x: Tensor) -> Tensor:
        return cached(x.shape[-1], str(x.device))


class CachedTuple(Base):
    def table(self, x: Tensor) -> Tensor:
        return without_device(x.shape[-1])[0].to(x.device)


class Plain(Base):
    def table(self, x: Tensor) -> Tensor:
        return made(x)


KINDS = (
    OfClass,
    ClassAttribute,
    OfModule,
    OfModuleNested,
    OfGlobal,
    OfDefault,
    Cached,
    CachedTuple,
)


def state() -> list[Any]:
    defaults: Any = listed.__defaults__
    return [
        dict(OfClass.tables), ClassAttribute.kept, dict(PLACES), dict(NESTED["tables"]), LAST,
        list(defaults[0]), cached.cache_info().currsize, without_device.cache_info().currsize,
    ]  # fmt: skip


def empty() -> None:
    global LAST
    defaults: Any = listed.__defaults__
    for table in (OfClass.tables, PLACES, NESTED["tables"], defaults[0]):
        table.clear()
    cached.cache_clear()
    without_device.cache_clear()
    ClassAttribute.kept = LAST = None


@pytest.mark.parametrize("run_before", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_table_is_given_back_and_the_original_runs_on(kind: type[Base], run_before: bool) -> None:
    wanted = precrop.plan(Plain(), SHAPE, params=0.5, macs=0.5)
    empty()
    model = kind().eval()
    x = torch.ones(1, *SHAPE)
    if run_before:
        model(x)
    before = state()
    plan = precrop.plan(model, SHAPE, params=0.5, macs=0.5)
    built = plan.build(model)
    after = state()
    assert str(after[:6]) == str(before[:6])
    # Single entries of a cache cannot be given back: it may be empty afterwards.
    assert all(now <= then for now, then in zip(after[6:], before[6:], strict=True))
    assert (plan.widths, plan.macs) == (wanted.widths, wanted.macs)
    assert model(x).shape == built(x).shape == (1, 3)
    empty()


class Rates(Base):
    """One rate for each channel."""

    def table(self, x: Tensor) -> Tensor:
        return cached(x.shape[1], str(x.device)).view(1, -1, 1, 1)


def test_a_cached_table_of_rates_follows_the_width() -> None:
    empty()
    net = Rates()
    plan = precrop.plan(net, SHAPE, params=0.5, macs=0.5)
    built = plan.build(net)
    assert plan.widths["first"][1] < 16
    assert built(torch.ones(2, *SHAPE)).shape == net(torch.ones(2, *SHAPE)).shape
    empty()


def test_a_table_is_given_back_after_an_error() -> None:
    class Fails(OfModule):
        def forward(self, x: Tensor) -> Tensor:
            self.table(x)
            raise RuntimeError("no luck")

    empty()
    with pytest.raises(precrop.PrecropError, match="no luck"):
        precrop.plan(Fails(), SHAPE, params=0.5)
    assert not PLACES


def test_threads_plan_a_network_with_a_table_as_one_does() -> None:
    empty()
    model = OfModule()
    alone = precrop.plan(model, SHAPE, params=0.5, macs=0.5)
    with ThreadPoolExecutor(4) as pool:
        plans = pool.map(lambda _: precrop.plan(model, SHAPE, params=0.5, macs=0.5), range(8))
        assert all(plan.widths == alone.widths for plan in plans)
    assert not PLACES


class Lazy(OrderedDict[str, Any]):
    """As a package's list of its models: a look at its values imports what they are."""

    def values(self) -> Any:
        raise AssertionError("nobody asked for these")

    def __iter__(self) -> Any:
        raise AssertionError("nobody asked for these")


LAZY = Lazy()


class OfLazy(Base):
    known = LAZY

    def table(self, x: Tensor) -> Tensor:
        assert LAZY is self.known
        return made(x)


def test_a_mapping_of_a_package_is_not_looked_into() -> None:
    wanted = precrop.plan(Plain(), SHAPE, params=0.5)
    assert precrop.plan(OfLazy(), SHAPE, params=0.5).widths == wanted.widths
