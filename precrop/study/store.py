"""A study's rows on disk: a folder of Parquet parts that many processes may append to at once.

Every append is one part, moved to its place when it is whole. Now and then parts are merged into
one that names them; a reader leaves those out that another part names, so that it sees every row
once at any moment, also where merging was cut short. Rows are never changed or removed.

Histories are most of a store, and most readers never look at one: they are read when one is looked
at. So that a damaged one is found nevertheless when the store is opened, a part's name ends with
the checksum of its content.
"""

import contextlib
import json
import os
import re
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from precrop.errors import PrecropError
from precrop.files import open_plain, read_json, replacing, sync, write_text
from precrop.study.locks import Claim
from precrop.study.rows import FIELDS, NESTED, SCHEMA, Row

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

_MARK, _PARTS, _LOCK = "store.json", "parts", "merging.lock"
_TOGETHER = 32
"""Parts of a level that are merged into one of the next level."""
_REPLACES = b"replaces"
_CHECKED = re.compile(r"-crc([0-9a-f]{8})\.parquet$")
"""Ends the names of parts that can be checked; those of older stores have to be read as a whole."""
_LEFT_BEHIND = 3600.0
"""Seconds after which a temporary file belongs to no process that still writes it."""

_TEXT = (
    *("study", "cell", "run", "network", "variant", "kind", "method", "granularity"),
    *("data", "data_digest", "status", "error", "device", *NESTED),
)
_WHOLE = ("seed", "params", "macs", "base_params", "base_macs")
_TIMES = ("started", "ended")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_IDENTITY = ("cell", "started", "ended")
"""Tells a row from all others, in whatever part it is."""


def _type(name: str) -> pa.DataType:
    if name in _TEXT:
        return pa.string()
    if name in _WHOLE:
        return pa.int64()
    return pa.timestamp("us", tz="UTC") if name in _TIMES else pa.float64()


_COLUMNS = pa.schema([(name, _type(name)) for name in FIELDS])
_SHORT = tuple(name for name in FIELDS if name != "history")
_PLAIN = tuple(name for name in FIELDS if name not in NESTED)
_FIGURES = ("accuracy", "best_accuracy", "loss", "params", "macs", "base_params", "base_macs")
"""Fields that every finished row has."""
_SOMETIMES = ("run", "error", "asked_params", "asked_macs", "history", *_FIGURES)
_ALWAYS = tuple(name for name in _PLAIN if name not in _SOMETIMES)
_KINDS = ("dense", "cropped", "masked")
_END = datetime(3000, 1, 1, tzinfo=UTC)
_MOST_ROWS = 1_000_000
_UNTOLD = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RecursionError,
)
"""What comes of making rows of what is none."""


class _MovedError(Exception):
    """A part is not there any more: it was merged into another one."""


@dataclass
class Tally:
    """How often a cell was run."""

    done: int = 0
    failed: int = 0


@dataclass(frozen=True)
class _Part:
    """What is known of a part without its rows."""

    replaces: frozenset[str]
    cells: tuple[str, ...]
    statuses: tuple[str, ...]


