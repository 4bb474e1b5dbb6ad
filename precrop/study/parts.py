"""Rows of older stores, which were Parquet files called parts.

A part that was merged from others replaces them: those are left out, also if the merge was cut
short before it removed them.
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

_COLUMNS = tuple(name for name in FIELDS if name != "code")  # added after the last part
_NESTED = ("args", "recipe", "densities", "widths", "versions")
"""Columns that hold JSON, as the history does."""
_TIMES = ("started", "ended")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHECKED = re.compile(r"-crc([0-9a-f]{8})\.parquet$")
"""Matches the checksum at the end of a part's name; the first versions wrote none."""
_TIMES_LARGER, ALLOWED, _ROW = 100, 1 << 24, 1 << 10
"""Limits for a part's rows, as a small file may repeat one text a million times: a multiple of its
size, the bytes that any part may have, and the bytes that a row counts without its texts.
"""


def read_parts(folder: Path) -> tuple[list[Row], dict[str, str]]:
    """Return all rows, each once, and the parts that cannot be read, each with the reason."""
    names = None
    while names != (names := _names(folder)):  # an older version may be merging parts
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
    """Read one part: the names of the parts that it replaces, and its rows."""
    with open_plain(path) as opened:
        content = opened.read()
    checked = _CHECKED.search(path.name)
    if checked is not None and int(checked[1], 16) != zlib.crc32(content):
        raise ValueError("its content is not what was written: the checksum in its name differs")
    # If a thread of Arrow's frees Python's bytes while the interpreter ends, it aborts the
    # process (apache/arrow issue 34314), so no thread gets them.
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
    """Return the value of a column in a batch of one row."""
    if name not in _TIMES:
        return row.column(name)[0].as_py()
    time = row.column(name).cast(pa.timestamp("us", tz="UTC"))
    microseconds = time.cast(pa.int64())[0].as_py()  # Arrow's own times need a time zone database
    return _EPOCH + timedelta(microseconds=microseconds)


def _row(values: dict[str, Any]) -> Row:
    history = values.pop("history").encode()
    values |= {name: json.loads(values[name]) for name in _NESTED}
    return from_json(json.dumps(values, default=str).encode(), lambda: history)
