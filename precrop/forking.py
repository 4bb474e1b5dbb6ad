"""State that all threads of the process share, repaired in a forked child.

A child has only the thread that forked it: locks that the other threads held then, and what they
had changed, would stay so forever.
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
    """How often a thread is within a context that all threads share."""

    within = 0


class WithinAny(ContextDecorator):
    """A context that the first thread enters and the last one leaves.

    For ``with`` or as a decorator, in any thread, and re-entrant. An instance must live as long as
    the process. In a forked child only the thread that forked it is within, if it was.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make, self._lock, self._within = make, threading.RLock(), 0
        self._context: AbstractContextManager[None] = nullcontext()
        self._here = _Here()
        if hasattr(os, "register_at_fork"):
            before, after = self._lock.acquire, self._lock.release  # no thread enters during a fork
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
        """Set how often threads are within, and leave the context at zero."""
        before, self._within = self._within, within
        if before and not within:
            self._context.__exit__(None, None, None)

    def _leave_others(self) -> None:
        self._end(self._here.within)
        self._lock.release()


_LOCKS: WeakSet[Any] = WeakSet()


def process_lock() -> Any:
    """Return a re-entrant lock for ``with`` that is free in a forked child.

    It is not if the thread that forked the child holds it.
    """
    made = threading.RLock()
    _LOCKS.add(made)
    return made


def _free_locks() -> None:
    """Free the locks held by threads that a forked child does not have."""
    for lock in (*_LOCKS, *_locks_of_properties()):
        if not lock._is_owned():
            lock._at_fork_reinit()


def _locks_of_properties() -> Iterator[Any]:
    """Yield the locks of our `cached_property` attributes, which have them before Python 3.12."""
    for name, module in [*sys.modules.items()] if sys.version_info < (3, 12) else ():
        if name.partition(".")[0] == __name__.partition(".")[0]:
            for kind in [one for one in vars(module).values() if isinstance(one, type)]:
                values = vars(kind).values()
                yield from (vars(one)["lock"] for one in values if isinstance(one, cached_property))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)
