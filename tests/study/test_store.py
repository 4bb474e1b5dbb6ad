"""The store: lines that several processes append, and what is left out of what was damaged."""

import contextlib
import json
import math
import multiprocessing
import os
import pickle
import re
import resource
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from precrop.errors import PrecropError
from precrop.study.locks import Lock, is_claimed
from precrop.study.rows import FIELDS, Row, to_line
from precrop.study.store import Store
from tests.study.made_rows import STARTED, made_row


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def reopened(store: Store) -> Store:
    return Store.open(str(store.path))


def files(store: Store) -> list[Path]:
    return sorted(store.path.glob("rows-*.jsonl"))


def seeds(store: Store) -> list[int]:
    return [row.seed for row in store.rows()]


def later(seed: int, **changes: Any) -> Row:
    """A row that ended after those of smaller seeds."""
    return made_row(seed=seed, started=STARTED + timedelta(hours=seed), **changes)


def test_a_row_keeps_the_code_that_it_is_of(store: Store) -> None:
    """Rows without such code are as those of older versions, which have no such field."""
    old, new = made_row(seed=1), later(2, code={"nets.py": "0123456789ab"})
    store.append([old, new])
    assert [b'"code"' in line for line in files(store)[0].read_bytes().splitlines()] == [0, 1]
    assert reopened(store).rows() == [old, new]
    assert old.code == {}


def test_a_row_comes_back_as_it_was(store: Store) -> None:
    odd = {"name": "Größe \u2028", "nested": [{"history": [1]}], ', "history":': ', "history":['}
    rows = [
        made_row(seed=1),
        later(2, status="failed", error='no "luck"\n', args={}),
        later(3, args=odd, recipe={"crc32": "1", "history": [{"epoch": 1}]}),
    ]
    store.append(rows)
    found = reopened(store).rows()
    assert found == rows
    assert [replace(row) for row in found] == rows
    for row in found:
        assert row.started.utcoffset() == timedelta(0)
        assert all(isinstance(width, tuple) for width in row.widths.values())
    assert found[0].history[1]["seconds"] == 21
    assert [epoch["epoch"] for epoch in found[0].history[1:]] == [1, 2]
    assert len(found[0].history) == 3
    reopened(store).append(found)
    assert reopened(store).rows() == rows


def test_a_line_is_json(store: Store) -> None:
    store.append([made_row(), made_row(seed=1)])
    (file,) = files(store)
    for line in file.read_text(encoding="utf-8").splitlines():
        assert set(json.loads(line)) == {*FIELDS, "crc32"} - {"code"}
    assert set(FIELDS) == {field.name for field in fields(Row)}


def test_a_text_that_is_no_unicode(store: Store) -> None:
    """As of a file's name in a message; the row is not lost for that."""
    store.append([made_row(status="failed", error="no file caf\udce9")])
    (row,) = reopened(store).rows()
    assert row.error == "no file caf?"


def test_the_first_that_is_done_wins(store: Store) -> None:
    hour = timedelta(hours=1)
    failed = made_row(seed=1, status="failed", error="first")
    again = replace(failed, error="second", ended=failed.ended + hour)
    done = made_row(seed=2)
    store.append([replace(done, accuracy=0.1, ended=done.ended + hour), again])
    store.append([failed, replace(done, status="failed", ended=done.ended - hour), done])
    rows = {row.seed: row for row in store.rows()}
    assert list(rows) == [2, 1]
    assert rows[1].error == "second"
    assert (rows[2].status, rows[2].accuracy) == ("done", done.accuracy)
    tally = store.tally()
    assert (tally[failed.cell]["done"], tally[failed.cell]["failed"]) == (0, 2)
    assert (tally[done.cell]["done"], tally[done.cell]["failed"]) == (2, 1)


def test_frame(store: Store) -> None:
    assert list(store.frame().columns) == list(FIELDS)
    store.append([made_row(seed=seed) for seed in range(3)])
    frame = store.frame()
    assert list(frame["seed"]) == [0, 1, 2]
    assert frame["widths"][0]["stem"][0] == 3
    assert frame["history"][0][0]["lr"] == 0.1
    assert frame.groupby("variant")["accuracy"].mean()["PreCrop"] == pytest.approx(0.85)


