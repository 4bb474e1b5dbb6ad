"""A study's rows on disk: a folder in which every writing process has a file of its own.

A row is a line appended to such a file; nothing is ever changed, merged or locked. A killed process
or a full disk leaves at most the last line of a file incomplete: readers skip and report it, as
they do with damaged lines.
"""

import json
import os
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from precrop.errors import MALFORMED, PrecropError, errors_as, reason
from precrop.files import open_own, open_plain, read_json, sync, write_text
from precrop.study.rows import FIELDS, Row, from_line, to_line, why_not_read

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

_MARK, _FILES = "store.json", "rows-*.jsonl"
_PARTS, _OLD_FILES = "parts", "*.parquet"
_SCHEMA, _READ = 2, (1, 2)
"""Stores of schema 1 had only parts."""
_BUFFER = 1 << 20
_LONGEST = 1 << 24
"""Most bytes of a line; one with 1,000 epochs has about 250 kB."""


class Store:
    """The rows in a folder; `open` returns one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own: Path | None = None
        self._files: dict[str, _File] = {}

    @classmethod
    def open(cls, path: str | Path, create: bool = False) -> "Store":
        """Return the store in a folder; ``create`` makes an empty one where there is none yet.

        Raises:
            PrecropError: the folder is not a store, or has another schema.
        """
        path = Path(path)
        mark = path / _MARK
        if create and not mark.is_file():
            _create(path)
        if not path.exists():
            raise PrecropError(f"there is no store {path} yet: `precrop study run` makes it")
        if not mark.is_file():
            raise PrecropError(f"{path} is not a store of a study: there is no {_MARK} in it")
        _check_schema(mark)
        return cls(path)

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows; they are on the disk when this returns.

        Raises:
            PrecropError: the store cannot be written.
        """
        if not rows:
            return
        # After a failed write another file is started, as the end of this one may be torn.
        path, self._own = self._own, None
        with errors_as(f"cannot write to the store {self.path}", OSError):
            path = path or self._new_file()
            with os.fdopen(open_own(path, os.O_WRONLY | os.O_APPEND), "ab") as file:
                file.write(b"".join(map(to_line, rows)))
                file.flush()
                os.fsync(file.fileno())
        self._own = path

    def rows(self) -> list[Row]:
        """Return one row per cell, in the order in which they ended.

        Of several rows it is the first that is done, or else the last that failed.
        """
        chosen: dict[str, Row] = {}
        for row in sorted(self._all(), key=lambda row: (row.ended, row.started)):
            kept = chosen.get(row.cell)
            if kept is None or kept.status == "failed":
                chosen.pop(row.cell, None)
                chosen[row.cell] = row
        return list(chosen.values())

    def frame(self) -> "pd.DataFrame":
        """Return `rows` as a table with a column per field; nested fields are Python objects."""
        import pandas as pd

        rows = self.rows()
        return pd.DataFrame({name: [getattr(row, name) for row in rows] for name in FIELDS})

    def tally(self) -> dict[str, Counter[str]]:
        """Count for each cell how often it was ``done`` and how often it ``failed``."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for row in self._all():
            found[row.cell][row.status] += 1
        return found

    @property
    def dropped(self) -> dict[str, str]:
        """Lines and files that the last reading could not read, each with the reason."""
        found = dict(self._old[1])
        for name, file in self._files.items():
            found |= {f"{name}{place}": why for place, why in file.dropped.items()}
        return found

    def _all(self) -> Iterator[Row]:
        """Yield every row, those of each file in the order in which they were written."""
        yield from self._old[0]
        for path in sorted(self.path.glob(_FILES)):
            file = self._files.setdefault(path.name, _File(path))
            file.read_on()
            yield from file.rows

    @cached_property
    def _old(self) -> tuple[list[Row], dict[str, str]]:
        """The rows of older versions, and why parts cannot be read; no part is written any more."""
        folder = self.path / _PARTS
        if not any(folder.glob(_OLD_FILES)):
            return [], {}
        from precrop.study.parts import read_parts

        return read_parts(folder)

    def _new_file(self) -> Path:
        _write_mark(self.path)  # versions that only read parts refuse the store from now on
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"
        path = self.path / _FILES.replace("*", name)
        os.close(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        sync(self.path)
        return path


@dataclass
class _File:
    """What has been read so far of a file that a process may still append to."""

    path: Path
    rows: list[Row] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    _end: int = 0
    _lines: int = 0

    def read_on(self) -> None:
        """Read the lines appended since the last call."""
        try:
            with open_plain(self.path, _BUFFER) as file:
                file.seek(self._end)
                while line := file.readline(_LONGEST):
                    place = f", line {self._lines + 1}"
                    if not line.endswith(b"\n"):  # it is read again next time
                        torn = "it was not written to its end, or is being written"
                        self.dropped[place] = torn if len(line) < _LONGEST else "it is too long"
                        break
                    self.dropped.pop(place, None)
                    self._take(line, place)
        except OSError as error:
            self.dropped[""] = reason(error)

    def _take(self, line: bytes, place: str) -> None:
        try:
            self.rows.append(from_line(line, partial(_slice, self.path, self._end)))
        except ValueError as error:
            self.dropped[place] = why_not_read(error)
        self._end += len(line)
        self._lines += 1


def _slice(path: Path, line: int, start: int, size: int) -> bytes:
    with open_plain(path) as file:
        file.seek(line + start)
        return file.read(size)


def _create(path: Path) -> None:
    with errors_as(f"cannot make the store {path}", OSError):
        path.mkdir(parents=True, exist_ok=True)
        others = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
    if others and _MARK not in others:
        raise PrecropError(f"{path} is not empty and no store: name another folder")
    _write_mark(path)


def _write_mark(path: Path) -> None:
    write_text(path / _MARK, json.dumps({"schema": _SCHEMA}) + "\n")


def _check_schema(mark: Path) -> None:
    with errors_as(f"{mark} is broken, it does not say the store's schema", *MALFORMED):
        schema = read_json(mark)["schema"]
    if schema not in _READ:
        raise PrecropError(
            f"the store {mark.parent} has schema {schema}, this precrop reads {_SCHEMA}: "
            "use the version that wrote it, or another folder"
        )
