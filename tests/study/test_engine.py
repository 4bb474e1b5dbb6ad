"""Running cells: each once, whatever fails, dies, is interrupted or runs beside it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from precrop.errors import PrecropError
from precrop.study import engine as module
from precrop.study.cells import Cell
from precrop.study.engine import Summary, run_study
from precrop.study.events import (
    Began,
    Busy,
    Died,
    DoneElsewhere,
    Elsewhere,
    Ended,
    Epoch,
    Event,
    Started,
)
from precrop.study.local_engine import LocalEngine, Place, places
from precrop.study.locks import Lock, is_claimed
from precrop.study.store import Store
from tests.study.fake_work import cell, row_of, tried, work

ROOT = Path(__file__).parents[2]
Answer = Callable[[Cell], Event]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to wait for another look."""
    monkeypatch.setattr(module, "LOOK", 0.01)


class Scripted:
    """An engine whose cells are over at once, as an answer per attempt says."""

    def __init__(self, *answers: Answer, count: int = 2) -> None:
        self.places = count
        self.answers = list(answers)
        self.started: list[Cell] = []
        self.running: list[Cell] = []
        self.closed = False

    def start(self, cell: Cell) -> None:
        self.started.append(cell)
        self.running.append(cell)
        assert len(self.running) <= self.places

    def wait(self, seconds: float) -> list[Event]:
        cells, self.running = self.running, []
        return [self.answers.pop(0)(c) if self.answers else done(c) for c in cells]

    def close(self) -> None:
        self.closed = True


def done(cell: Cell) -> Event:
    return Ended(cell.id, row_of(cell))


def failed(cell: Cell) -> Event:
    return Ended(cell.id, row_of(cell, "failed"))


def counts(summary: Summary) -> tuple[int, int, int, int]:
    return summary.done, summary.failed, summary.skipped, summary.elsewhere


def test_each_cell_is_run_once(store: Store) -> None:
    cells = [cell(seed=seed) for seed in range(5)]
    engine = Scripted()
    summary = run_study([*cells, cells[0]], store, engine)
    assert counts(summary) == (5, 0, 0, 0)
    assert (summary.trained, summary.overhead) == (5 * 63.0, 5 * 0.5)
    assert engine.started == cells
    assert engine.closed
    assert not list((store.path / "claims").iterdir())
    more = [*cells, cell(seed=9)]
    engine = Scripted()
    assert counts(run_study(more, store, engine)) == (1, 0, 5, 0)
    assert engine.started == [cell(seed=9)]
    assert {row.cell for row in store.rows()} == {one.id for one in more}


def test_what_fails_is_recorded_and_not_run_again_unasked(store: Store) -> None:
    cells = [cell(seed=seed) for seed in range(3)]
    assert counts(run_study(cells, store, Scripted(done, failed))) == (2, 1, 0, 0)
    assert [row.error for row in store.rows() if row.status == "failed"] == ["it broke"]
    assert counts(run_study(cells, store, Scripted())) == (0, 0, 3, 0)
    assert counts(run_study(cells, store, Scripted(), retry_failed=True)) == (1, 0, 2, 0)
    assert [row.status for row in store.rows()] == ["done"] * 3


def died(cell: Cell) -> Event:
    return Died(cell.id, "killed by SIGKILL")


def test_a_cell_whose_process_dies_is_tried_again(store: Store) -> None:
    told: list[Event] = []
    engine = Scripted(died)
    assert counts(run_study([cell()], store, engine, tell=told.append)) == (1, 0, 0, 0)
    kinds = [type(event) for event in told if not isinstance(event, Elsewhere)]
    assert kinds == [Started, Died, Started, Ended]


def test_a_cell_that_kills_its_processes_fails(store: Store) -> None:
    cells = [cell(), cell(seed=1)]
    assert counts(run_study(cells, store, Scripted(died, done, died))) == (1, 1, 0, 0)
    (row,) = (row for row in store.rows() if row.status == "failed")
    assert row.error == "the process that ran it died 2 times: killed by SIGKILL"
    assert row.cell == cell().id