def test_a_file_for_every_process(store: Store) -> None:
    """One that appends twice goes on with its own; readers see what others append meanwhile."""
    other, reader = reopened(store), reopened(store)
    assert seeds(reader) == []
    for seed, writer in enumerate((store, other, store, other)):
        writer.append([later(seed)])
        assert seeds(reader) == list(range(seed + 1))
    assert len(files(store)) == 2
    store.append([])
    assert [tally["done"] for tally in store.tally().values()] == [1] * 4


def append_some(path: Path, numbers: Iterator[int] | range) -> None:
    store = Store.open(path, create=True)
    for seed in numbers:
        store.append([made_row(seed=seed)])


def append_for_ever(path: Path) -> None:
    append_some(path, count(1000))


def test_two_processes_append_at_once_and_one_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "store"
    context = multiprocessing.get_context("spawn")
    patient = context.Process(target=append_some, args=(path, range(40)))
    killed = context.Process(target=append_for_ever, args=(path,))
    for process in (patient, killed):
        process.start()
    seen = 0
    while patient.is_alive() or not any(seed >= 1000 for seed in found(path)):
        now = len(found(path))
        assert now >= seen
        seen = now
        assert killed.exitcode is None
    killed.kill()
    for process in (patient, killed):
        process.join()
    assert patient.exitcode == 0
    store = Store.open(path)
    theirs = sorted(seed for seed in seeds(store) if seed >= 1000)
    assert theirs == [*range(1000, 1000 + len(theirs))]
    assert sorted(set(seeds(store)) - set(theirs)) == [*range(40)]
    assert all(tally["done"] == 1 for tally in store.tally().values())
    assert len(store.dropped) <= 1


def found(path: Path) -> list[int]:
    return seeds(Store.open(path)) if (path / "store.json").exists() else []


def test_a_line_that_was_torn(store: Store) -> None:
    """At whatever byte: the rows before it are there, and the next writer has a file of its own."""
    rows = [later(seed) for seed in range(2)]
    store.append(rows)
    (file,) = files(store)
    content, second = file.read_bytes(), len(to_line(rows[0]))
    for size in {*range(second + 1, len(content), 97), len(content) - 1}:
        file.write_bytes(content[:size])
        torn = reopened(store)
        assert seeds(torn) == [0]
        why = "it was not written to its end, or is being written"
        assert torn.dropped == {f"{file.name}, line 2": why}
    torn.append([later(2)])
    assert seeds(torn) == [0, 2]
    assert len(files(store)) == 2
    file.write_bytes(content)  # it was being written
    assert seeds(torn) == [0, 1, 2]
    assert torn.dropped == {}


