"""The store: whole appends, merges that no reader notices, and what is left out."""

import json
import math
import multiprocessing
import os
import pickle
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from precrop.errors import PrecropError
from precrop.study import store as module
from precrop.study.locks import Claim, is_claimed
from precrop.study.rows import FIELDS, SCHEMA, Row
from precrop.study.store import Store
from tests.study.made_rows import STARTED, made_row


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def reopened(store: Store) -> Store:
    return Store.open(store.path)


def parts(store: Store) -> list[Path]:
    return sorted((store.path / "parts").glob("*.parquet"))


def test_a_row_comes_back_as_it_was(store: Store) -> None:
    rows = [made_row(seed=1), made_row(seed=2, status="failed", error="no luck", args={})]
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


def test_every_field_is_kept(store: Store) -> None:
    assert set(module._COLUMNS.names) == {field.name for field in fields(Row)}
    store.append([made_row()])
    assert pq.read_schema(parts(store)[0]).names == list(FIELDS)


def test_the_first_that_is_done_wins(store: Store) -> None:
    later = timedelta(hours=1)
    failed = made_row(seed=1, status="failed", error="first")
    again = replace(failed, error="second", ended=failed.ended + later)
    done = made_row(seed=2)
    store.append([replace(done, accuracy=0.1, ended=done.ended + later), again])
    store.append([failed, replace(done, status="failed", ended=done.ended - later), done])
    rows = {row.seed: row for row in store.rows()}
    assert len(rows) == 2
    assert rows[1].error == "second"
    assert (rows[2].status, rows[2].accuracy) == ("done", done.accuracy)
    assert store.done() == {done.cell}
    tally = store.tally()
    assert (tally[failed.cell].done, tally[failed.cell].failed) == (0, 2)
    assert (tally[done.cell].done, tally[done.cell].failed) == (2, 1)


def test_frame(store: Store) -> None:
    assert list(store.frame().columns) == list(FIELDS)
    store.append([made_row(seed=seed) for seed in range(3)])
    frame = store.frame()
    assert list(frame["seed"]) == [0, 1, 2]
    assert frame["widths"][0]["stem"][0] == 3
    assert frame["history"][0][0]["lr"] == 0.1
    assert frame.groupby("variant")["accuracy"].mean()["PreCrop"] == pytest.approx(0.85)


def test_parts_are_merged_and_nothing_is_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TOGETHER", 3)
    many = 21
    rows = [made_row(seed=seed, started=STARTED + timedelta(hours=seed)) for seed in range(many)]
    other = reopened(store)
    for row in rows:
        store.append([row])
    assert len(parts(store)) == 3
    assert max(int(path.name[0]) for path in parts(store)) == 2
    for each in (store, other, reopened(store)):
        assert each.rows() == rows
        assert len(each.done()) == many
        assert not each.dropped


def test_a_merge_that_was_cut_short(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The merged part is there, and so are those that it stands for."""
    monkeypatch.setattr(module, "_TOGETHER", 4)
    monkeypatch.setattr(Store, "_remove", lambda self, names: None)
    for seed in range(4):
        store.append([made_row(seed=seed, status="failed", error="x")])
    assert len(parts(store)) == 5
    assert all(tally.failed == 1 for tally in reopened(store).tally().values())
    assert len(reopened(store).rows()) == 4
    monkeypatch.undo()
    monkeypatch.setattr(module, "_TOGETHER", 4)
    store.append([made_row(seed=9)])
    assert len(parts(store)) == 2
    assert len(store.rows()) == 5


def test_a_reader_whose_parts_are_merged_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TOGETHER", 4)
    for seed in range(3):
        store.append([made_row(seed=seed)])
    reader = reopened(store)
    read = Store._read

    def late(self: Store, name: str, columns: Sequence[str]) -> object:
        monkeypatch.setattr(Store, "_read", read)
        store.append([made_row(seed=3)])
        return read(self, name, columns)

    monkeypatch.setattr(Store, "_read", late)
    assert len(reader.rows()) == 4


def test_a_folder_that_changes_while_it_is_listed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing that saw neither the merged part nor the parts is not believed."""
    store.append([made_row()])
    real = module._names
    listings: Iterator[list[str]] = iter([[]])
    monkeypatch.setattr(module, "_names", lambda parts: next(listings, None) or real(parts))
    assert len(store.rows()) == 1


def append_some(path: Path, first: int, count: int) -> None:
    store = Store.open(path, create=True)
    for seed in range(first, first + count):
        store.append([made_row(seed=seed)])


def test_two_processes_append_at_once(tmp_path: Path) -> None:
    path, count = tmp_path / "store", module._TOGETHER + 8
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=append_some, args=(path, first, count)) for first in (0, 1000)
    ]
    for process in processes:
        process.start()
    seen = 0
    while any(process.is_alive() for process in processes):
        if (path / "store.json").exists():
            now = len(Store.open(path).done())
            assert now >= seen
            seen = now
    assert [process.exitcode for process in processes] == [0, 0]
    store = Store.open(path)
    assert sorted(row.seed for row in store.rows()) == [*range(count), *range(1000, 1000 + count)]
    assert all(tally.done == 1 for tally in store.tally().values())


