"""Cells as tasks on a Ray cluster; the calling process appends each one's row.

A run whose node is lost resumes from its last epoch only if all nodes see the runs' folder under
the same path; otherwise it starts over on another node.
"""

import contextlib
import logging
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# In a cluster that we start, runs have the same priority as in the local engine.
os.environ.setdefault("RAY_worker_niceness", "0")

import ray
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from precrop.errors import PrecropError, errors_as, one_line
from precrop.study.cells import Cell
from precrop.study.events import Died, Event, Work
from precrop.study.worker import work

_AGAIN = 3
"""Times that Ray retries a cell whose node or process is gone before it reports that."""


class RayEngine:
    """Runs each cell as a Ray task, as many at a time as the cluster has room for.

    Without an address a cluster is started on this machine.

    Raises:
        PrecropError: there is no such cluster, or it has no GPU to share.
    """

    def __init__(
        self,
        output: Path,
        *,
        address: str | None = None,
        threads: int = 1,
        runs_per_device: int = 1,
        work: Work = work,
    ) -> None:
        if min(threads, runs_per_device) < 1:
            raise PrecropError("--threads and --runs-per-device are 1 or more")
        self._began = _connect(address)
        self._threads, self._runs_per_device = threads, runs_per_device
        devices = _resources().get("GPU")
        if runs_per_device > 1 and not devices:
            raise PrecropError("the Ray cluster has no GPU: leave --runs-per-device out")
        gpus = 1 / runs_per_device if devices else 0
        self._task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=_AGAIN)(_run)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._told = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        self._arguments = (output.resolve(), Path.cwd(), self._told, threads, work)
        self._running: dict[Any, Cell] = {}

    @property
    def places(self) -> int:
        """The number of runs for which the cluster, as it is now, has room."""
        there = _resources()
        places = int(there.get("CPU", 0) // self._threads)
        if "GPU" in there:
            places = min(places, int(there["GPU"]) * self._runs_per_device)
        return max(1, places)

    def start(self, cell: Cell) -> None:
        """Hand the cell to Ray, which finds a node for it."""
        self._running[self._task.remote(cell, *self._arguments)] = cell

    def wait(self, seconds: float) -> list[Event]:
        """Return what the tasks report, and the events of those that are over."""
        if not self._running:
            time.sleep(seconds)
            return []
        over, _ = ray.wait(list(self._running), num_returns=1, timeout=seconds)
        cells = {cell.id for cell in self._running.values()}
        told: list[Event] = self._told.get_nowait_batch(self._told.qsize())
        found = [event for event in told if event.cell in cells]  # type: ignore[union-attr]
        return [*found, *(self._end(task) for task in over)]

    def _end(self, task: Any) -> Event:
        cell = self._running.pop(task)
        try:
            event: Event = ray.get(task)
        except ray.exceptions.RayError as error:
            return Died(cell.id, one_line(str(error)))
        return event

    def close(self) -> None:
        """Stop running tasks; a cluster that was there before stays."""
        with contextlib.suppress(ray.exceptions.RayError):
            for task in self._running:
                ray.cancel(task, force=True)
            self._told.shutdown(force=True)
        self._running.clear()
        if self._began:
            ray.shutdown()


def _run(cell: Cell, output: Path, folder: Path, told: Queue, threads: int, work: Work) -> Event:
    """Run the task: work on the cell as a process of the local engine does."""
    if folder.is_dir():
        os.chdir(folder)  # paths of images and modules of networks are relative to it
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    import torch

    torch.set_num_threads(threads)
    event, _ = work(cell, output, told.put)
    return event


def _resources() -> dict[str, float]:
    """Return what the cluster has, by kind."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


def _connect(address: str | None) -> bool:
    """Join a cluster, or start one; return whether we have to leave it."""
    if ray.is_initialized():
        return False
    _check_answers(address or "")
    refusal = f"cannot use the Ray cluster at {address or 'here'}"
    with errors_as(refusal, ConnectionError, ValueError, RuntimeError, SystemExit):
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    return True


def _check_answers(address: str) -> None:
    """Check that something listens there: Ray tries for minutes, and then ends the process."""
    host, _, port = address.rpartition(":")
    if "/" in address or not port.isdecimal():
        return
    with errors_as(f"no Ray cluster answers at {address}", OSError):
        socket.create_connection((host, int(port)), timeout=10).close()
