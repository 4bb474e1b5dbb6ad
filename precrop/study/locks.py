"""Locks: files that one process at a time claims, and that are free again when it ends.

They are locks of `filelock` whose files are removed while they are held, so that none stay in a
store's folder. That is safe from version 4 on, in which a lock on a removed file does not count.
"""

from contextlib import AbstractContextManager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from precrop.errors import errors_as
from precrop.files import refuse_link


class Lock(AbstractContextManager["Lock"]):
    """A claimed file: `take` claims it, `release` or the end of the process frees it."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    @classmethod
    def take(cls, path: Path) -> "Lock | None":
        """Lock a file; return None if another process, or another part of this one, has it.

        Raises:
            PrecropError: the file cannot be created, or its folder is a link.
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
        """Remove the file and free the lock; a file that is not empty was no lock, and stays."""
        path = Path(self._lock.lock_file)
        with suppress(OSError):  # it is gone, or Windows removes no open file
            if not path.stat().st_size:
                path.unlink()
        self._lock.release()

    def __exit__(self, *error: object) -> None:
        self.release()


def is_claimed(path: Path) -> bool:
    """Whether someone has claimed a file; a file left by a killed process is removed."""
    if not path.exists():
        return False
    claim = Lock.take(path)
    if claim is None:
        return True
    claim.release()
    return False
