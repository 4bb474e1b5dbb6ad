"""Tables that a network keeps outside of its modules, given back as they were.

A copy of a network has modules of its own, but shares with the original what its code reaches:
class attributes, module-level variables, default arguments, variables of closures,
`functools.cache`. What a trace leaves there (a table of positions, a mask, the last result) is of
its own sizes, and on meta tensors of no values at all, so the original would fail on it.

Covered are the dicts, lists and sets among these (and nested in them) that are empty or hold
tensors, class attributes and global variables that are set anew, and the functions that `functools`
caches, as far as the code of the network's classes reaches them by name; PyTorch's own code and
Python's are left out. Not covered are tables that only a library in C, a file or an object of a
further class holds.

A network that keeps such tables is read on real tensors: what other threads find meanwhile is what
they would have computed themselves. (Not so in the one pass that shows it; a class is remembered.)
One network at a time is traced where code reaches any. Caches of `functools` are emptied, since
single entries cannot be given back.
"""

import functools
import gc
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence, MutableSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from torch import Tensor, nn

_LEFT_OUT = {"torch", "numpy", "builtins", "precrop", *sys.stdlib_module_names} - {"__main__"}
_CONTAINERS = (MutableMapping, MutableSequence, MutableSet)
_CACHED = type(functools.lru_cache(len))
_NOTHING = object()
_DEEPEST = 4

_ONE_AT_A_TIME = threading.RLock()


@dataclass
class _Reached:
    """What the code of a class reaches: containers, namespaces with names that are set, caches."""

    containers: list[Any] = field(default_factory=list)
    names: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    classes: list[type] = field(default_factory=list)
    caches: list[Any] = field(default_factory=list)


_KNOWN: WeakKeyDictionary[type, _Reached] = WeakKeyDictionary()
_KEEPING: WeakSet[type] = WeakSet()


class Tables:
    """The tables that a network's code reaches.

    Attributes:
        kept: whether a pass left tensors in one of them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kind = type(model)
        kinds = {kind: None for module in model.modules() for kind in type(module).__mro__}
        self._reached = [_reached(kind) for kind in kinds if _is_looked_at(kind)]
        self.kept = self._kind in _KEEPING

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Give back what is changed meanwhile."""
        if not self._reached:
            yield
            return
        with _ONE_AT_A_TIME, self._given_back():
            if self.kept:
                for cache in self._caches():
                    cache.cache_clear()
            yield

    @contextmanager
    def _given_back(self) -> Iterator[None]:
        backs = [*self._backs()]
        sizes = {id(cache): cache.cache_info().currsize for cache in self._caches()}
        try:
            yield
        finally:
            changed = [back() for back in backs]
            for cache in self._caches():
                if cache.cache_info().currsize != sizes[id(cache)] and _holds_tensors(cache):
                    cache.cache_clear()
                    changed.append(True)
            if any(changed):
                self.kept = True
                _KEEPING.add(self._kind)

    def _caches(self) -> Iterator[Any]:
        return (cache for reached in self._reached for cache in reached.caches)

    def _backs(self) -> Iterator[Callable[[], bool]]:
        for reached in self._reached:
            for container in reached.containers:
                yield from (_container_back(part) for part in _tables(container, _DEEPEST))
            for namespace, name in reached.names:
                yield _name_back(namespace, name)
            for kind in reached.classes:
                for value in [*vars(kind).values()]:
                    if isinstance(value, _CONTAINERS):
                        yield from (_container_back(part) for part in _tables(value, _DEEPEST))
                yield _class_back(kind)


def _tables(container: Any, depth: int) -> Iterator[Any]:
    """A container and those in it, as far as they are empty or hold tensors."""
    values = [*(container.values() if isinstance(container, MutableMapping) else container)]
    inner = [value for value in values if isinstance(value, _CONTAINERS)]
    if depth and all(isinstance(value, (Tensor, tuple, *_CONTAINERS)) for value in values):
        yield container
        for value in inner:
            yield from _tables(value, depth - 1)


def _container_back(container: Any) -> Callable[[], bool]:
    if isinstance(container, MutableMapping):
        return _mapping_back(container)
    before = list(container)

    def back() -> bool:
        if [*map(id, container)] == [*map(id, before)]:
            return False
        container.clear()
        for value in before:
            (container.add if isinstance(container, MutableSet) else container.append)(value)
        return True

    return back


