"""Helpers for child processes: environment variables, Ctrl-C, and ending with the parent."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker


def end_with_parent() -> None:
    """End this child process as soon as its parent has ended, even if that was killed."""
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Shield processes that a block starts from Ctrl-C; this process gets it after the block."""
    if threading.current_thread() is not threading.main_thread() or os.name == "nt":
        yield
        return
    resource_tracker.ensure_running()  # started later, it would unblock SIGINT
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # child processes inherit this
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables while a process is started or a library is loaded."""
    before = {name: os.environ[name] for name in changes if name in os.environ}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in changes:
            os.environ.pop(name, None)  # another thread may have done the same meanwhile
        os.environ.update(before)
