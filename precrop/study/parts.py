"""Rows of older stores, which were Parquet files called parts, beside what is written today.

A part may stand for others, which it was merged from: those are left out, also where a merge was
cut short.
"""

import json
import re
import zlib
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from precrop.errors import MALFORMED
from precrop.files import open_plain
from precrop.study.rows import FIELDS, Row, from_json, why_not_read

_COLUMNS = tuple(name for name in FIELDS if name != "code")  # which came after the last part
_NESTED = ("args", "recipe", "densities", "widths", "versions")
"""Columns of JSON, as is the history."""
_TIMES = ("started", "ended")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHECKED = re.compile(r"-crc([0-9a-f]{8})\.parquet$")
"""Ends a part's name with its checksum; the first versions wrote none."""
_TIMES_LARGER, ALLOWED, _ROW = 100, 1 << 24, 1 << 10
"""How many times larger than its file the rows of a part may be, bytes that any may have, and those
of a row without its texts: a file of some kilobytes may say one text a million times.
"""


def read_parts(folder: Path) -> tuple[list[Row], dict[str, str]]:
    """All rows, each once, and the parts that cannot be read, each with the reason."""
    names = None
    while names != (names := _names(folder)):  # an older version may merge parts in the meantime
        parts: dict[str, tuple[frozenset[str], list[Row]]] = {}
        dropped: dict[str, str] = {}
        for name in names:
            try:
                parts[name] = read_part(folder / name)
            except (pa.ArrowException, OSError, *MALFORMED) as error:
                dropped[name] = why_not_read(error)
    replaced = {name for replaces, _ in parts.values() for name in replaces}
    kept = (rows for name, (_, rows) in parts.items() if name not in replaced)
    return list(chain.from_iterable(kept)), dropped


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.parquet") if path.name[0] != ".")


def read_part(path: Path) -> tuple[frozenset[str], list[Row]]:
    """One part as its file has it: the parts that it stands for, and its rows."""
    with open_plain(path) as opened:
        content = opened.read()
    checked = _CHECKED.search(path.name)
    if checked is not None and int(checked[1], 16) != zlib.crc32(content):
        raise ValueError("its content is not what was written: the checksum in its name differs")
    # A thread of Arrow's that lets go of Python's bytes while the interpreter ends aborts the
    # process (apache/arrow issue 34314), so none gets hold of them.
    file = pq.ParquetFile(pa.BufferReader(content))
    if sorted(file.schema_arrow.names) != sorted(_COLUMNS):
        raise ValueError("its columns are not those of a study's rows")
    left = max(ALLOWED, _TIMES_LARGER * len(content))
    groups = (file.metadata.row_group(index) for index in range(file.metadata.num_row_groups))
    if sum(group.total_byte_size for group in groups) > left:
        raise ValueError("it is packed more tightly than rows of a study ever are")
    replaces = json.loads((file.schema_arrow.metadata or {}).get(b"replaces", b"[]"))
    rows = []
    for batch in file.iter_batches(batch_size=1, use_threads=False):
        values = {name: _value(batch, name) for name in _COLUMNS}
        left -= _ROW + sum(len(value) for value in values.values() if isinstance(value, str))
        if left < 0:
            raise ValueError("it is packed more tightly than rows of a study ever are")
        rows.append(_row(values))
    return frozenset(replaces), rows


def _value(row: pa.RecordBatch, name: str) -> Any:
    """What a batch of one row has in a column."""
    if name not in _TIMES:
        return row.column(name)[0].as_py()
    time = row.column(name).cast(pa.timestamp("us", tz="UTC"))
    microseconds = time.cast(pa.int64())[0].as_py()  # Arrow's own times need a list of zones
    return _EPOCH + timedelta(microseconds=microseconds)


def _row(values: dict[str, Any]) -> Row:
    history = values.pop("history").encode()
    values |= {name: json.loads(values[name]) for name in _NESTED}
    return from_json(json.dumps(values, default=str).encode(), lambda: history)