def _mapping_back(mapping: MutableMapping[Any, Any]) -> Callable[[], bool]:
    before = dict(mapping)

    def back() -> bool:
        now = dict(mapping)
        for key in now.keys() - before.keys():
            mapping.pop(key, None)
        changed = [key for key, value in before.items() if now.get(key, _NOTHING) is not value]
        mapping.update({key: before[key] for key in changed})
        return bool(changed) or len(now) != len(before)

    return back


def _name_back(namespace: dict[str, Any], name: str) -> Callable[[], bool]:
    before = namespace.get(name, _NOTHING)

    def back() -> bool:
        if namespace.get(name, _NOTHING) is before:
            return False
        if before is _NOTHING:
            namespace.pop(name, None)
        else:
            namespace[name] = before
        return True

    return back


def _class_back(kind: type) -> Callable[[], bool]:
    before = dict(vars(kind))

    def back() -> bool:
        now = dict(vars(kind))
        changed = [name for name, value in before.items() if now.get(name, _NOTHING) is not value]
        for name in changed:
            setattr(kind, name, before[name])
        added = [name for name in now.keys() - before.keys() if not name.startswith("__")]
        for name in added:
            delattr(kind, name)
        return bool(changed or added)

    return back


def _holds_tensors(cache: Any) -> bool:
    """Whether a function's cache has tensors, or tuples and lists of them."""
    level = gc.get_referents(cache)
    for _ in range(_DEEPEST):
        if any(isinstance(value, Tensor) for value in level):
            return True
        deeper = (dict, list, tuple)
        level = [
            one
            for value in level
            if isinstance(value, deeper) or type(value).__module__ == "functools"
            for one in gc.get_referents(value)
        ]
    return False


# --- what code reaches ----------------------------------------------------------------------------


def _is_looked_at(value: Any) -> bool:
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return isinstance(name, str) and name.partition(".")[0] not in _LEFT_OUT


def _reached(kind: type) -> _Reached:
    known = _KNOWN.get(kind)
    if known is None:
        known = _KNOWN[kind] = _Reached()
        _Search(known).run(kind)
    return known


class _Search:
    """Follows the names in functions, from those of a class."""

    def __init__(self, found: _Reached) -> None:
        self.found = found
        self.seen: dict[int, Any] = {}
        self.stack: list[Any] = []

    def run(self, kind: type) -> None:
        """Find all that the code of a class reaches."""
        self.stack.append(kind)
        while self.stack:
            value = self.stack.pop()
            if id(value) in self.seen:
                continue
            self.seen[id(value)] = value
            if isinstance(value, _CONTAINERS):
                self.found.containers.append(value)
            elif isinstance(value, _CACHED):
                if _is_looked_at(value):
                    self.found.caches.append(value)
                    self.stack.append(value.__wrapped__)
            elif isinstance(value, (staticmethod, classmethod, MethodType)):
                self.stack.append(value.__func__)
            elif isinstance(value, property):
                self.stack += [value.fget, value.fset]
            elif isinstance(value, FunctionType) and _is_looked_at(value):
                self._function(value)
            elif isinstance(value, type) and _is_looked_at(value):
                self.found.classes.append(value)
                self.stack += [
                    one for one in vars(value).values() if not isinstance(one, _CONTAINERS)
                ]

    def _function(self, function: FunctionType) -> None:
        self.stack += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        self.stack += vars(function).values()
        for cell in function.__closure__ or ():
            try:
                self.stack.append(cell.cell_contents)
            except ValueError:  # a variable that is not set yet
                continue
        self._code(function.__code__, function.__globals__)

    def _code(self, code: CodeType, names: dict[str, Any]) -> None:
        for name in code.co_names:
            value = names.get(name)
            if isinstance(value, ModuleType) and _is_looked_at(value):
                inside = vars(value)
                self.stack += [inside[one] for one in code.co_names if one in inside]
            elif value is None or isinstance(value, Tensor):
                if name in names:
                    self.found.names.append((names, name))
            else:
                self.stack.append(value)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant, names)
