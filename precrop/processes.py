"""Processes of our own: what is around them, and that none outlives the one that started it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker


def end_with_parent() -> None:
    """Called in a process: it ends where its parent is killed, and works on for nobody."""
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A process that is started in the meantime never hears of Ctrl-C, and we do afterwards."""
    if threading.current_thread() is not threading.main_thread() or os.name == "nt":
        yield
        return
    resource_tracker.ensure_running()  # begun later, it would let signals through
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # processes inherit that
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Variables for a process that is started, or a library that is loaded, in the meantime."""
    before = {name: os.environ[name] for name in changes if name in os.environ}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in changes:
            del os.environ[name]
        os.environ.update(before)
