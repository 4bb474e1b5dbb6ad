"""Files are written under a temporary name beside the target, then moved: never half written."""

import contextlib
import errno
import hashlib
import importlib.util
import json
import math
import os
import secrets
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import DEFAULT_BUFFER_SIZE, BufferedReader, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precrop.errors import PrecropError, brief, errors_as, needs, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LONGEST_NAME = 200
"""Characters of a name that a picture shows at most."""
_MOST = 1 << 25
"""Most bytes of a text file; the plan of a network of a thousand tensors has a hundredth of it."""
_LARGEST_WHOLE = 2**63
LARGEST = 1e39
"""A bound just beyond single precision; numbers below it have finite sums and squares."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path, which is moved onto ``path`` if the block ends without an error."""
    target = Path(path)
    temporary = _beside(target)
    try:
        with errors_as(f"cannot write {target}", OSError):
            yield temporary
            temporary.chmod(mode_for(target, 0o666))
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def mode_for(target: Path, new: int) -> int:
    """Return the permissions for a new ``target``: those of the old, else ``new`` less the umask.

    The umask applies to all threads and cannot be read without setting it; a new file reveals it.
    """
    with contextlib.suppress(OSError):
        return target.stat().st_mode & 0o777
    shown = target.parent / f".{target.name[:32]}.{secrets.token_hex(8)}"
    handle = os.open(shown, os.O_CREAT | os.O_EXCL | os.O_WRONLY, new)
    try:
        return os.fstat(handle).st_mode & 0o777
    finally:
        os.close(handle)
        shown.unlink()


def refuse_link(path: Path) -> None:
    """Refuse to write through a link in an untrusted folder, as it leads elsewhere."""
    if path.is_symlink():
        raise PrecropError(f"{path} is a link: nothing is written where it leads, remove it")


def refuse_links_out(folder: Path) -> None:
    """Refuse to write in a folder that is a link, or that has links to elsewhere in it."""
    refuse_link(folder)
    for path in folder.glob("*"):
        if not path.resolve().is_relative_to(folder.resolve()):
            refuse_link(path)


def _beside(target: Path) -> Path:
    """Create an empty file beside ``target``, which must not be a folder or special file."""
    with errors_as(f"cannot write {target}", OSError):
        if target.is_dir():
            raise PrecropError(f"cannot write {target}: it is a folder, name a file in it")
        if target.exists() and not target.is_file():
            raise PrecropError(f"cannot write {target}: it is not a plain file")
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:32]}.")
    os.close(handle)
    return Path(name)


def check_writable(path: str | Path) -> None:
    """Refuse a ``path`` that cannot be written, before long work whose result would be lost."""
    _beside(Path(path)).unlink()


def check_picture(path: str | Path) -> None:
    """Refuse a path at once that `save_picture` would refuse later."""
    if Path(path).suffix.lower() not in (".png", ".svg"):
        raise PrecropError(f"{path}: a picture is a .png or an .svg file")
    if importlib.util.find_spec("matplotlib") is None:
        raise PrecropError("matplotlib is not installed: pip install 'precrop[plot]'")
    check_writable(path)


def drawn_name(name: str) -> str:
    """Return a name as pictures show it: of bounded length, without control characters."""
    return printable(name[:_LONGEST_NAME])


def drawing() -> Any:
    """Return the library matplotlib.

    Raises:
        PrecropError: it is not installed, or rejects its settings, such as ``MPLBACKEND``.
    """
    with errors_as("matplotlib does not start", Exception), needs("a plot needs", "precrop[plot]"):
        import matplotlib.figure
    return matplotlib


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of this size in inches; `PrecropError` as for `drawing`."""
    made: Figure = drawing().figure.Figure(figsize=(width, height), layout="constrained")
    return made


def save_picture(figure: "Figure", path: str | Path, dpi: int = 160) -> None:
    """Write a figure in the format of the file's suffix, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lstrip(".").lower(), dpi=dpi)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that nothing half written stays behind.

    So does SIGHUP, which a terminal sends when it closes. Others' handlers stay, such as nohup's.
    """
    mine = threading.current_thread() is threading.main_thread()
    names = ("SIGTERM", "SIGHUP") if mine else ()
    found = [getattr(signal, name) for name in names if hasattr(signal, name)]
    ours = [number for number in found if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def open_own(path: Path, flags: int) -> int:
    """Open or create a plain file in a folder that may be untrusted, without following a link."""
    return _open(path, flags | getattr(os, "O_NOFOLLOW", 0))


def open_plain(path: Path, buffer: int = DEFAULT_BUFFER_SIZE) -> BufferedReader:
    """Open a plain file for reading; raise an `OSError` if it is none."""
    return BufferedReader(FileIO(_open(path, os.O_RDONLY)), buffer)


def checked_path(path: Path) -> Path:
    """Return the path of a plain file for a library to open; raise errors as `open_plain` does."""
    open_plain(path).close()
    return path


def _open(path: Path, flags: int) -> int:
    """Return a handle of a plain file; a pipe could make the reader wait forever."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        folder = "it is a folder: name a file in it"
        raise OSError(errno.EINVAL, folder if stat.S_ISDIR(mode) else "it is not a plain file")
    return handle