class Store:
    """Rows that were appended to a folder; `open` gives one.

    Attributes:
        path: the folder.
        dropped: parts that cannot be read, each with the reason; known after a first read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dropped: dict[str, str] = {}
        self._known: dict[str, _Part] = {}

    @classmethod
    def open(cls, path: Path, create: bool = False) -> "Store":
        """The store in a folder.

        Args:
            path: the folder.
            create: make an empty store where there is nothing yet.

        Raises:
            PrecropError: the folder is no store, or one of another schema.
        """
        mark = path / _MARK
        if create and not mark.is_file():
            _create(path)
        if not mark.is_file():
            raise PrecropError(f"{path} is not a store of a study: there is no {_MARK} in it")
        _check_schema(mark)
        return cls(path)

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows, all of them or none.

        Raises:
            PrecropError: the store cannot be written.
        """
        if not rows:
            return
        table = pa.Table.from_pylist([_to_columns(row) for row in rows], schema=_COLUMNS)
        self._write(table, 0, ())
        self._merge()

    def rows(self) -> list[Row]:
        """One row per cell, in the order in which they ended.

        Of several the first that is done; where none is, the last that failed.
        """
        while True:
            tables = self._tables(_SHORT)
            table = _joined(tables.values(), _SHORT)
            try:
                return _to_rows(table, _one_per_cell(table), Histories(self))
            except _UNTOLD:
                if not self._drop_untold(tables):
                    raise

    def frame(self) -> "pd.DataFrame":
        """`rows` as a table with a column per field; nested fields are Python objects."""
        import pandas as pd

        rows = self.rows()
        return pd.DataFrame({name: [getattr(row, name) for row in rows] for name in FIELDS})

    def tally(self) -> dict[str, Tally]:
        """How often each cell was run."""
        found: dict[str, Tally] = {}
        for name in self._live():
            part = self._known[name]
            for cell, status in zip(part.cells, part.statuses, strict=True):
                tally = found.setdefault(cell, Tally())
                if status == "done":
                    tally.done += 1
                else:
                    tally.failed += 1
        return found

    def done(self) -> set[str]:
        """The cells that were run without failing."""
        return {cell for cell, tally in self.tally().items() if tally.done}

    # Reading.

    def _table(self, columns: Sequence[str] = FIELDS) -> pa.Table:
        """Some columns of all rows."""
        return _joined(self._tables(columns).values(), columns)

    def _tables(self, columns: Sequence[str]) -> dict[str, pa.Table]:
        """Some columns of every part, without those of a part that is damaged anywhere."""
        while True:
            # A part may be merged and removed before it is read: then it is elsewhere.
            with contextlib.suppress(_MovedError):
                tables = {name: self._read(name, columns) for name in self._live()}
                return {name: table for name, table in tables.items() if table is not None}

    def _read(self, name: str, columns: Sequence[str] = FIELDS) -> pa.Table | None:
        table: pa.Table | None = None
        with self._dropping(name):
            table = _part_file(self._parts / name).read(list(columns), use_threads=False)
        return table  # noqa: RET504 - a damaged part leaves it None

    @contextlib.contextmanager
    def _dropping(self, name: str) -> Iterator[None]:
        """Leave a part out that cannot be read in the meantime.

        Raises:
            _MovedError: it is not there any more.
        """
        try:
            yield
        except (pa.ArrowException, OSError, *_UNTOLD) as error:
            # A link that leads nowhere is listed for ever, what was merged away no longer.
            if isinstance(error, FileNotFoundError) and not os.path.lexists(self._parts / name):
                raise _MovedError from error
            self._drop(name, _reason(error))

    def _drop(self, name: str, reason: str) -> None:
        self.dropped[name] = reason
        self._known.pop(name, None)

    def _drop_untold(self, tables: Mapping[str, pa.Table]) -> bool:
        """Leave parts out whose rows cannot be made sense of; whether there were any."""
        before = len(self.dropped)
        for name, table in tables.items():
            try:
                _to_rows(table, range(table.num_rows), Histories(self))
            except _UNTOLD as error:
                self._drop(name, f"a row in it cannot be read: {_reason(error)}")
        return len(self.dropped) > before

    def _live(self) -> list[str]:
        """Names of the parts that no other part stands for, oldest first."""
        while True:
            with contextlib.suppress(_MovedError):
                names = self._listed()
                for name in names:
                    self._look(name)
                replaced = self._replaced(names)
                return [n for n in names if n in self._known and n not in replaced]

    def _look(self, name: str) -> None:
        if name in self._known or name in self.dropped:
            return
        with self._dropping(name):
            self._known[name] = _looked_at(self._parts / name)

    def _replaced(self, names: Iterable[str]) -> set[str]:
        return {old for n in names if n in self._known for old in self._known[n].replaces}

    def _listed(self) -> list[str]:
        """Names of the parts in the folder.

        A folder that changes while it is listed can hide what was moved into it together with what
        was removed for that: it is listed until it looks the same twice.
        """
        found = _names(self._parts)
        while (again := _names(self._parts)) != found:
            found = again
        return found

    @property
    def _parts(self) -> Path:
        return self.path / _PARTS

    # Writing.

    def _write(self, table: pa.Table, level: int, replaces: Sequence[str]) -> None:
        content = _parquet(table, {_REPLACES: json.dumps(list(replaces)).encode()})
        name = f"{level}-{time.time_ns():020d}-crc{zlib.crc32(content):08x}.parquet"
        try:
            self._parts.mkdir(exist_ok=True)
            with replacing(self._parts / name) as temporary:
                temporary.write_bytes(content)
                sync(temporary)
            sync(self._parts)
        except OSError as error:
            raise PrecropError(
                f"cannot write to the store {self.path}: {_reason(error)}"
            ) from error

    def _merge(self) -> None:
        """Merge parts where there are many, unless another process is at it."""
        if len(_names(self._parts)) < _TOGETHER:
            return
        claim = Claim.take(self.path / _LOCK)
        if claim is None:
            return
        with claim:
            self._tidy()
            for level in range(8):
                names = [n for n in self._live() if n.startswith(f"{level}-")]
                if len(names) >= _TOGETHER:
                    self._merge_into(names, level + 1)

    def _merge_into(self, names: Sequence[str], level: int) -> None:
        tables = {name: self._read(name) for name in names}
        whole = {name: table for name, table in tables.items() if table is not None}
        if whole:
            self._write(pa.concat_tables(list(whole.values())), level, list(whole))
            self._remove(whole)

    def _tidy(self) -> None:
        """Remove what a merge or an append that was cut short left behind."""
        self._live()
        names = _names(self._parts)
        replaced = self._replaced(names)
        self._remove(name for name in names if name in replaced)
        for path in self._parts.glob(".*.parquet.*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFT_BEHIND:
                    path.unlink()

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self._parts / name).unlink(missing_ok=True)