def test_a_write_that_fails(store: Store) -> None:
    """As where a disk is full: nothing else is lost, and the same process can go on."""
    store.append([later(0)])
    (file,) = files(store)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 100, before[1]))
    try:
        with pytest.raises(PrecropError, match="cannot write to the store .*: File too large"):
            store.append([later(1)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    store.append([later(2)])
    assert seeds(store) == seeds(reopened(store)) == [0, 2]
    assert list(store.dropped) == [f"{file.name}, line 2"]


def test_ends_of_lines_that_git_changed(store: Store) -> None:
    rows = [later(seed) for seed in range(2)]
    store.append(rows)
    (file,) = files(store)
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    store = reopened(store)
    assert [dict(row.history[0]) for row in store.rows()] == [dict(row.history[0]) for row in rows]
    assert not store.dropped


def test_no_byte_may_change(store: Store) -> None:
    """Not even one that no decoder notices; what is damaged is not done, the rest is."""
    rows = [later(seed) for seed in range(3)]
    store.append(rows)
    (file,) = files(store)
    content = file.read_bytes()
    first, end = len(to_line(rows[0])), len(to_line(rows[0])) + len(to_line(rows[1])) - 1
    for place in {*range(first, end, 41), end - 1}:
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        store = reopened(store)
        assert seeds(store) == [0, 2]
        assert store.tally().keys() == {rows[0].cell, rows[2].cell}
        assert store.dropped == {
            f"{file.name}, line 2": "it is not what was written: its checksum differs"
        }
    store.append(rows[1:2])  # it was run again
    assert seeds(reopened(store)) == [0, 1, 2]


def test_two_lines_that_became_one(store: Store) -> None:
    rows = [later(seed) for seed in range(3)]
    store.append(rows)
    (file,) = files(store)
    file.write_bytes(file.read_bytes().replace(b"\n", b" ", 1))
    assert seeds(store) == [2]
    assert list(store.dropped) == [f"{file.name}, line 1"]


def test_histories_are_read_when_they_are_looked_at(store: Store) -> None:
    rows = [later(0), later(1, history=({"epoch": 1.0, "seconds": 7.0},)), later(2, history=())]
    store.append(rows)
    found = reopened(store).rows()
    content = files(store)[0].read_bytes()
    store.append([later(3)])
    assert [row.history for row in found] == [row.history for row in rows]
    found = reopened(store).rows()
    files(store)[0].write_bytes(content.replace(b"epoch", b"EPOCH"))
    assert "EPOCH" in found[0].history[0]
    assert pickle.loads(pickle.dumps(found[:3])) == found[:3]


def test_a_loss_that_is_no_number_is_null(store: Store) -> None:
    nan, far = math.nan, math.inf
    row = made_row(history=({"epoch": 1.0, "train_loss": far, "loss": nan, "accuracy": 0.1},))
    json.loads(to_line(row), parse_constant=pytest.fail)
    store.append([row])
    (epoch,) = reopened(store).rows()[0].history
    assert math.isnan(epoch["loss"])
    assert math.isnan(epoch["train_loss"])
    assert epoch["accuracy"] == 0.1


def test_a_history_that_is_gone(store: Store) -> None:
    store.append([made_row()])
    (row,) = store.rows()
    files(store)[0].unlink()
    with pytest.raises(PrecropError, match=f"history of cell {row.cell} cannot be read any more"):
        len(row.history)


def test_other_files_are_no_rows(store: Store) -> None:
    store.append([made_row()])
    for name in ("notes.txt", "other.jsonl", ".rows-1.jsonl", "rows-1.jsonl.swp"):
        (store.path / name).write_text("x\n")
    assert seeds(store) == [0]
    assert store.dropped == {}
    (store.path / "rows-1.jsonl").write_text("x\n")
    assert seeds(store) == [0]
    assert list(store.dropped) == ["rows-1.jsonl, line 1"]


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(PrecropError, match=r"is not a store of a study: there is no store.json"):
        Store.open(tmp_path)
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(PrecropError, match="is not empty and no store: name another folder"):
        Store.open(tmp_path, create=True)
    with pytest.raises(PrecropError, match="cannot make the store"):
        Store.open(tmp_path / "photo.jpg" / "store", create=True)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_store_of_another_schema(store: Store) -> None:
    mark = store.path / "store.json"
    mark.write_text(json.dumps({"schema": 3}))
    with pytest.raises(PrecropError, match="has schema 3, this precrop reads 2"):
        Store.open(store.path)
    mark.write_text("[]")
    with pytest.raises(PrecropError, match=r"store.json is broken"):
        Store.open(store.path, create=True)


def test_a_store_of_two_studies(store: Store) -> None:
    """Cells are called by what is asked for, so that studies may share what they have in common."""
    store.append([later(0, study="one")])
    reopened(store).append([later(1, study="another")])
    assert [row.study for row in reopened(store).rows()] == ["one", "another"]


def spoil(file: Path) -> None:
    file.unlink()
    file.mkdir()


def test_a_store_that_cannot_be_written(store: Store) -> None:
    store.append([made_row()])
    spoil(files(store)[0])
    with pytest.raises(PrecropError, match="cannot write to the store .*: "):
        store.append([made_row(seed=1)])
    store.append([made_row(seed=2)])
    assert seeds(reopened(store)) == [2]


@contextlib.contextmanager
def powerless() -> Iterator[None]:
    """Root, as tests often run, may write anywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_is_read_only() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        Store.open(folder, create=True).append([made_row()])
        folder.chmod(0o555)
        with powerless():
            store = Store.open(folder)
            assert seeds(store) == [0]
            assert len(store.rows()[0].history) == 3
            with pytest.raises(PrecropError, match="cannot write .*: Permission denied"):
                store.append([made_row(seed=1)])
        folder.chmod(0o755)


def test_ten_thousand_rows_open_soon(store: Store) -> None:
    history = tuple(made_row().history) * 50
    row = to_line(made_row(cell="f" * 12, history=history))
    content, cells = row.rpartition(b',"crc32"')[0], range(10_000)
    lines = (with_checksum(content.replace(b"f" * 12, b"%012x" % cell, 1)) for cell in cells)
    (store.path / "rows-1.jsonl").write_bytes(b"".join(lines))
    began = time.process_time()
    found = reopened(store).rows()
    seconds = time.process_time() - began
    assert len(found) == len(cells)
    assert found[-1].history == history
    assert seconds < 2, "benchmarks/study_overhead.py measures it: less than 1 s"


def test_claims(tmp_path: Path) -> None:
    path = tmp_path / "claims" / "one"
    assert not is_claimed(path)
    claim = Lock.take(path)
    assert claim is not None
    assert Lock.take(path) is None
    assert is_claimed(path)
    claim.release()
    assert not path.exists()
    path.touch()  # left by a process that was killed
    assert not is_claimed(path)
    with Lock.take(path) or pytest.fail("it is free"):
        assert is_claimed(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(PrecropError, match="cannot make the lock"):
        Lock.take(tmp_path / "file" / "one")


def claim_often(path: Path, times: int) -> None:
    inside = path.with_name("inside")
    while times:
        claim = Lock.take(path)
        if claim is None:
            continue
        inside.touch(exist_ok=False)  # fails where another process holds the claim, too
        inside.unlink()
        claim.release()
        times -= 1


def test_one_process_at_a_time_holds_a_claim(tmp_path: Path) -> None:
    """Though its file is removed and made anew every time."""
    context = multiprocessing.get_context("spawn")
    arguments = (tmp_path / "claim", 200)
    processes = [context.Process(target=claim_often, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert not list(tmp_path.iterdir())


def strange_entry(kind: str, path: Path) -> None:
    if kind == "dangling":
        path.symlink_to("nowhere.jsonl")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", ["dangling", "loop", "pipe", "folder"])
def test_what_is_no_file_among_the_files(store: Store, kind: str) -> None:
    """Readers end, with one line for the entry; also one that had looked before it was there."""
    store.append([made_row(seed=0)])
    before = reopened(store)
    before.rows()
    name = "rows-9.jsonl"
    strange_entry(kind, store.path / name)
    for reader in (reopened(store), before):
        assert seeds(reader) == [0]
        assert len(reader.tally()) == 1
        assert list(reader.dropped) == [name]
        assert reader.dropped[name]
    store.append([made_row(seed=1)])
    assert len(reopened(store).rows()) == 2


def changed(line: bytes, name: str, value: str) -> bytes:
    """A line of other content with its right checksum, as a stranger writes it."""
    content = line.rpartition(b',"crc32"')[0].decode()
    values = json.loads(content + "}")
    key = f"{json.dumps(name)}:"
    old = f"{key}{json.dumps(values[name], separators=(',', ':'))}"
    assert old in content
    return with_checksum(content.replace(old, f"{key}{value}", 1).encode())


def with_checksum(content: bytes) -> bytes:
    return b'%s,"crc32":"%08x"}\n' % (content, zlib.crc32(content))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("seed", '"1"', "seed: Input should be a valid integer"),
        ("seed", "9" * 30, "seed: Input should be less than"),
        ("cell", "null", "cell: Input should be a valid string"),
        ("status", '"fine"', "status: Input should be 'done' or 'failed'"),
        ("kind", '"odd"', "kind: Input should be"),
        ("accuracy", "null", "a finished run has no accuracy"),
        ("accuracy", "NaN", "accuracy: Input should be"),
        ("loss", "Infinity", "loss: Input should be"),
        ("loss", "-1", "loss: Input should be"),
        ("base_params", "0", "base_params: Input should be"),
        ("params", "null", "a finished run has no params"),
        ("started", '"yesterday"', "started: Input should be a valid datetime"),
        ("started", '"2026-01-01 00:00:00"', "started: Input should have timezone info"),
        ("ended", '"9000-01-01 00:00:00+00:00"', "ended: Input should be less than"),
        ("seconds", "null", "seconds: Input should be a valid number"),
        ("seconds", "-5", "seconds: Input should be greater than or equal to 0"),
        ("seconds", "1e308", "seconds: Input should be less than"),
        ("overhead", "1e308", "overhead: Input should be less than"),
        ("accuracy", "7.0", "accuracy: Input should be less than or equal to 1"),
        ("accuracy", "1e308", "accuracy: Input should be less than or equal to 1"),
        ("loss", "1e308", "loss: Input should be less than"),
        ("widths", f'{{"a":[1,{"9" * 400}]}}', "widths.a.1: Input should be less than"),
        ("widths", '{"a":[-1,1]}', "widths.a.0: Input should be greater than or equal to 0"),
        ("asked_params", "1e308", "asked_params: Input should be less than"),
        ("densities", "[1, 2]", "densities: Input should be"),
        ("densities", '{"a":"b"}', "densities.a: Input should be a valid number"),
        ("densities", "{", "Invalid JSON"),
        ("widths", '{"a":[1]}', "widths.a.1: Field required"),
        ("widths", '{"a":1}', "widths.a: Input should be a valid "),
        ("versions", '{"\\u001b[2J":1}', r"versions.\\x1b\[2J: Input should be a valid string"),
        ("versions", '{},"more":{}', "more: Unexpected keyword argument"),
        ("args", "[" * 100_000, "Invalid JSON: recursion limit exceeded"),
        ("recipe", "1", "recipe: Input should be"),
        ("recipe", "9" * 5000, "Invalid JSON: number out of range"),
    ],
)
def test_a_line_of_no_sense(store: Store, name: str, value: str, said: str) -> None:
    """It has its checksum; the others are read, and its cell is not done."""
    lines = [to_line(later(seed)) for seed in range(3)]
    lines[1] = changed(lines[1], name, value)
    (store.path / "rows-1.jsonl").write_bytes(b"".join(lines))
    assert seeds(store) == [0, 2]
    ((place, why),) = store.dropped.items()
    assert place == "rows-1.jsonl, line 2"
    assert re.match(said, why)
    assert len(why) < 300
    assert why.isprintable()
    assert sum(tally["done"] for tally in store.tally().values()) == 2


def test_a_line_without_an_end(store: Store) -> None:
    """A stranger's file may be as long as it likes; no more of it is held than a line may have."""
    store.append([later(0)])
    (store.path / "rows-9.jsonl").write_bytes(to_line(later(1)) + b"[" * (1 << 24))
    assert seeds(store) == [0, 1]
    assert store.dropped == {"rows-9.jsonl, line 2": "it is too long"}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "1",
        "[1]",
        "[" * 100_000,
        "null",
        '[{"epoch": "1"}]',
        '[{"seconds": 1e308}]',
        '[{"seconds": %s}]' % ("9" * 400),
    ],
)
def test_a_history_of_no_sense(store: Store, text: str) -> None:
    content = to_line(made_row()).partition(b', "history":')[0]
    line = with_checksum(content + b', "history":' + text.encode())
    (store.path / "rows-1.jsonl").write_bytes(line)
    (row,) = store.rows()
    with pytest.raises(PrecropError, match="the history of cell .* is not a list of epochs"):
        len(row.history)


def test_a_mark_of_no_sense(store: Store) -> None:
    for text in ("[" * 100_000, "[1]", "{", '"x"', '{"schema": ' + "9" * 5000 + "}"):
        (store.path / "store.json").write_text(text)
        with pytest.raises(PrecropError):
            reopened(store)


def test_a_claim_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "claim").symlink_to("elsewhere")
    with pytest.raises(PrecropError, match="cannot make the lock"):
        Lock.take(tmp_path / "claim")
    assert not (tmp_path / "elsewhere").exists()


def test_a_claim_in_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "one").touch()
    (tmp_path / "claims").symlink_to("elsewhere")
    for look in (Lock.take, is_claimed):
        with pytest.raises(PrecropError, match="claims is a link"):
            look(tmp_path / "claims" / "one")
    assert (tmp_path / "elsewhere" / "one").exists()


def test_a_file_with_content_in_the_place_of_a_claim_stays(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_text("content")
    assert not is_claimed(path)
    assert path.read_text() == "content"
