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

Random numbers of Python and NumPy have one generator for all threads, too. Where code draws from it
(to leave out layers in training), every pass draws the same ones, and the state is given back; what
another thread draws meanwhile is drawn again afterwards. Those of PyTorch do not concern this
module: a trace has its own.
"""

import functools
import gc
import random
import sys
import threading
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
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
from torch import Tensor, nn

_LEFT_OUT = {"torch", "numpy", "builtins", "precrop", *sys.stdlib_module_names} - {"__main__"}
_CONTAINERS = (MutableMapping, MutableSequence, MutableSet)
_CACHED = type(functools.lru_cache(len))
_NOTHING = object()
_DEEPEST = 4

_ONE_AT_A_TIME = threading.RLock()

_T = TypeVar("_T")


def _is_container(value: object) -> bool:
    kind: Any = type(value)
    return _is_kind_of_container(kind)


@functools.lru_cache(maxsize=4096)
def _is_kind_of_container(kind: type) -> bool:
    """Remembered by type, since it is asked of every attribute of every class before each pass."""
    return issubclass(kind, _CONTAINERS)


@dataclass
class _Reached:
    """What the code of a class reaches: containers, namespaces with names that are set, caches."""

    containers: list[Any] = field(default_factory=list)
    names: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    classes: list[type] = field(default_factory=list)
    caches: list[Any] = field(default_factory=list)
    draws: bool = False


_KNOWN: WeakKeyDictionary[type, _Reached] = WeakKeyDictionary()
_KEEPING: WeakSet[type] = WeakSet()


class Tables:
    """The tables that a network's code reaches.

    Attributes:
        kept: whether a pass left tensors in one of them.
        draws: whether code draws numbers from a generator that all threads share.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kind = type(model)
        modules = list(model.modules())
        kinds = {kind: None for module in modules for kind in type(module).__mro__}
        reached = [_reached(kind) for kind in kinds if _is_looked_at(kind)]
        held = [value for module in modules for value in vars(module).values()]
        code = [value for value in held if callable(value) and not isinstance(value, nn.Module)]
        if code:
            reached.append(_Search().run(code))
        self._reached = _together(reached)
        self.kept = self._kind in _KEEPING
        self.draws = self._reached.draws
        self._any = _has_any(self._reached)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Give back what is changed meanwhile."""
        alone = _ONE_AT_A_TIME if self._any else nullcontext()
        with alone, self._given_back(), _seeded() if self.draws else nullcontext():
            if self.kept:
                for cache in self._reached.caches:
                    cache.cache_clear()
            yield

    @contextmanager
    def _given_back(self) -> Iterator[None]:
        backs = [*self._backs()]
        sizes = {id(cache): cache.cache_info().currsize for cache in self._reached.caches}
        try:
            yield
        finally:
            changed = [back() for back in backs]
            for cache in self._reached.caches:
                if cache.cache_info().currsize != sizes[id(cache)] and _holds_tensors(cache):
                    cache.cache_clear()
                    changed.append(True)
            if any(changed):
                self.kept = True
                _KEEPING.add(self._kind)

    def _backs(self) -> Iterator[Callable[[], bool]]:
        containers = [
            value
            for kind in self._reached.classes
            for value in vars(kind).values()
            if _is_container(value)
        ]
        for container in (*self._reached.containers, *containers):
            yield from (_container_back(part) for part in _tables(container, _DEEPEST))
        for namespace, name in self._reached.names:
            yield _name_back(namespace, name)
        for kind in self._reached.classes:
            yield _class_back(kind)


def _together(parts: Sequence[_Reached]) -> _Reached:
    """What several classes reach, each once: those of one package share most of it."""
    return _Reached(
        _once(value for part in parts for value in part.containers),
        [
            *{
                (id(space), name): (space, name) for part in parts for space, name in part.names
            }.values()
        ],
        _once(value for part in parts for value in part.classes),
        _once(value for part in parts for value in part.caches),
        any(part.draws for part in parts),
    )


def _once(values: Iterable[_T]) -> list[_T]:
    """Objects without those that were there before, by identity."""
    return [*{id(value): value for value in values}.values()]


def _has_any(reached: _Reached) -> bool:
    """Whether code reaches what may be a table, beside attributes of classes that it may set."""
    inside = [(name, value) for kind in reached.classes for name, value in vars(kind).items()]
    tables = any(_is_container(value) and name[:2] != "__" for name, value in inside)
    return tables or any((reached.containers, reached.names, reached.caches, reached.draws))


@contextmanager
def _seeded() -> Iterator[None]:
    """Let Python and NumPy draw the same numbers every time, and go on as if they had not."""
    before, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002 - the network's own
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numbers)  # noqa: NPY002


def _draws(value: Any, names: Sequence[str]) -> bool:
    """Whether a name in code stands for a generator that all threads share."""
    owner = _attribute(value, "__self__")
    functions: tuple[Any, ...] = (random.random, np.random.random)
    shared = (random, np.random, *(function.__self__ for function in functions))
    return any(value is one or owner is one for one in shared) or (
        value is np and "random" in names
    )


def _attribute(value: Any, name: str) -> Any:
    """An attribute, or None: what stands for a package that is missing raises whatever it likes."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def _tables(container: Any, depth: int) -> Iterator[Any]:
    """A container and those in it, as far as they are empty or hold tensors."""
    values = [*(container.values() if isinstance(container, MutableMapping) else container)]
    inner = [value for value in values if _is_container(value)]
    if depth and len(inner) + sum(isinstance(value, (Tensor, tuple)) for value in values) == len(
        values
    ):
        yield container
        for value in inner:
            yield from _tables(value, depth - 1)


