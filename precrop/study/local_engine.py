"""Cells in processes on this machine, each with its own device or share of the CPU.

Libraries' process pools do not fit: loky and Pebble lose Ctrl-C while a process starts or show its
traceback, and warn of leaked semaphores when the study is killed.
"""

import faulthandler
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from precrop.errors import PrecropError
from precrop.files import open_own, refuse_link
from precrop.own import UNGUARDED
from precrop.processes import end_with_parent, environment, uninterrupted
from precrop.study.cells import Cell
from precrop.study.events import Busy, Died, Ended, Event, Work
from precrop.study.worker import work

_PATIENCE = 5.0
"""Seconds that a process gets to end before it is killed; nothing is lost by that."""
Place = Mapping[str, str]
"""Where one cell runs: environment variables that its process has on top of ours."""


def places(
    processes: int | None = None, runs_per_device: int = 1, threads: int | None = None
) -> list[Place]:
    """Return the places on this machine: on its GPUs if there are any, else on its CPU.

    ``threads`` are CPU threads per place; by default the places share all of them.

    Raises:
        PrecropError: a number is below 1, or does not go with the devices of this machine.
    """
    import torch

    every, devices = torch.get_num_threads(), torch.cuda.device_count()
    asked = [number for number in (processes, runs_per_device, threads) if number is not None]
    if min(asked) < 1:
        raise PrecropError("--processes, --runs-per-device and --threads are 1 or more")
    if not devices:
        if runs_per_device > 1:
            raise PrecropError("there is no GPU here: say --processes instead of --runs-per-device")
        count = processes or 1
        return [_place(threads or every // count)] * count
    if processes is not None:
        raise PrecropError("there are GPUs here: say --runs-per-device instead of --processes")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    # CUDA ignores what follows the first invalid name.
    names = visible.split(",")[:devices] if visible else [*map(str, range(devices))]
    each = threads or every // (len(names) * runs_per_device)
    # All devices get one cell before any gets its second.
    return [_place(each, CUDA_VISIBLE_DEVICES=name) for name in names] * runs_per_device


def _place(threads: int, **more: str) -> Place:
    return {"OMP_NUM_THREADS": str(max(1, threads)), **more}


class _Worker:
    """A process that runs one cell after another."""

    def __init__(self, place: Place, *task: Any) -> None:
        self.place = place
        self.cell: Cell | None = None
        self.fit = True
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs, *task))
        with environment(place):
            self.process.start()
        theirs.close()

    def events(self) -> Iterator[Event]:
        """Yield what the process has sent; `Died` if it is gone while it ran a cell."""
        try:
            while self.fit and self.pipe.poll():
                event, self.fit = self.pipe.recv()
                if isinstance(event, (Ended, Busy)):
                    self.cell = None
                yield event
        except (EOFError, OSError):
            self.fit = False
            self.process.join()
            if self.process.exitcode == UNGUARDED:
                raise PrecropError(
                    "the script that runs this study runs it again in every process: put its call "
                    'under `if __name__ == "__main__":`'
                ) from None
            if self.cell is not None:
                yield Died(self.cell.id, _end(self.process.exitcode))

    def stop(self) -> None:
        """Ask the process to end."""
        self.process.terminate()
        self.pipe.close()

    def gone(self, seconds: float) -> None:
        """Wait for the process to end; kill it after ``seconds``."""
        self.process.join(seconds)
        self.process.kill()
        self.process.join()


class LocalEngine:
    """Runs one cell after another in processes that stay alive and keep the images in memory.

    Runs get their folders in ``output``; what a cell's process prints goes to a file in ``logs``.

    Raises:
        PrecropError: ``logs`` is a link.
    """

    def __init__(
        self, places: Sequence[Place], output: Path, logs: Path, work: Work = work
    ) -> None:
        refuse_link(logs)
        self.places = len(places)
        self._free = list(reversed(places))
        self._task = (work, output, logs)
        self._workers: list[_Worker] = []

    def start(self, cell: Cell) -> None:
        """Give the cell to an idle process, or to a new one."""
        worker = next((worker for worker in self._workers if worker.cell is None), None)
        if worker is None:
            with uninterrupted():
                worker = _Worker(self._free.pop(), *self._task)
                self._workers.append(worker)
        worker.cell = cell
        # That a process has died is noticed when its events are read.
        with suppress(OSError):
            worker.pipe.send(cell)

    def wait(self, seconds: float) -> list[Event]:
        """Return what the processes have sent."""
        if not self._workers:
            time.sleep(seconds)
            return []
        found: list[Event] = []
        pipes: dict[Any, _Worker] = {worker.pipe: worker for worker in self._workers}
        for pipe in wait(list(pipes), seconds):
            worker = pipes[pipe]
            found += worker.events()
            if not worker.fit:
                worker.stop()
                worker.gone(_PATIENCE)
                self._workers.remove(worker)
                self._free.append(worker.place)
        return found

    def close(self) -> None:
        """End all processes; an interrupted run resumes from its last epoch next time."""
        for worker in self._workers:
            worker.stop()
        deadline = time.monotonic() + _PATIENCE
        for worker in self._workers:
            worker.gone(max(0.0, deadline - time.monotonic()))
        self._workers.clear()


def _serve(pipe: Connection, work: Work, output: Path, logs: Path) -> None:
    """Run the cells that come through the pipe, until the parent closes it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    # Raise KeyboardInterrupt on SIGTERM, so that half-written files are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end_with_parent()  # instead of training on and holding the run's lock
    _open_streams()
    faulthandler.enable()
    with suppress(EOFError, KeyboardInterrupt):  # nothing more to do, or told to end
        fit = True
        while fit:
            cell = pipe.recv()
            with _printing_to(logs / f"{cell.id}.log"):
                event, fit = work(cell, output, lambda event: pipe.send((event, True)))
            pipe.send((event, fit))


def _open_streams() -> None:
    """Give this process the standard streams that its parent lacks."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Redirect what this process and its libraries print to a file, which is removed if empty."""
    refuse_link(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    yield
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if not path.stat().st_size:
        path.unlink()


def _end(status: int | None) -> str:
    """Return how a process ended, in words."""
    if status is not None and status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"
