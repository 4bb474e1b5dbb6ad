"""Stores of older versions: Parquet parts, alone and beside the lines that are written today."""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from precrop.errors import PrecropError
from precrop.study import parts as module
from precrop.study.rows import FIELDS, Row
from precrop.study.store import Store
from tests.study.made_rows import STARTED, made_row

STORES = Path(__file__).parent / "stores"
"""As older versions wrote them, with names with and without checksums."""


def as_written(seed: int, **changes: Any) -> Row:
    """A row of those stores."""
    recipe = {"name": "cifar-quick", "epochs": 3}
    return made_row(seed=seed, recipe=recipe, started=STARTED + timedelta(hours=seed), **changes)


ALONE: dict[str, Any] = {"kind": "dense", "method": "", "granularity": "", "variant": "dense"}
ROWS = {
    "unchecked": [
        as_written(0),
        as_written(1, status="failed", error="no luck"),
        as_written(2, asked_params=None, asked_macs=None, **ALONE),
    ],
    "merged": [as_written(seed) for seed in range(4)],
}


@pytest.fixture
def old(tmp_path: Path) -> Callable[[str], Store]:
    """Copies an older store."""
    return lambda name: Store.open(shutil.copytree(STORES / name, tmp_path / name))


def parts(store: Store) -> list[Path]:
    return sorted((store.path / "parts").glob("*.parquet"))


def seeds(store: Store) -> list[int]:
    return [row.seed for row in store.rows()]


@pytest.mark.parametrize("name", ROWS)
def test_an_older_store_opens(name: str) -> None:
    store = Store.open(STORES / name)
    rows = store.rows()
    assert rows == ROWS[name]
    assert [row.started.utcoffset() for row in rows] == [timedelta(0)] * len(rows)
    assert all(tally.total() == 1 for tally in store.tally().values())
    assert store.dropped == {}
    assert list(store.frame()["seed"]) == [row.seed for row in rows]


@pytest.mark.parametrize("name", ROWS)
def test_an_older_store_is_gone_on_with(name: str, old: Callable[[str], Store]) -> None:
    """No part is touched, and versions that would see these alone no longer open it."""
    store = old(name)
    before = {path: path.read_bytes() for path in parts(store)}
    new = [as_written(seed) for seed in (7, 8)]
    for row in new:
        store.append([row])
    for reader in (store, Store.open(store.path)):
        assert reader.rows() == [*ROWS[name], *new]
    assert {path: path.read_bytes() for path in parts(store)} == before
    assert json.loads((store.path / "store.json").read_text()) == {"schema": 2}


def test_parts_that_are_copied_into_a_store_of_today(tmp_path: Path) -> None:
    """With their mark, as a whole folder is copied over another."""
    store = Store.open(tmp_path / "store", create=True)
    store.append([as_written(3), as_written(9)])
    shutil.copytree(STORES / "merged", store.path, dirs_exist_ok=True)
    assert seeds(Store.open(store.path)) == [0, 1, 2, 3, 9]


def test_an_older_store_that_is_only_read_stays_as_it_is(old: Callable[[str], Store]) -> None:
    store = old("merged")
    assert len(store.rows()) == 4
    assert json.loads((store.path / "store.json").read_text()) == {"schema": 1}


def test_an_older_store_becomes_one_of_today(tmp_path: Path) -> None:
    old, new = Store.open(STORES / "merged"), Store.open(tmp_path / "new", create=True)
    new.append(old.rows())
    assert Store.open(new.path).rows() == ROWS["merged"]


