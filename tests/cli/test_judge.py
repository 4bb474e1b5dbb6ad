import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import torch

from precrop.cli.app import main
from precrop.errors import PrecropError
from precrop.evidence import nats
from precrop.evidence.candidates import UNIFORM, strategies
from precrop.evidence.nats import Table
from precrop.evidence.page import gains_table, order_table, regret_table, shares_table
from precrop.evidence.verdict import Evidence, Task, finished, judge
from precrop.strategies.objectives import OBJECTIVES
from tests.evidence.conftest import SAMPLE


@pytest.fixture
def table() -> Table:
    return nats.load_tables(SAMPLE)[0]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One strategy beside uniform width, no method, two base networks."""
    chosen = [s for s in strategies() if s.name in ("synexp", UNIFORM)]
    monkeypatch.setattr("precrop.evidence.sizes.BAND", 0.15)
    monkeypatch.setattr("precrop.evidence.order.EXACT_BANDS", 2)
    monkeypatch.setattr("precrop.evidence.order.CONTROLS", {})
    monkeypatch.setattr("precrop.evidence.verdict.strategies", lambda: chosen)
    monkeypatch.setattr("precrop.evidence.verdict.slow_strategies", list)
    monkeypatch.setattr("precrop.evidence.order.OBJECTIVES", {"synexp": OBJECTIVES["synexp"]})
    monkeypatch.setattr("precrop.evidence.gain.SENSIBLE", {"flat": (48, 48, 48, 48, 48)})
    monkeypatch.setattr("precrop.evidence.gain.ILL_SHAPED", {"inverted": (64, 48, 32, 24, 16)})
    monkeypatch.setattr("precrop.evidence.gain.SHARES", (0.6,))
    monkeypatch.setattr("precrop.evidence.gain.PRECONFIG", {"both whole": (1.0, 1.0)})
    monkeypatch.setattr(nats, "DATA_SETS", nats.DATA_SETS[:1])


def test_it_prints_tables_and_writes_what_they_are_made_of(
    short: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    status = main(["judge", "--data", str(SAMPLE), "--budgets", "2", "-o", str(folder)])
    assert status == 0
    printed = capsys.readouterr().out
    for file in ("order.png", "gains.png"):
        assert (folder / file).read_bytes().startswith(b"\x89PNG")
    assert not (folder / "parts.jsonl").exists()
    found = Evidence.load(folder / "evidence.json")
    for table in (order_table(found), regret_table(found), gains_table(found)):
        assert table in printed
    assert "| synexp |" in shares_table(found)
    assert set(found.regret["strategy"]) > {"synexp", "any network of the size"}


def test_json(short: None, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    assert main(["judge", "--data", str(SAMPLE), "--budgets", "1", "--json"]) == 0
    assert torch.get_num_threads() == threads
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"order", "regret", "gains", "published", "noise"}


def test_no_table_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "--data", str(tmp_path)]) == 2
    assert "holds no nats-sss.parquet" in capsys.readouterr().err


@pytest.mark.parametrize("count", [0, 3, 500])
def test_a_table_of_few_networks_is_one_line(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pq.read_table(SAMPLE / nats.FILE).slice(0, count)
    pq.write_table(rows, tmp_path / nats.FILE)
    assert main(["judge", "--data", str(tmp_path), "--budgets", "1"]) == 2
    said = f"too few networks to judge by: of {count} on cifar10 no 10 are of one size"
    assert said in capsys.readouterr().err


def test_it_goes_on_where_it_was_stopped(
    short: None, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precrop.evidence.gain.SENSIBLE", {})
    path = tmp_path / "out" / "parts.jsonl"
    whole = judge([table], budgets=1)
    ran: list[str] = []
    left = [3, 100]

    def counted(results: Iterable[Any], title: str, total: int | None) -> Iterator[Any]:
        for label, rows in results:
            if len(ran) == left[0]:
                raise KeyboardInterrupt
            ran.append(label)
            yield label, rows

    with pytest.raises(KeyboardInterrupt):
        judge([table], budgets=1, parts=path, progress=counted)
    lines = path.read_text().splitlines()
    assert [json.loads(line)["part"] for line in lines[1:]] == ran
    path.write_text(path.read_text() + '{"part": "cifar10, synexp, gai')  # killed while it wrote
    del left[0]
    again = judge([table], budgets=1, parts=path, progress=counted)
    assert len(ran) == len(set(ran)), "nothing is done twice"
    assert json.dumps(again.to_json()) == json.dumps(whole.to_json())


def _for_long(*args: Any) -> Iterator[dict[str, Any]]:
    time.sleep(600)
    yield {}


def _killed(*args: Any) -> Iterator[dict[str, Any]]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield {}


def _none(*args: Any) -> Iterator[dict[str, Any]]:
    yield from ()


def test_its_processes_end_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM goes to the parent alone, and what they are at may take minutes."""
    work = [Task("brief", "order", _none, ()), Task("long", "order", _for_long, ())]
    monkeypatch.setattr("precrop.evidence.verdict.tasks", lambda *args: work)

    def stopped(results: Iterable[Any], title: str, total: int | None) -> Iterator[Any]:
        yield next(iter(results))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge([], processes=2, progress=stopped)
    assert active_children() == []
    work[1] = Task("dead", "order", _killed, ())
    with pytest.raises(PrecropError, match="^a process that judges was ended: A process in the "):
        judge([], processes=2)


def test_parts_of_other_budgets_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "new" / "parts.jsonl"
    part = json.dumps({"part": "a", "rows": [{"x": 0.1}]})
    assert finished(path, "one") == {}
    path.write_text(f"{path.read_text()}{part}\n")
    assert finished(path, "one") == {"a": [{"x": 0.1}]}
    assert finished(path, "other") == {}
    assert finished(path, "one") == {}, "the other began anew"
    path.write_text(f"no JSON\n[1]\n{part}\n")
    assert finished(path, "one") == {}


def test_lines_of_no_sense_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "parts.jsonl"
    odd = ['{"part": [1], "rows": 5}', '{"part": "a", "rows": 5}', '{"part": "a", "rows": [5]}']
    lines = ['{"of": "one"}', *odd, "[" * 100_000, '{"part": "b", "rows": [{"x": 1}]}']
    path.write_text("".join(f"{line}\n" for line in lines))
    assert finished(path, "one") == {"b": [{"x": 1}]}


def test_frames_come_back_from_the_file(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"word": ["a", "b", "a"], "number": [1 / 3, np.nan, 2], "list": [[1 / 3, 2], [], [0]]}
    )
    made = Evidence(frame, frame, frame, frame, {"cifar10": 0.2})
    made.save(tmp_path / "evidence.json")
    found = Evidence.load(tmp_path / "evidence.json")
    assert found.noise == made.noise
    assert found.order["word"].tolist() == ["a", "b", "a"]
    assert found.order["number"].tolist()[::2] == [0.3333, 2]
    assert np.isnan(found.order["number"][1])
    assert found.order["list"].tolist() == [[0.3333, 2], [], [0]]
