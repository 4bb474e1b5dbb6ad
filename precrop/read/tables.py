"""Restores the tables that a network keeps outside of its modules after a pass has changed them.

A copy of a network has its own modules but shares with the original what its code reaches: class
attributes, global variables, default arguments, closures, `functools.cache`. What a trace stores
there (a table of positions, a mask, the last result) has the trace's sizes, and no values if it is
a meta tensor, so the original would fail on it.

Restored are containers of Python's own types (and nested ones) that are empty or hold tensors,
class attributes and global variables that are set anew, and caches of `functools`. They are found
by following the names in the code of the network's classes; PyTorch's and Python's code is left
out. Tables that only a C library, a file or an object of another class holds are not restored.

A network that keeps such tables is read on real tensors, so that other threads find in them what
they would have computed themselves. (This does not hold for the first pass, which shows that there
are tables; the class is remembered.) Networks whose code reaches any are traced one at a time.
Caches of `functools` are emptied, since single entries cannot be removed.

The random generators of Python and NumPy are shared by all threads, too. If code draws from them
(to skip layers in training), every pass draws the same numbers, and the state is restored; numbers
that another thread draws meanwhile are then drawn again. PyTorch's generator needs no such care:
a trace has its own.
"""

import gc
import pickle
import random
import sys
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    MutableSequence,
    MutableSet,
    Sequence,
)
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakSet

import numpy as np
from torch import Tensor, nn

from precrop.forking import process_lock
from precrop.modules.copying import cell_contents

_LEFT_OUT = {"torch", "numpy", "builtins", "precrop", *sys.stdlib_module_names} - {"__main__"}
_CONTAINERS = (MutableMapping, MutableSequence, MutableSet)
_LOOKS = ("__iter__", "__len__", "__getitem__", "keys", "values", "items")
"""The methods that read a container."""
_CACHED = type(lru_cache(len))
_NOTHING = object()
_DEEPEST = 4

_ONE_AT_A_TIME = process_lock()


def _is_container(value: object) -> bool:
    kind: Any = type(value)
    return _is_kind_of_container(kind)


@lru_cache(maxsize=4096)
def _is_kind_of_container(kind: type) -> bool:
    """Whether it is a type of containers whose reading methods are Python's own.

    A package's own method may, for example, import half of that package. The answer is cached,
    since it is needed for every attribute of every class before each pass.
    """
    if not issubclass(kind, _CONTAINERS):
        return False
    owners = (base for name in _LOOKS for base in kind.__mro__ if name in vars(base))
    return all(base.__module__.partition(".")[0] in sys.stdlib_module_names for base in owners)


@dataclass
class _Reached:
    """What code reaches: containers, global variables (namespace and name), classes, caches."""

    containers: list[Any] = field(default_factory=list)
    names: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    classes: list[type] = field(default_factory=list)
    caches: list[Any] = field(default_factory=list)
    draws: bool = False

    @property
    def any(self) -> bool:
        """Whether there is anything to restore, apart from class attributes that code may set."""
        inside = [(name, value) for kind in self.classes for name, value in vars(kind).items()]
        tables = any(_is_container(value) and name[:2] != "__" for name, value in inside)
        return tables or any((self.containers, self.names, self.caches, self.draws))

    def backs(self) -> Iterator[Callable[[], bool]]:
        """Yield functions that restore what a pass changes; each returns whether it had to."""
        inside = (value for kind in self.classes for value in vars(kind).values())
        for container in (*self.containers, *filter(_is_container, inside)):
            for part in _tables(container, _DEEPEST):
                if isinstance(part, MutableMapping):
                    yield _entries_back(partial(dict, part), part.__setitem__, part.__delitem__)
                else:
                    yield _container_back(part)
        for space, name in self.names:
            yield _entries_back(partial(_entry, space, name), space.__setitem__, space.__delitem__)
        for kind in self.classes:
            yield _entries_back(partial(vars, kind), partial(setattr, kind), partial(delattr, kind))
        for cache in self.caches:
            yield _cache_back(cache)


_KEEPING: WeakSet[type] = WeakSet()


class Tables:
    """The tables that a network's code reaches.

    Attributes:
        kept: whether a pass left tensors in one of them.
        draws: whether code may draw numbers from a generator that all threads share.
        drew: whether a pass drew any.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kind = type(model)
        modules = list(model.modules())
        kinds = {kind for module in modules for kind in type(module).__mro__ if _is_looked_at(kind)}
        held = [value for module in modules for value in vars(module).values()]
        code = [value for value in held if callable(value) and not isinstance(value, nn.Module)]
        self._reached = [_reached_by_classes(frozenset(kinds)), _reached(code)]
        self.kept = self._kind in _KEEPING
        self.draws = any(reached.draws for reached in self._reached)
        self.drew = False

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Restore, at the end of the context, the tables that changed in it."""
        alone = _ONE_AT_A_TIME if any(reached.any for reached in self._reached) else nullcontext()
        with alone, _seeded() if self.draws else nullcontext():
            begin = _numbers() if self.draws else ()
            backs = [back for reached in self._reached for back in reached.backs()]
            if self.kept:
                for cache in (cache for reached in self._reached for cache in reached.caches):
                    cache.cache_clear()
            try:
                yield
            finally:
                self.drew = self.drew or (self.draws and _numbers() != begin)
                changed = [back() for back in backs]
                if any(changed):
                    self.kept = True
                    _KEEPING.add(self._kind)


