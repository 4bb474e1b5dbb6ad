"""Claims: files that one process at a time holds, and that are free again when it ends.

`filelock` holds files alike, but does not keep a store's folder free of them: version 4 leaves a
file behind at release and warns of removing it, 3.21 removed it, and before that two processes
could hold it once it was removed. Here it is removed while it is held, and then held by one.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from precrop.errors import PrecropError
from precrop.files import open_own


class Claim:
    """A claimed file. `take` gives it, `release` or the end of the process ends it.

    Args:
        path: the file.
        file: the open file that holds the lock.
    """

    def __init__(self, path: Path, file: IO[str]) -> None:
        self._path, self._file = path, file

    @classmethod
    def take(cls, path: Path) -> "Claim | None":
        """Claim a file, or None if another process, or another part of this one, has it.

        Raises:
            PrecropError: the file cannot be made.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                file = os.fdopen(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a")
                if not _lock(file):
                    file.close()
                    return None
                if _is_still(file, path):
                    return cls(path, file)
                file.close()
        except OSError as error:
            raise PrecropError(f"cannot make the lock {path}: {error.strerror}") from error

    def release(self) -> None:
        """Give the file up, and remove it."""
        self._path.unlink(missing_ok=True)
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def is_claimed(path: Path) -> bool:
    """Whether someone has claimed a file. A file that a killed process left is removed."""
    if not path.exists():
        return False
    claim = Claim.take(path)
    if claim is None:
        return True
    claim.release()
    return False


def _lock(file: IO[str]) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows has none: there, two processes must not share a store
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is_still(file: IO[str], path: Path) -> bool:
    """Whether ``path`` is the open file: its last holder may have removed it since."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