def test_a_cell_waits_for_the_run_that_it_shares(store: Store, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    claim = Lock.take(lock)
    assert claim is not None
    looks = []

    def tell(event: Event) -> None:
        if isinstance(event, Elsewhere):
            looks.append(event)
            if len(looks) == 3:
                claim.release()

    engine = Scripted(lambda cell: Busy(cell.id, lock))
    cells = [cell(), cell(seed=1)]
    assert counts(run_study(cells, store, engine, tell=tell)) == (2, 0, 0, 0)
    assert engine.started == [cells[0], cells[1], cells[0]]
    assert len(looks) >= 3


@pytest.mark.parametrize("status", ["done", "failed"])
def test_a_cell_that_another_process_runs(store: Store, status: str) -> None:
    told = list[Event]()
    theirs, ours = cell(), cell(seed=1)
    claim = Lock.take(store.path / "claims" / theirs.id)
    assert claim is not None

    def tell(event: Event) -> None:
        told.append(event)
        if isinstance(event, Elsewhere) and event.cells and is_claimed(path):
            Store.open(store.path).append([row_of(theirs, status)])
            claim.release()

    path = store.path / "claims" / theirs.id
    engine = Scripted()
    assert counts(run_study([theirs, ours], store, engine, tell=tell)) == (1, 0, 0, 1)
    assert engine.started == [ours]
    assert DoneElsewhere(theirs.id) in told


def test_a_cell_whose_other_process_is_gone(store: Store) -> None:
    theirs = cell()
    claim = Lock.take(store.path / "claims" / theirs.id)
    assert claim is not None
    timer = threading.Timer(0.2, claim.release)
    timer.start()
    assert counts(run_study([theirs], store, Scripted())) == (1, 0, 0, 0)
    timer.join()


def interrupted(cell: Cell) -> Event:
    raise KeyboardInterrupt


def test_an_interruption_leaves_all_in_order(store: Store) -> None:
    cells = [cell(seed=seed) for seed in range(3)]
    engine = Scripted(done, interrupted, count=1)
    with pytest.raises(KeyboardInterrupt):
        run_study(cells, store, engine)
    assert engine.closed
    assert not list((store.path / "claims").iterdir())
    assert counts(run_study(cells, store, Scripted())) == (2, 0, 1, 0)


def test_a_store_that_cannot_be_written(store: Store) -> None:
    def spoil(cell: Cell) -> Event:
        (file,) = store.path.glob("*.jsonl")
        file.unlink()
        file.mkdir()
        return done(cell)

    store.append([row_of(cell(seed=1))])

    engine = Scripted(spoil)
    with pytest.raises(PrecropError, match="cannot write to the store"):
        run_study([cell()], store, engine)
    assert engine.closed
    assert not list((store.path / "claims").iterdir())


# Processes.

ONE, TWO = ([{"PLACE": str(n)} for n in range(count)] for count in (1, 2))


def ran(
    cells: Sequence[Cell], store: Store, output: Path, where: Sequence[Place] = ONE
) -> tuple[Summary, list[Event]]:
    told: list[Event] = []
    engine = LocalEngine(where, output, store.path / "logs", work)
    return run_study(cells, store, engine, tell=told.append), told


def test_a_script_that_would_begin_with_the_study_anew(store: Store, tmp_path: Path) -> None:
    """In every process, for want of a guard: that is said, and nothing is tried again."""
    with pytest.raises(PrecropError, match='put its call under `if __name__ == "__main__":`'):
        ran([cell("starts anew"), cell()], store, tmp_path)
    assert len(tried(tmp_path)) == 1
    assert not store.rows()


def test_logs_in_a_linked_folder(store: Store, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (store.path / "logs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PrecropError, match="logs is a link"):
        ran([cell("prints")], store, tmp_path)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_process_stays_for_the_next_cell(store: Store, tmp_path: Path) -> None:
    cells = [cell(seed=0), cell("prints"), cell("fails"), cell(seed=1)]
    summary, told = ran(cells, store, tmp_path)
    assert counts(summary) == (3, 1, 0, 0)
    assert [line.split()[0] for line in tried(tmp_path)] == [one.id for one in cells]
    assert len({line.split()[1] for line in tried(tmp_path)}) == 1
    kinds = [type(event) for event in told if not isinstance(event, Elsewhere)]
    assert kinds == 4 * [Started, Began, Epoch, Ended]
    (log,) = (store.path / "logs").iterdir()
    assert log.name == f"{cells[1].id}.log"
    assert log.read_text() == "a warning"


def test_processes_that_cannot_go_on_are_replaced(store: Store, tmp_path: Path) -> None:
    cells = [cell("breaks"), cell("dies once"), cell("exits once"), cell()]
    summary, told = ran(cells, store, tmp_path)
    assert counts(summary) == (3, 1, 0, 0)
    reasons = [e.reason for e in told if isinstance(e, Died)]
    assert reasons == ["killed by SIGKILL", "exit status 3"]
    pids = [line.split()[1] for line in tried(tmp_path)]
    assert len(pids) == 6
    assert len(set(pids)) == 4


def test_cells_run_side_by_side(store: Store, tmp_path: Path) -> None:
    cells = [cell(seed=seed, seconds=0.5) for seed in range(4)]
    ran(cells, store, tmp_path, TWO)
    lines = [line.split() for line in tried(tmp_path)]
    assert len(lines) == 4
    assert {place for _, _, place in lines} == {"0", "1"}
    assert "PLACE" not in os.environ


def test_an_interruption_while_a_process_starts(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not lost, and the process, which gets it too, says nothing of it."""
    begin = SpawnProcess.start

    def start(process: SpawnProcess) -> None:
        begin(process)
        for pid in (process.pid, os.getpid()):
            os.kill(pid or 0, signal.SIGINT)

    engine = LocalEngine(ONE, tmp_path, store.path / "logs", work)
    with monkeypatch.context() as patched:
        patched.setattr(SpawnProcess, "start", start)
        with pytest.raises(KeyboardInterrupt):
            engine.start(cell())
    assert [child.is_alive() for child in multiprocessing.active_children()] == [True]
    engine.start(cell())
    events: list[Event] = []
    while not (events and isinstance(events[-1], Ended)):
        events += engine.wait(1)
    engine.close()
    assert [type(event) for event in events] == [Began, Epoch, Ended]
    assert not multiprocessing.active_children()


SCRIPT = """
import sys
from pathlib import Path
from precrop.study.engine import run_study
from precrop.study.local_engine import LocalEngine
from precrop.study.store import Store
from tests.study.fake_work import cell, work

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    cells = [cell(seed=seed, seconds=0.4) for seed in range(6)]
    store = Store.open(folder / "store", create=True)
    print(run_study(cells, store, LocalEngine([{}], folder, folder / "logs", work)).done)
"""


def script(folder: Path) -> "subprocess.Popen[str]":
    path = folder / "script.py"
    path.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(path), str(folder)]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)


def test_two_processes_share_the_cells_of_a_store(tmp_path: Path) -> None:
    both = [script(tmp_path) for _ in range(2)]
    ran = [int(process.communicate()[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(ran) == 6
    assert len(tried(tmp_path)) == 6
    tally = Store.open(tmp_path / "store").tally()
    assert [one["done"] for one in tally.values()] == [1] * 6


def test_killed_and_started_again(tmp_path: Path) -> None:
    first = script(tmp_path)
    while len(tried(tmp_path)) < 2:
        time.sleep(0.05)
        assert first.poll() is None
    first.kill()
    first.communicate()
    worker = int(tried(tmp_path)[-1].split()[1])
    _wait_for(lambda: not _is_alive(worker))
    before = len(tried(tmp_path))
    again = script(tmp_path)
    assert int(again.communicate()[0]) in (4, 5, 6)
    assert len(tried(tmp_path)) <= before + 5
    tally = Store.open(tmp_path / "store").tally()
    assert [one["done"] for one in tally.values()] == [1] * 6


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert places() == [{"OMP_NUM_THREADS": "8"}]
    assert places(3) == 3 * [{"OMP_NUM_THREADS": "2"}]
    assert places(16)[0] == {"OMP_NUM_THREADS": "1"}
    assert places(2, threads=3) == 2 * [{"OMP_NUM_THREADS": "3"}]
    with pytest.raises(PrecropError, match="there is no GPU here: say --processes"):
        places(runs_per_device=2)
    with pytest.raises(PrecropError, match="are 1 or more"):
        places(0)
    with pytest.raises(PrecropError, match="--threads are 1 or more"):
        places(threads=0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert places(runs_per_device=2) == 2 * [
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": name} for name in ("0", "1")
    ]
    assert places(threads=1)[1]["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places()] == ["5", "7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,7")  # where there is no eighth
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places()] == ["0", "1"]
    with pytest.raises(PrecropError, match="say --runs-per-device instead of --processes"):
        places(2)


def test_an_engine_without_processes_waits_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    began = time.perf_counter()
    assert LocalEngine([], tmp_path, tmp_path / "logs").wait(2.0) == []
    assert slept == [2.0]
    assert time.perf_counter() - began < 1.0