def _create(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        others = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
        if others and _MARK not in others:
            raise PrecropError(f"{path} is not empty and no store: name another folder")
        write_text(path / _MARK, json.dumps({"schema": SCHEMA}) + "\n")
        (path / _PARTS).mkdir(exist_ok=True)
    except OSError as error:
        raise PrecropError(f"cannot make the store {path}: {error.strerror}") from error


def _check_schema(mark: Path) -> None:
    try:
        schema = read_json(mark)["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise PrecropError(f"{mark} is broken: it does not say the store's schema") from error
    if schema != SCHEMA:
        raise PrecropError(
            f"the store {mark.parent} has schema {schema}, this precrop reads {SCHEMA}: "
            "use the version that wrote it, or another folder"
        )


def _names(parts: Path) -> list[str]:
    try:
        entries = os.listdir(parts)  # noqa: PTH208 - names alone
    except FileNotFoundError:
        return []
    return sorted(n for n in entries if n.endswith(".parquet") and not n.startswith("."))


def _looked_at(path: Path) -> _Part:
    """What is known of a part, once all of it is seen to be sound.

    Raises:
        ValueError: it is not what was written, or not what a store has.
    """
    file = _part_file(path)
    replaces = json.loads((file.schema_arrow.metadata or {}).get(_REPLACES, b"[]"))
    if not isinstance(replaces, list) or not all(isinstance(name, str) for name in replaces):
        raise ValueError("what it replaces is not a list of names")
    whole = _CHECKED.search(path.name) is None
    table = file.read(None if whole else list(_PLAIN), use_threads=False)
    _check_values(table)
    cells, statuses = (table.column(name).to_pylist() for name in ("cell", "status"))
    return _Part(frozenset(replaces), tuple(cells), tuple(statuses))


def _part_file(path: Path) -> pq.ParquetFile:
    """A part whose content has its checksum and whose columns are those of rows.

    Raises:
        ValueError: it has not.
    """
    with open_plain(path) as opened:
        content = opened.read()
    checked = _CHECKED.search(path.name)
    if checked is not None and int(checked[1], 16) != zlib.crc32(content):
        raise ValueError("its content is not what was written: the checksum in its name differs")
    # A thread of Arrow's that lets go of Python's bytes while the interpreter ends aborts the
    # process (apache/arrow issue 34314), so none gets hold of them.
    file = pq.ParquetFile(pa.BufferReader(content))
    if not file.schema_arrow.remove_metadata().equals(_COLUMNS):
        raise ValueError("its columns are not those of a study's rows")
    if file.metadata.num_rows > _MOST_ROWS:
        raise ValueError(f"it says that it has {file.metadata.num_rows:,} rows")
    return file


def _check_values(table: pa.Table) -> None:
    """Refuse rows that no study has.

    Raises:
        ValueError: a field is empty that all rows have, or a number is none.
    """
    done = pc.equal(table.column("status"), "done")
    failed = pc.equal(table.column("status"), "failed")
    if not _all(pc.or_(done, failed)):
        raise ValueError("a row is neither done nor failed")
    if not _all(pc.is_in(table.column("kind"), pa.array(_KINDS))):
        raise ValueError(f"a row's kind is not one of {', '.join(_KINDS)}")
    for name in _ALWAYS:
        if table.column(name).null_count:
            raise ValueError(f"a row has no {name}")
    finished = table.filter(done)
    for name in _FIGURES:
        values = finished.column(name)
        least = 1 if name in _WHOLE else 0
        if values.null_count or not _all(
            pc.and_(pc.is_finite(values), pc.greater_equal(values, least))
        ):
            raise ValueError(f"a finished row has no {name}")
    for name in ("asked_params", "asked_macs", "seconds", "overhead"):
        if not _all(pc.is_finite(table.column(name).drop_null())):
            raise ValueError(f"{name} of a row is not a number")
    for name in _TIMES:
        times = table.column(name)
        if not _all(pc.and_(pc.greater(times, _EPOCH), pc.less(times, _END))):
            raise ValueError(f"a row {name} at no time of ours")


def _all(values: pa.ChunkedArray) -> bool:
    """Whether all are true, and none is unknown."""
    return not values.null_count and pc.all(values, min_count=0).as_py() is True


def _parquet(table: pa.Table, metadata: Mapping[bytes, bytes]) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    return sink.getvalue()


def _joined(tables: Iterable[pa.Table], columns: Sequence[str]) -> pa.Table:
    return pa.concat_tables([_COLUMNS.empty_table().select(columns), *tables])


def _one_per_cell(table: pa.Table) -> list[int]:
    """Which rows stand for their cells, in the order in which they ended."""
    keys = [(name, "ascending") for name in ("ended", "started")]
    order = pc.sort_indices(table, sort_keys=keys).to_pylist()
    cells, statuses = (table.column(name).to_pylist() for name in ("cell", "status"))
    chosen: dict[str, int] = {}
    for place, index in enumerate(order):
        kept = chosen.get(cells[index])
        if kept is None or statuses[order[kept]] == "failed":
            chosen[cells[index]] = place
    return [order[place] for place in sorted(chosen.values())]


def _to_columns(row: Row) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in FIELDS}
    values["history"] = tuple(row.history)
    for name in NESTED:
        values[name] = json.dumps(values[name], default=str, separators=(",", ":"))
    return values


def _to_rows(table: pa.Table, chosen: Sequence[int], histories: "Histories") -> list[Row]:
    # Rows are chosen from lists: `take` needs an array, and to make one pyarrow imports pandas.
    columns = {name: _picked(_values(table, name), chosen) for name in table.column_names}
    columns["history"] = [History(histories, key) for key in _identities(columns)]
    for name in NESTED:
        if name != "history":
            columns[name] = _decoded(columns[name])
    columns["widths"] = [
        {n: (int(w[0]), int(w[1])) for n, w in each.items()} for each in columns["widths"]
    ]
    _check_nested(columns)
    values = zip(*(columns[name] for name in FIELDS), strict=True)
    return [Row(*each) for each in values]


def _check_nested(columns: Mapping[str, Sequence[Any]]) -> None:
    """Refuse what is not as `Row` has it.

    Raises:
        TypeError: naming the field.
    """
    kinds: Mapping[str, Any] = {
        "args": object,
        "recipe": object,
        "versions": str,
        "densities": (int, float),
        "widths": tuple,
    }
    for name, kind in kinds.items():
        for mapping in {id(each): each for each in columns[name]}.values():
            if not isinstance(mapping, dict):
                raise TypeError(f"{name} is not a mapping")
            if not all(isinstance(value, kind) for value in mapping.values()):
                raise TypeError(f"{name} has a value of a wrong type")


def _picked(values: Sequence[Any], chosen: Sequence[int]) -> list[Any]:
    return [values[index] for index in chosen]


def _values(table: pa.Table, name: str) -> list[Any]:
    if name in _TIMES:
        microseconds = table.column(name).cast(pa.int64()).to_pylist()
        return [_EPOCH + timedelta(microseconds=count) for count in microseconds]
    values: list[Any] = table.column(name).to_pylist()
    return values


def _identities(columns: Mapping[str, Sequence[Any]]) -> list[tuple[Any, ...]]:
    return list(zip(*(columns[name] for name in _IDENTITY), strict=True))


def _decoded(texts: Sequence[str]) -> list[Any]:
    """JSON of a column; rows that say the same share one object."""
    each = dict.fromkeys(texts)
    # As one text, since starting the decoder takes as long as what many rows say.
    known = dict(zip(each, json.loads(f"[{','.join(each)}]"), strict=True))
    return [known[text] for text in texts]


class Histories:
    """The histories of all rows of a store, read when the first one is looked at.

    Rows are found by what they are, not by where they were: parts are merged in the meantime.

    Args:
        store: where they are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @cached_property
    def _column(self) -> tuple[pa.ChunkedArray, dict[tuple[Any, ...], int]]:
        table = self._store._table((*_IDENTITY, "history"))
        columns = {name: _values(table, name) for name in _IDENTITY}
        places = {key: place for place, key in enumerate(_identities(columns))}
        return table.column("history"), places

    def text(self, key: tuple[Any, ...]) -> str:
        """A row's epochs as JSON.

        Raises:
            PrecropError: its part is gone, or was damaged after the store was opened.
        """
        column, places = self._column
        if key not in places:
            raise PrecropError(
                f"{self._store.path} has no history of cell {key[0]} any more: open it again"
            )
        return str(column[places[key]].as_py())


class History(Sequence[Mapping[str, float]]):
    """A run's epochs, read and decoded when they are looked at.

    Args:
        histories: of the store.
        key: of the row.
    """

    def __init__(self, histories: Histories, key: tuple[Any, ...]) -> None:
        self._histories, self._key = histories, key

    @cached_property
    def _epochs(self) -> tuple[Mapping[str, float], ...]:
        text = self._histories.text(self._key)
        try:
            epochs = json.loads(text)
            if all(type(value) in (int, float) for epoch in epochs for value in epoch.values()):
                return tuple(epochs)
        except (ValueError, TypeError, AttributeError, RecursionError):
            pass
        raise PrecropError(f"the history of cell {self._key[0]} is not a list of epochs")

    def __getitem__(self, place: Any) -> Any:
        return self._epochs[place]

    def __len__(self) -> int:
        return len(self._epochs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._epochs == tuple(other)

    def __repr__(self) -> str:
        return repr(self._epochs)

    def __reduce__(self) -> Any:
        return tuple, (self._epochs,)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())
