"""Locks: files that one process at a time claims, and that are free again when it ends.

They are locks of `filelock`, whose files are removed while they are held, so that a store's folder
keeps none of them. From version 4 on that is safe: a file that was removed is nobody's lock.
"""

from contextlib import AbstractContextManager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from precrop.errors import errors_as
from precrop.files import refuse_link


class Lock(AbstractContextManager["Lock"]):
    """A claimed file. `take` gives it, `release` or the end of the process ends it."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    @classmethod
    def take(cls, path: Path) -> "Lock | None":
        """Lock a file, or None if another process, or another part of this one, has it.

        Raises:
            PrecropError: the file cannot be made, or its folder is a link.
        """
        refuse_link(path.parent)
        lock = FileLock(path, timeout=0, thread_local=False)
        with errors_as(f"cannot make the lock {path}", OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout:
                return None
        return cls(lock)

    def release(self) -> None:
        """Give the file up, and remove it; one that is not empty was no lock, and stays."""
        path = Path(self._lock.lock_file)
        with suppress(OSError):  # it is gone, or Windows removes no open file
            if not path.stat().st_size:
                path.unlink()
        self._lock.release()

    def __exit__(self, *error: object) -> None:
        self.release()


def is_claimed(path: Path) -> bool:
    """Whether someone has claimed a file. A file that a killed process left is removed."""
    if not path.exists():
        return False
    claim = Lock.take(path)
    if claim is None:
        return True
    claim.release()
    return False