def read_text(path: Path, kind: str = "JSON") -> str:
    """Read the text of a plain file; ``kind`` is what messages call it.

    Raises:
        PrecropError: it is missing, too large, not a plain file, or not text.
    """
    with errors_as(f"cannot read {path}", OSError), open_plain(path) as file:
        raw = file.read(_MOST + 1)
    if len(raw) > _MOST:
        raise PrecropError(f"{path} is not {kind}: it has more than {_MOST >> 20} MiB")
    try:
        return raw.decode("utf-8-sig")  # editors on Windows write a byte order mark
    except UnicodeDecodeError as error:
        raise PrecropError(f"{path} is not {kind}: it is not text") from error


def read_json(path: Path, kind: str = "JSON") -> Any:
    """Read the content of a JSON file; ``kind`` is what messages call it.

    Raises:
        PrecropError: it is missing, or is not JSON.
    """
    text = read_text(path, kind)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise PrecropError(f"{path} is not {kind}: it is nested too deeply") from error
    except ValueError as error:
        raise PrecropError(f"{path} is not {kind}: {error}") from error


def read_parquet(file: Any, columns: Sequence[str], most: int) -> Any:
    """Read columns of a `pyarrow.parquet.ParquetFile` as a table.

    They are read a few rows at a time, since a kilobyte of Parquet can expand to gigabytes.

    Raises:
        ValueError: they take more than ``most`` bytes.
    """
    import pyarrow as pa  # type: ignore[import-untyped]

    groups = map(file.metadata.row_group, range(file.num_row_groups))
    parts = (group.column(k) for group in groups for k in range(group.num_columns))
    wanted = (part for part in parts if part.path_in_schema.split(".")[0] in columns)
    if sum(part.total_uncompressed_size for part in wanted) > most:
        raise ValueError(f"its pages take more than {most:,} bytes of memory")
    taken, batches = 0, []
    for batch in file.iter_batches(_ROWS, columns=list(columns)):
        taken += batch.nbytes + _BATCH_BYTES
        if taken > most:
            raise ValueError(f"its rows take more than {most:,} bytes of memory")
        batches.append(batch)
    return pa.Table.from_batches(batches, None if batches else file.schema_arrow)


_ROWS, _BATCH_BYTES = 16, 1024
"""Rows that are read together, and the bytes that Arrow takes for them besides their values."""


def finite(content: Any) -> Any:
    """Return ``content`` with None in place of NaN and infinite numbers, which JSON lacks."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content


def figures(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return numbers by name, with NaN in place of the nulls that `finite` put in JSON."""
    return {name: math.nan if value is None else value for name, value in fields.items()}


def is_sound(value: Any) -> bool:
    """Whether a number is finite and fits 64 bits, unlike some in JSON; True for other values."""
    return not isinstance(value, (int, float)) or abs(value) < _LARGEST_WHOLE


def is_figure(name: str, value: Any) -> bool:
    """Whether a value is a single-precision number; a diverged loss may be infinite or NaN."""
    if type(value) not in (int, float):
        return False
    return abs(value) < LARGEST or (name.endswith("loss") and not value < math.inf)


def figure(value: Any, least: float = 0.0, most: float = LARGEST) -> float:
    """Return a number from an untrusted file as a float; raise a `ValueError` if out of range."""
    if type(value) not in (int, float) or not least <= value <= most:
        raise ValueError(f"{brief(value)} is no such figure")
    return float(value)


def json_text(content: Any, **options: Any) -> str:
    """Return ``content`` as JSON that any reader accepts; ``options`` are those of `json.dumps`."""
    return json.dumps(finite(content), allow_nan=False, **options)


def digest_of(content: Any) -> str:
    """Return the SHA-256 of JSON content in hexadecimal digits, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a plain file in hexadecimal digits; errors are as for `open_plain`."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        # Some file systems cannot sync a folder; they write its entries at their own time.
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(handle)
    finally:
        os.close(handle)
