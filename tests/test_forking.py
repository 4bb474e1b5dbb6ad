"""A forked child has one thread: it waits for no other, and what others had set is as it was."""

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.forking import WithinAny, process_lock

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


def succeeds_in_child(check: Callable[[], bool]) -> bool:
    """Whether something is true in a forked child; not if it takes half a minute."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)
        good = False
        try:
            good = check()
        finally:
            os._exit(0 if good else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@contextmanager
def another_thread(work: Callable[[Callable[[], None]], None]) -> Iterator[None]:
    """Another thread is where its work calls what it is given."""
    there, done = threading.Event(), threading.Event()

    def stay() -> None:
        there.set()
        done.wait(60)

    thread = threading.Thread(target=work, args=(stay,))
    thread.start()
    there.wait(60)
    try:
        yield
    finally:
        done.set()
        thread.join()


changed: list[str] = []


@WithinAny
@contextmanager
def change() -> Iterator[None]:
    """Something that all threads see."""
    changed.append("changed")
    try:
        yield
    finally:
        changed.clear()


@change
def changing(stay: Callable[[], None]) -> None:
    stay()


def test_what_other_threads_have_changed_is_as_it_was() -> None:
    def as_it_was() -> bool:
        before = list(changed)
        with change, change:
            within = list(changed)
        return (before, within, changed) == ([], ["changed"], [])

    with another_thread(changing):
        assert succeeds_in_child(as_it_was)
        assert changed == ["changed"]
    assert succeeds_in_child(as_it_was)
    assert changed == []


def test_the_thread_that_forks_is_within_as_before() -> None:
    with another_thread(changing), change:
        assert succeeds_in_child(lambda: changed == ["changed"])
        with change:
            child = os.fork()
        if child == 0:
            os._exit(0 if changed == ["changed"] else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert changed == []


def test_locks_that_others_hold_are_free() -> None:
    lock = process_lock()

    def hold(stay: Callable[[], None]) -> None:
        with lock:
            stay()

    def is_free() -> bool:
        with lock, lock:
            return True

    with another_thread(hold):
        assert succeeds_in_child(is_free)
        assert not lock.acquire(blocking=False)
    with lock:
        assert succeeds_in_child(is_free)
    assert is_free()


class Waiting(nn.Module):
    """In one process it waits within its forward pass, the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3)

    def forward(self, x: Tensor) -> Tensor:
        if STAY and os.getpid() == PARENT:
            STAY.pop()()
        out: Tensor = self.second(self.first(x).relu())
        return out


PARENT = os.getpid()
STAY: list[Callable[[], None]] = []


def test_a_child_plans_while_a_thread_of_its_parent_does() -> None:
    reading = precrop.Reading(Waiting(), (3, 8, 8))
    usual = vars(torch.random)["default_generator"]

    def plan(stay: Callable[[], None]) -> None:
        STAY.append(stay)
        precrop.plan(reading, params=0.5)

    def plans_too() -> bool:
        usually = gc.isenabled() and vars(torch.random)["default_generator"] is usual
        plans = [precrop.plan(one, params=0.5) for one in (reading, precrop.Reading(*given))]
        undone = gc.isenabled() and vars(torch.random)["default_generator"] is usual
        return usually and undone and plans[0].widths == plans[1].widths

    given = Waiting(), (3, 8, 8)
    with another_thread(plan):
        assert not gc.isenabled()
        assert vars(torch.random)["default_generator"] is not usual
        assert succeeds_in_child(plans_too)
    assert gc.isenabled()
    assert vars(torch.random)["default_generator"] is usual


def test_children_at_any_moment_of_a_plan() -> None:
    """Before Python 3.12 properties that are kept hold locks while they are found."""
    model = nn.Sequential(*(nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1) for i in range(12)))
    over = False

    def plan() -> None:
        while not over:
            precrop.plan(model, (3, 8, 8), params=0.5)

    thread = threading.Thread(target=plan)
    thread.start()
    try:
        for moment in range(8):
            time.sleep(0.01 + 0.007 * moment)
            assert succeeds_in_child(
                lambda: precrop.plan(model, (3, 8, 8), params=0.5).params > 0 and gc.isenabled()
            )
    finally:
        over = True
        thread.join()
