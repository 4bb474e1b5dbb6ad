"""Weak references in what is copied: those of a copy are to what the copy has."""

import copy
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

_TABLES = (WeakKeyDictionary, WeakValueDictionary)


def is_weak(value: Any) -> bool:
    """Whether it holds others weakly; what a proxy says of its class is true of its target."""
    kind = type(value)
    return kind in weakref.ProxyTypes or issubclass(kind, (weakref.ref, WeakSet, *_TABLES))


def targets(value: Any) -> list[Any]:
    """What lives of that which is held weakly; of a method it is the owner."""
    if type(value) in weakref.ProxyTypes:
        with suppress(ReferenceError):
            return [value.__repr__.__self__]
        return []
    if isinstance(value, weakref.ref):
        target = value()
        owner = target.__self__ if isinstance(target, MethodType) else target
        return [] if owner is None else [owner]
    return [*(value.values() if isinstance(value, WeakValueDictionary) else value)]


def beside(value: Any) -> list[Any]:
    """What it holds all the same: the other half of a table."""
    if isinstance(value, _TABLES):
        return [*(value.values() if isinstance(value, WeakKeyDictionary) else value)]
    return []


class Memo(dict[int, Any]):
    """What stands for originals in a copy, by their ids, as `copy.deepcopy` takes it.

    `copy.deepcopy` leaves weak references as they are, or loses what they refer to. Their copies
    are made when they are asked for, since what is copied on the way may refer to itself.

    Args:
        copies: those that are made already.
        held: gives all that is held by what is copied. What else is referred to stays the
            original's: nothing would keep a copy of it alive.
    """

    def __init__(
        self, copies: Mapping[int, Any] | None = None, held: Callable[[], Iterable[Any]] = tuple
    ) -> None:
        super().__init__(copies or {})
        self._all, self._weak = held, dict[int, Any]()

    def note(self, value: Any) -> None:
        """A weak reference is part of what is copied."""
        self._weak[id(value)] = value

    def get(self, key: int, default: Any = None) -> Any:
        """The copy of an original, as `copy.deepcopy` asks for it."""
        if key in self._weak and key not in self:
            self[key] = self._made(self._weak[key])
        return super().get(key, default)

    @cached_property
    def _held(self) -> dict[int, Any]:
        return {id(one): one for one in self._all()}

    def _made(self, value: Any) -> Any:
        kind, alive = type(value), targets(value)
        for target in alive:
            if id(target) not in self and id(target) not in self._held:
                self[id(target)] = target
        if kind in weakref.ProxyTypes:
            return weakref.proxy(copy.deepcopy(alive[0], self)) if alive else value
        if isinstance(value, weakref.ref):
            target = value()  # without its callback: what a network holds lives as long as it
            return value if target is None else kind(copy.deepcopy(target, self))
        pairs = dict(value) if isinstance(value, _TABLES) else alive
        made = kind()
        made.update(copy.deepcopy(pairs, self))
        return made