def _container_back(container: Any) -> Callable[[], bool]:
    if isinstance(container, MutableMapping):
        return _mapping_back(container)
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


def _mapping_back(mapping: MutableMapping[Any, Any]) -> Callable[[], bool]:
    before = dict(mapping)

    def back() -> bool:
        changed = _new(before, dict(mapping))
        for name in changed:
            if name in before:
                mapping[name] = before[name]
            else:
                mapping.pop(name, None)
        return bool(changed)

    return back


def _name_back(namespace: dict[str, Any], name: str) -> Callable[[], bool]:
    before = namespace.get(name)

    def back() -> bool:
        value = namespace.get(name)
        if value is before or not _has_tensors(value):
            return False
        namespace[name] = before
        return True

    return back


def _class_back(kind: type) -> Callable[[], bool]:
    before = dict(vars(kind))

    def back() -> bool:
        changed = _new(before, vars(kind))
        for name in changed:
            if name in before:
                setattr(kind, name, before[name])
            else:
                delattr(kind, name)
        return bool(changed)

    return back


def _new(before: Mapping[Any, Any], now: Mapping[Any, Any]) -> list[Any]:
    """What is set anew to something with tensors; counters and logs are left as they are."""
    changed = [name for name, value in now.items() if before.get(name, _NOTHING) is not value]
    return [name for name in changed if _has_tensors(now[name])]


def _has_tensors(value: Any, depth: int = _DEEPEST) -> bool:
    if isinstance(value, (dict, list, tuple, set)) and depth:
        inside = value.values() if isinstance(value, dict) else value
        return any(_has_tensors(one, depth - 1) for one in inside)
    return isinstance(value, Tensor)


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
    name = value.__name__ if isinstance(value, ModuleType) else _attribute(value, "__module__")
    return isinstance(name, str) and name.partition(".")[0] not in _LEFT_OUT


def _reached(kind: type) -> _Reached:
    known = _KNOWN.get(kind)
    if known is None:
        known = _KNOWN[kind] = _Search().run([kind])
    return known


class _Search:
    """Follows the names in functions, from those of a class."""

    def __init__(self) -> None:
        self.found = _Reached()
        self.seen: dict[int, Any] = {}
        self.stack: list[Any] = []

    def run(self, roots: Sequence[Any]) -> _Reached:
        """Find all that some code, or that of some classes, reaches."""
        self.stack += roots
        while self.stack:
            value = self.stack.pop()
            if id(value) not in self.seen:
                self.seen[id(value)] = value
                self._look(value)
        return self.found

    def _look(self, value: Any) -> None:
        self.found.draws = self.found.draws or _draws(value, ())
        if isinstance(value, _CONTAINERS):
            self.found.containers.append(value)
        elif isinstance(value, _CACHED):
            if _is_looked_at(value):
                self.found.caches.append(value)
                self.stack.append(value.__wrapped__)
        elif isinstance(value, (staticmethod, classmethod, MethodType)):
            self.stack.append(value.__func__)
        elif isinstance(value, functools.partial):
            self.stack += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, property):
            self.stack += [value.fget, value.fset]
        elif isinstance(value, FunctionType) and _is_looked_at(value):
            self._function(value)
        elif isinstance(value, type) and _is_looked_at(value):
            self.found.classes.append(value)
            self.stack += [one for one in vars(value).values() if not isinstance(one, _CONTAINERS)]

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
            self.found.draws = self.found.draws or _draws(value, code.co_names)
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