def test_parts_that_are_merged_while_they_are_read(
    old: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an older version: rows that are not where they were are looked for again."""
    store, read = old("merged"), module.read_part
    left, single, merged = parts(store)
    aside = merged.rename(merged.with_suffix(".aside"))

    def late(path: Path) -> Any:
        if aside.exists():
            aside.rename(merged)
            left.unlink()
        return read(path)

    monkeypatch.setattr(module, "read_part", late)
    assert seeds(store) == [0, 1, 2, 3]
    assert store.dropped == {}
    assert parts(store) == [single, merged]


@pytest.mark.parametrize("size", [0, 4, 2000])
def test_a_torn_part_is_left_out(old: Callable[[str], Store], size: int) -> None:
    for name, left in (("unchecked", [2]), ("merged", [0, 3])):
        store = old(name)
        torn = parts(store)[0 if name == "unchecked" else 2]
        torn.write_bytes(torn.read_bytes()[:size])
        assert seeds(store) == left
        assert list(store.dropped) == [torn.name]
        assert store.dropped[torn.name].isprintable()


def test_no_byte_of_a_part_may_change(old: Callable[[str], Store]) -> None:
    store = old("merged")
    part = parts(store)[1]
    content = part.read_bytes()
    for place in range(0, len(content), len(content) // 12):
        part.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        damaged = Store.open(store.path)
        assert seeds(damaged) == [0, 1, 2]
        assert as_written(3).cell not in damaged.tally()
        assert list(damaged.dropped) == [part.name]


def test_other_files_are_no_parts(old: Callable[[str], Store]) -> None:
    store = old("unchecked")
    table = pq.read_table(parts(store)[0]).select(["cell", "status"])
    pq.write_table(table, store.path / "parts" / "0-other.parquet")
    (store.path / "parts" / ".0-1.parquet.tmp").write_text("begun by a process that was killed")
    assert seeds(store) == [0, 1, 2]
    assert store.dropped == {"0-other.parquet": "its columns are not those of a study's rows"}


@pytest.mark.parametrize("kind", ["dangling", "loop", "pipe", "folder"])
def test_what_is_no_file_among_the_parts(old: Callable[[str], Store], kind: str) -> None:
    store = old("merged")
    path = store.path / "parts" / f"0-{9:020d}-crc00000000.parquet"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere" if kind == "dangling" else path.name)
    assert seeds(store) == [0, 1, 2, 3]
    assert list(store.dropped) == [path.name]


def written(path: Path, name: str, value: Any, kind: pa.DataType | None) -> Path:
    """A copy of a part of one row with one other column, and the right checksum."""
    table = pq.read_table(path)
    column = pa.array([value], type=kind or table.schema.field(name).type)
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(table.column_names.index(name), name, column), sink)
    content = sink.getvalue().to_pybytes()
    copy = path.with_name(f"0-{7:020d}-crc{zlib.crc32(content):08x}.parquet")
    copy.write_bytes(content)
    return copy


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("seed", "1", pa.string()),
        ("cell", None, None),
        ("status", "fine", None),
        ("accuracy", None, None),
        ("accuracy", float("nan"), None),
        ("base_params", 0, None),
        ("started", 2**62, None),
        ("started", None, None),
        ("started", "2026", pa.string()),
        ("densities", "[1, 2]", None),
        ("densities", "{", None),
        ("densities", None, None),
        ("widths", '{"a": [1]}', None),
        ("args", "[" * 100_000, None),
        ("recipe", 1.5, pa.float64()),
        ("history", None, None),
    ],
)
def test_a_part_of_no_sense(
    old: Callable[[str], Store], name: str, value: Any, kind: pa.DataType | None
) -> None:
    """It has its checksum; the others are read, and its cells are not done."""
    store = old("merged")
    single = parts(store)[1]
    odd = written(single, name, value, kind)
    single.unlink()
    assert seeds(store) == [0, 1, 2]
    assert list(store.dropped) == [odd.name]
    assert store.dropped[odd.name].isprintable()
    assert sum(tally["done"] for tally in store.tally().values()) == 3


@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize(("rows", "epochs"), [(50, 2_000), (1_500, 0)])
def test_a_part_that_grows_when_it_is_read(
    old: Callable[[str], Store],
    rows: int,
    epochs: int,
    dictionary: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One row many times, in few bytes."""
    monkeypatch.setattr(module, "ALLOWED", 1 << 20)
    store = old("merged")
    single = parts(store)[1]
    table = pq.read_table(single).slice(0, 1)
    if epochs:
        history = pa.array([json.dumps([{"epoch": 1.0, "seconds": 0.5, "accuracy": 0.5}] * epochs)])
        table = table.set_column(table.column_names.index("history"), "history", history)
    made = single.with_name("0-1-1.parquet")
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": dictionary}
    pq.write_table(pa.concat_tables([table] * rows).combine_chunks(), made, **options)
    assert made.stat().st_size < 40_000
    assert seeds(store) == [0, 1, 2, 3]
    assert store.dropped == {made.name: "it is packed more tightly than rows of a study ever are"}


@pytest.mark.parametrize("text", ["{", "1", "[" * 100_000])
def test_a_history_of_no_sense_in_a_part(old: Callable[[str], Store], text: str) -> None:
    store = old("merged")
    single = parts(store)[1]
    written(single, "history", text, None)
    single.unlink()
    with pytest.raises(PrecropError, match="the history of cell .* is not a list of epochs"):
        len(store.rows()[3].history)


def test_columns_are_those_of_rows() -> None:
    for path in STORES.glob("*/parts/*.parquet"):
        assert [*pq.read_schema(path).names, "code"] == list(FIELDS)  # which rows have since