def _numbers() -> tuple[Any, ...]:
    """Return the states of Python's and NumPy's random generators."""
    return random.getstate(), pickle.dumps(_numpy_state())


def _numpy_state() -> Any:
    return np.random.get_state(legacy=False)  # noqa: NPY002 - the network's own


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed Python's and NumPy's random generators for the context, then restore their states."""
    before, numbers = random.getstate(), _numpy_state()
    random.seed(0)
    kind = getattr(np.random, numbers["bit_generator"])  # only the default one has ``seed``
    np.random.set_state(kind(0).state)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numbers)  # noqa: NPY002


def _draws(value: Any, names: Sequence[str]) -> bool:
    """Whether a value in code is, or gives access to, a generator that all threads share."""
    owner = _attribute(value, "__self__")
    functions: tuple[Any, ...] = (random.random, np.random.random)
    shared = (random, np.random, *(function.__self__ for function in functions))
    return any(value is one or owner is one for one in shared) or (
        value is np and "random" in names
    )


def _attribute(value: Any, name: str) -> Any:
    """Return an attribute or None; stand-ins for missing packages may raise anything."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def _tables(container: Any, depth: int) -> Iterator[Any]:
    """Yield a container and those nested in it, as far as they are empty or hold tensors."""
    values = [*(container.values() if isinstance(container, MutableMapping) else container)]
    inner = [value for value in values if _is_container(value)]
    others = [value for value in values if isinstance(value, (Tensor, tuple))]
    if depth and len(inner) + len(others) == len(values):
        yield container
        for value in inner:
            yield from _tables(value, depth - 1)


def _container_back(container: Any) -> Callable[[], bool]:
    before = list(container)
    known = set(map(id, before))

    def back() -> bool:
        if not any(id(value) not in known and _has_tensors(value) for value in container):
            return False
        container.clear()
        for value in before:
            (container.add if isinstance(container, MutableSet) else container.append)(value)
        return True

    return back


def _entries_back(
    look: Callable[[], Mapping[Any, Any]], put: Callable[..., Any], drop: Callable[..., Any]
) -> Callable[[], bool]:
    """Return a function that restores only entries that were set anew to something with tensors."""
    before = dict(look())

    def back() -> bool:
        now = dict(look())
        anew = [name for name, value in now.items() if before.get(name, _NOTHING) is not value]
        changed = [name for name in anew if _has_tensors(now[name])]
        for name in changed:
            if name in before:
                put(name, before[name])
            else:
                with suppress(KeyError, AttributeError):  # another thread may have dropped it
                    drop(name)
        return bool(changed)

    return back


def _entry(space: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a variable by its name; its value is None if it is not set."""
    return {name: space.get(name)}


def _cache_back(cache: Any) -> Callable[[], bool]:
    before = cache.cache_info().currsize

    def back() -> bool:
        changed = cache.cache_info().currsize != before and _has_tensors(cache)
        if changed:
            cache.cache_clear()
        return changed

    return back


def _has_tensors(value: Any, depth: int = _DEEPEST) -> bool:
    """Whether a value is a tensor, or a container or a function's cache with tensors in it."""
    holds = isinstance(value, (dict, list, tuple, set)) or type(value).__module__ == "functools"
    if holds and depth:
        return any(_has_tensors(one, depth - 1) for one in gc.get_referents(value))
    return isinstance(value, Tensor)


# --- what code reaches ----------------------------------------------------------------------------


def _is_looked_at(value: Any) -> bool:
    name = value.__name__ if isinstance(value, ModuleType) else _attribute(value, "__module__")
    return isinstance(name, str) and name.partition(".")[0] not in _LEFT_OUT


def _reached(roots: Iterable[Any]) -> _Reached:
    """Follow the names in functions from some code or classes; return all that is reached."""
    found, seen, stack = _Reached(), dict[int, Any](), [*roots]
    while stack:
        value = stack.pop()
        if id(value) not in seen:
            seen[id(value)] = value
            stack += _behind(value, found)
    return found


_reached_by_classes = lru_cache(maxsize=64)(_reached)
"""As `_reached`, cached: the names in a network's classes are followed once."""


def _behind(value: Any, found: _Reached) -> Iterator[Any]:
    """Note a value in ``found``; yield what code reaches by it."""
    found.draws = found.draws or _draws(value, ())
    if _is_container(value):
        found.containers.append(value)
    elif isinstance(value, _CACHED):
        if _is_looked_at(value):
            found.caches.append(value)
            yield value.__wrapped__
    elif isinstance(value, (staticmethod, classmethod, MethodType)):
        yield value.__func__
    elif isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, property):
        yield from (value.fget, value.fset)
    elif isinstance(value, FunctionType) and _is_looked_at(value):
        yield from (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        yield from (*vars(value).values(), *cell_contents(value))
        yield from _named(value.__code__, value.__globals__, found)
    elif isinstance(value, type) and _is_looked_at(value):
        found.classes.append(value)
        yield from [one for one in vars(value).values() if not _is_container(one)]


def _named(code: CodeType, names: dict[str, Any], found: _Reached) -> Iterator[Any]:
    for name in code.co_names:
        value = names.get(name)
        found.draws = found.draws or _draws(value, code.co_names)
        if isinstance(value, ModuleType) and _is_looked_at(value):
            yield from [vars(value)[one] for one in code.co_names if one in vars(value)]
        elif value is None or isinstance(value, Tensor):
            if name in names:
                found.names.append((names, name))
        else:
            yield value
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _named(constant, names, found)
