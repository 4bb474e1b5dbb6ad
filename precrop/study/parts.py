"""Rows of older stores, which were Parquet files called parts, beside what is written today.

A part may stand for others, which it was merged from: those are left out, also where a merge was
cut short.
"""

import json
import re
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from precrop.files import open_plain
from precrop.study.rows import FIELDS, Row, from_json, why_not_read

_NESTED = ("args", "recipe", "densities", "widths", "versions")
"""Columns of JSON, as is the history."""
_TIMES = ("started", "ended")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHECKED = re.compile(r"-crc([0-9a-f]{8})\.parquet$")
"""Ends a part's name with its checksum; the first versions wrote none."""
_MOST_ROWS = 1_000_000
_WRONG = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""What comes of making rows of something else."""


@dataclass(frozen=True)
class _Part:
    replaces: frozenset[str]
    rows: tuple[Row, ...]


def read_parts(folder: Path) -> tuple[list[Row], dict[str, str]]:
    """All rows, each once, and the parts that cannot be read, each with the reason."""
    names = None
    while names != (names := _names(folder)):  # an older version may merge parts in the meantime
        parts: dict[str, _Part] = {}
        dropped: dict[str, str] = {}
        for name in names:
            try:
                parts[name] = read_part(folder / name)
            except (pa.ArrowException, OSError, *_WRONG) as error:
                dropped[name] = why_not_read(error)
    replaced = {name for part in parts.values() for name in part.replaces}
    return [row for name in parts if name not in replaced for row in parts[name].rows], dropped


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.parquet") if path.name[0] != ".")


def read_part(path: Path) -> _Part:
    """One part, as its file has it."""
    with open_plain(path) as opened:
        content = opened.read()
    checked = _CHECKED.search(path.name)
    if checked is not None and int(checked[1], 16) != zlib.crc32(content):
        raise ValueError("its content is not what was written: the checksum in its name differs")
    # A thread of Arrow's that lets go of Python's bytes while the interpreter ends aborts the
    # process (apache/arrow issue 34314), so none gets hold of them.
    file = pq.ParquetFile(pa.BufferReader(content))
    if sorted(file.schema_arrow.names) != sorted(FIELDS):
        raise ValueError("its columns are not those of a study's rows")
    if file.metadata.num_rows > _MOST_ROWS:
        raise ValueError(f"it says that it has {file.metadata.num_rows:,} rows")
    replaces = json.loads((file.schema_arrow.metadata or {}).get(b"replaces", b"[]"))
    table = file.read(use_threads=False)
    columns = [_values(table, name) for name in FIELDS]
    rows = [_row(dict(zip(FIELDS, each, strict=True))) for each in zip(*columns, strict=True)]
    return _Part(frozenset(replaces), tuple(rows))


def _values(table: pa.Table, name: str) -> list[Any]:
    if name not in _TIMES:
        values: list[Any] = table.column(name).to_pylist()
        return values
    times = table.column(name).cast(pa.timestamp("us", tz="UTC"))
    microseconds = times.cast(pa.int64()).to_pylist()  # Arrow's own times need a list of zones
    return [_EPOCH + timedelta(microseconds=count) for count in microseconds]


def _row(values: dict[str, Any]) -> Row:
    history = values.pop("history").encode()
    values |= {name: json.loads(values[name]) for name in _NESTED}
    return from_json(json.dumps(values, default=str).encode(), lambda: history)