@pytest.mark.parametrize("size", [0, 4, 2000])
def test_a_torn_part_is_left_out(store: Store, size: int) -> None:
    store.append([made_row(seed=1)])
    store.append([made_row(seed=2)])
    torn = parts(store)[1]
    torn.write_bytes(torn.read_bytes()[:size])
    store = reopened(store)
    assert [row.seed for row in store.rows()] == [1]
    assert list(store.dropped) == [torn.name]
    assert store.dropped[torn.name]
    assert "\n" not in store.dropped[torn.name]
    store.append([made_row(seed=3)])
    assert [row.seed for row in store.rows()] == [1, 3]


def test_a_part_whose_middle_is_damaged(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is whole, so that only reading the rows shows it; merging must not hide it."""
    monkeypatch.setattr(module, "_TOGETHER", 4)
    for seed in range(3):
        store.append([made_row(seed=seed)])
    damaged = parts(store)[1]
    content = bytearray(damaged.read_bytes())
    columns = pq.ParquetFile(damaged).metadata.row_group(0)
    place = columns.column(FIELDS.index("history")).data_page_offset
    content[place : place + 40] = bytes(40)
    damaged.write_bytes(content)
    store = reopened(store)
    store.append([made_row(seed=3)])
    assert sorted(row.seed for row in store.rows()) == [0, 2, 3]
    assert damaged.name in store.dropped
    assert damaged in parts(store)


def unchecked(store: Store) -> None:
    """Name all parts as older versions did."""
    for number, path in enumerate(parts(store)):
        path.rename(path.with_name(f"{path.name.partition('-crc')[0]}-{number:08x}.parquet"))


def test_a_store_of_an_older_version(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOGETHER", 4)
    rows = [made_row(seed=seed, started=STARTED + timedelta(hours=seed)) for seed in range(4)]
    for row in rows[:3]:
        store.append([row])
    unchecked(store)
    old = reopened(store).rows()
    assert old == rows[:3]
    reopened(store).append(rows[3:])
    assert len(parts(store)) == 1
    assert reopened(store).rows() == rows


def test_a_part_of_an_older_version_whose_middle_is_damaged(store: Store) -> None:
    for seed in range(2):
        store.append([made_row(seed=seed)])
    unchecked(store)
    damaged = parts(store)[0]
    content = bytearray(damaged.read_bytes())
    columns = pq.ParquetFile(damaged).metadata.row_group(0)
    place = columns.column(FIELDS.index("history")).data_page_offset
    content[place : place + 40] = bytes(40)
    damaged.write_bytes(content)
    store = reopened(store)
    assert [row.seed for row in store.rows()] == [1]
    assert list(store.dropped) == [damaged.name]


def test_no_byte_may_change(store: Store) -> None:
    """Not even one that no decoder notices."""
    store.append([made_row()])
    (part,) = parts(store)
    content = part.read_bytes()
    for place in (4, len(content) // 3, len(content) - 1):
        part.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        store = reopened(store)
        assert store.rows() == []
        assert list(store.dropped) == [part.name]
    part.write_bytes(content)
    assert len(reopened(store).rows()) == 1


def test_histories_are_read_when_they_are_looked_at(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [made_row(seed=seed, started=STARTED + timedelta(hours=seed)) for seed in range(3)]
    rows[1] = replace(rows[1], history=({"epoch": 1.0, "seconds": 7.0},))
    for row in rows[:2]:
        store.append([row])
    asked: list[Sequence[str]] = []
    read = Store._read

    def noted(self: Store, name: str, columns: Sequence[str] = FIELDS) -> object:
        asked.append(columns)
        return read(self, name, columns)

    monkeypatch.setattr(Store, "_read", noted)
    found = reopened(store).rows()
    assert all("history" not in columns for columns in asked)
    # In the meantime, all parts are merged into one.
    monkeypatch.setattr(module, "_TOGETHER", 3)
    store.append(rows[2:])
    assert len(parts(store)) == 1
    asked.clear()
    assert [row.history for row in found] == [row.history for row in rows[:2]]
    assert len(asked) == 1
    assert pickle.loads(pickle.dumps(found)) == rows[:2]


def test_a_history_that_is_gone(store: Store) -> None:
    store.append([made_row()])
    (row,) = store.rows()
    parts(store)[0].unlink()
    with pytest.raises(PrecropError, match=f"no history of cell {row.cell} any more: open it"):
        len(row.history)


def test_other_files_are_no_rows(store: Store) -> None:
    store.append([made_row()])
    table = pq.read_table(parts(store)[0]).select(["cell", "status"])
    pq.write_table(table, store.path / "parts" / "0-other.parquet")
    (store.path / "parts" / ".0-1.parquet.tmp").write_text("begun by a process that was killed")
    assert len(store.rows()) == 1
    assert store.dropped == {"0-other.parquet": "its columns are not those of a study's rows"}


def test_what_was_left_behind_is_removed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOGETHER", 2)
    left = store.path / "parts" / ".0-1.parquet.tmp"
    left.write_text("")
    for seed in range(2):
        store.append([made_row(seed=seed)])
    assert left.exists(), "another process may still write it"
    monkeypatch.setattr(module, "_LEFT_BEHIND", -1.0)
    for seed in range(2, 4):
        store.append([made_row(seed=seed)])
    assert not left.exists()


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
    mark.write_text(json.dumps({"schema": SCHEMA + 1}))
    with pytest.raises(PrecropError, match=f"has schema {SCHEMA + 1}, this precrop reads {SCHEMA}"):
        Store.open(store.path)
    mark.write_text("[]")
    with pytest.raises(PrecropError, match=r"store.json is broken"):
        Store.open(store.path, create=True)


def test_a_store_that_cannot_be_written(store: Store) -> None:
    (store.path / "parts").rmdir()
    (store.path / "parts").write_text("")
    with pytest.raises(PrecropError, match="cannot write to the store .*: "):
        store.append([made_row()])


def test_ten_thousand_rows_open_soon(store: Store) -> None:
    history = tuple(made_row().history) * 50
    store.append([made_row(seed=seed, history=history) for seed in range(100)])
    some = store._table()
    place = some.column_names.index("cell")
    for part in range(10):
        column = pa.array([f"{part:04x}{n:08x}" for n in range(1000)])
        store._write(pa.concat_tables([some] * 10).set_column(place, "cell", column), 0, ())
    began = time.process_time()
    found = reopened(store).rows()
    seconds = time.process_time() - began
    assert len(found) == 10_100
    assert seconds < 2, "benchmarks/study_overhead.py measures it: less than 1 s"


def test_claims(tmp_path: Path) -> None:
    path = tmp_path / "claims" / "one"
    assert not is_claimed(path)
    claim = Claim.take(path)
    assert claim is not None
    assert Claim.take(path) is None
    assert is_claimed(path)
    claim.release()
    assert not path.exists()
    path.write_text("left by a process that was killed")
    assert not is_claimed(path)
    with Claim.take(path) or pytest.fail("it is free"):
        assert is_claimed(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(PrecropError, match="cannot make the lock"):
        Claim.take(tmp_path / "file" / "one")


def claim_often(path: Path, times: int) -> None:
    inside = path.with_name("inside")
    while times:
        claim = Claim.take(path)
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


def test_a_damaged_parts_cells_are_not_done(store: Store) -> None:
    """Wherever a bit is flipped, what counts as done is what the rows show."""
    rows = [made_row(seed=seed) for seed in range(2)]
    for row in rows:
        store.append([row])
    part = parts(store)[0]
    content = part.read_bytes()
    for place in range(0, len(content), len(content) // 40):
        part.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        store = reopened(store)
        assert store.done() == {rows[1].cell} == {row.cell for row in store.rows()}
        assert list(store.dropped) == [part.name]
    store.append(rows[:1])  # it was run again
    assert reopened(store).done() == {row.cell for row in rows}


def strange_entry(kind: str, path: Path) -> None:
    if kind == "dangling":
        path.symlink_to("nowhere.parquet")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", ["dangling", "loop", "pipe", "folder"])
def test_what_is_no_file_among_the_parts(store: Store, kind: str) -> None:
    """Readers end, with one line for the entry; also one that had looked before it was there."""
    store.append([made_row(seed=0)])
    before = reopened(store)
    before.rows()
    name = f"0-{9:020d}-crc00000000.parquet"
    strange_entry(kind, store.path / "parts" / name)
    for reader in (reopened(store), before):
        assert [row.seed for row in reader.rows()] == [0]
        assert len(reader.tally()) == 1
        assert list(reader.dropped) == [name]
    store.append([made_row(seed=1)])
    assert len(reopened(store).rows()) == 2


def test_a_part_that_becomes_a_dangling_link(store: Store) -> None:
    store.append([made_row(seed=0)])
    store.append([made_row(seed=1)])
    store.rows()
    part = parts(store)[0]
    part.unlink()
    part.symlink_to("nowhere.parquet")
    assert [row.seed for row in store.rows()] == [1]
    assert list(store.dropped) == [part.name]
    assert len(store.tally()) == 1


def written(store: Store, name: str, values: Any, kind: pa.DataType | None = None) -> None:
    """A part of a row with one other column, and the right checksum."""
    store.append([made_row(seed=9)])
    (last,) = parts(store)[-1:]
    table = pq.read_table(last)
    last.unlink()
    column = pa.array([values], type=kind or table.schema.field(name).type)
    store._write(table.set_column(table.column_names.index(name), name, column), 0, ())


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("seed", "1", pa.string()),
        ("accuracy", 0.5, pa.float32()),
        ("cell", None, None),
        ("status", "fine", None),
        ("accuracy", None, None),
        ("accuracy", math.nan, None),
        ("loss", math.inf, None),
        ("base_params", 0, None),
        ("params", None, None),
        ("started", 2**62, None),
        ("seconds", None, None),
        ("densities", "[1, 2]", None),
        ("densities", '{"a": "b"}', None),
        ("densities", "{", None),
        ("densities", None, None),
        ("widths", '{"a": [1]}', None),
        ("widths", '{"a": 1}', None),
        ("versions", "}, {", None),
        ("args", "[" * 100_000, None),
        ("recipe", "1", None),
    ],
)
def test_a_part_of_no_sense(store: Store, name: str, value: Any, kind: Any) -> None:
    """It has its checksum; the others are read, and its cells are not done."""
    store.append([made_row(seed=0)])
    written(store, name, value, kind)
    odd = parts(store)[1].name
    store.append([made_row(seed=1)])
    store = reopened(store)
    assert [row.seed for row in store.rows()] == [0, 1]
    assert list(store.dropped) == [odd]
    assert sum(tally.done for tally in store.tally().values()) == 2


@pytest.mark.parametrize("text", ["{", "1", "[1]", "[" * 100_000, "null"])
def test_a_history_of_no_sense(store: Store, text: str) -> None:
    written(store, "history", text)
    (row,) = reopened(store).rows()
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
        Claim.take(tmp_path / "claim")
    assert not (tmp_path / "elsewhere").exists()
