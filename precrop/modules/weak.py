"""Copies weak references, so that those in a copy refer to the copy's objects."""

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
    """Whether a value holds others weakly; `type`, as a proxy's ``__class__`` is its target's."""
    kind = type(value)
    return kind in weakref.ProxyTypes or issubclass(kind, (weakref.ref, WeakSet, *_TABLES))


def targets(value: Any) -> list[Any]:
    """Return the objects that a value holds weakly and that still live; for a method, its owner."""
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
    """Return what a value holds strongly: the other half of a weak table."""
    if isinstance(value, _TABLES):
        return [*(value.values() if isinstance(value, WeakKeyDictionary) else value)]
    return []


class Memo(dict[int, Any]):
    """A memo for `copy.deepcopy`: copies by the ids of their originals.

    `copy.deepcopy` leaves weak references as they are, or loses what they refer to. Here they are
    copied when they are first asked for, since what is copied on the way may refer to itself.

    Args:
        copies: copies that exist already.
        held: returns everything that is held by what is copied. Other targets of weak references
            stay the original's: nothing would keep copies of them alive.
    """

    def __init__(
        self, copies: Mapping[int, Any] | None = None, held: Callable[[], Iterable[Any]] = tuple
    ) -> None:
        super().__init__(copies or {})
        self._all, self._weak = held, dict[int, Any]()

    def note(self, value: Any) -> None:
        """Note a weak reference that is part of what is copied."""
        self._weak[id(value)] = value

    def get(self, key: int, default: Any = None) -> Any:
        """Return the copy of an original, as `copy.deepcopy` asks for it."""
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
