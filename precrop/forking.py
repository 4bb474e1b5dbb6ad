"""What belongs to all threads of the process, and is put right in a forked child.

That has only the thread that forked it: what the others hold or have changed at that moment would
stay so for ever.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ContextDecorator, nullcontext
from functools import cached_property
from typing import Any
from weakref import WeakSet


class _Here(threading.local):
    """How often a thread is within a context of all threads."""

    within = 0


class WithinAny(ContextDecorator):
    """A context that is entered by the first thread within and left by the last one.

    For ``with`` or as a decorator, in any thread and within itself. One for as long as the process
    lives. In a forked child only the thread that forked it is within, if it was.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make, self._lock, self._within = make, threading.RLock(), 0
        self._context: AbstractContextManager[None] = nullcontext()
        self._here = _Here()
        if hasattr(os, "register_at_fork"):
            before, after = self._lock.acquire, self._lock.release  # nobody is just entering then
            os.register_at_fork(
                before=before, after_in_parent=after, after_in_child=self._leave_others
            )

    def __enter__(self) -> None:
        with self._lock:
            if self._within == 0:
                self._context = self._make()
                self._context.__enter__()
            self._within += 1
            self._here.within += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._here.within -= 1
            self._end(self._within - 1)

    def _end(self, within: int) -> None:
        """So many are within from now on."""
        before, self._within = self._within, within
        if before and not within:
            self._context.__exit__(None, None, None)

    def _leave_others(self) -> None:
        self._end(self._here.within)
        self._lock.release()


_LOCKS: WeakSet[Any] = WeakSet()


def process_lock() -> Any:
    """A lock for ``with``, also within itself, that is free in a forked child.

    Unless the thread that forked the child holds it.
    """
    made = threading.RLock()
    _LOCKS.add(made)
    return made


def _free_locks() -> None:
    """Free locks that are held by threads that a forked child does not have."""
    for lock in (*_LOCKS, *_locks_of_properties()):
        if not lock._is_owned():
            lock._at_fork_reinit()


def _locks_of_properties() -> Iterator[Any]:
    """Before Python 3.12 every `cached_property` has one for all instances of its class."""
    for name, module in [*sys.modules.items()] if sys.version_info < (3, 12) else ():
        if name.partition(".")[0] == __name__.partition(".")[0]:
            for kind in [one for one in vars(module).values() if isinstance(one, type)]:
                values = vars(kind).values()
                yield from (vars(one)["lock"] for one in values if isinstance(one, cached_property))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)
