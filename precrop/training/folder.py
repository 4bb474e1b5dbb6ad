"""The folder of a run: its files, the run that they belong to, and who may write to them.

The folder may come from a stranger or be a copy of another run's: nothing is written through a
link, and files that belong to another run, or were changed after they were written, are refused.
"""

import dataclasses
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from torch import Tensor

from precrop.errors import PrecropError, brief, errors_as, reason
from precrop.files import (
    checked_path,
    digest_of,
    figures,
    finite,
    is_figure,
    json_text,
    read_json,
    refuse_link,
    replacing,
    write_text,
)
from precrop.plans.weights import load_tensors, save_tensors
from precrop.sources import changed
from precrop.training import checkpoints

LAST, BEST = "last", "best"
"""The names of a run's checkpoints."""
_RESULT, _MASKS, _LOCK = "result.json", "masks.safetensors", ".lock"
_CHUNK = 1 << 20
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP)
"""Errors of file systems without locks: there, nothing keeps other processes out."""
_LARGEST = {"accuracy": 1, "best_accuracy": 1, "params": 2**63, "macs": 2**63, "seconds": 1e9}
"""Upper bounds of a result's numbers. None of these is below 0, nor is the loss."""


@dataclass(frozen=True)
class Result:
    """The outcome of a run. Parameters and MACs are counted without masked weights."""

    run: str  # its id
    folder: Path  # where it is kept
    accuracy: float  # share of held-out images classified correctly after the last epoch
    best_accuracy: float  # the highest accuracy after any epoch
    loss: float  # mean loss of the held-out images after the last epoch
    params: int
    macs: int  # multiply-accumulates at batch 1
    seconds: float  # sum over its epochs, without interruptions
    history: tuple[Mapping[str, float], ...]  # per epoch learning rate, losses, accuracies, seconds
    code: Mapping[str, str] = field(default_factory=dict)  # the run's; empty in older results
    processes: int | None = None  # that trained it; None in older results
    finished: bool = False  # whether it had been trained before, and was only read now

    def to_json(self) -> dict[str, Any]:
        """Return all but the history in JSON's types, as ``precrop train --json`` prints it."""
        fields = dataclasses.asdict(self)
        del fields["history"], fields["finished"]
        for name in ("code", "processes"):
            if not fields[name]:
                del fields[name]
        return {**fields, "folder": str(self.folder)}


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Methods that read raise `PrecropError` if a file is broken, was changed, or is another run's.
    """

    path: Path
    run: str  # its id

    def begin(self, described: Mapping[str, Any]) -> bool:
        """Create the folder if needed, with a description of the run that it belongs to.

        Returns:
            Whether it is new.

        Raises:
            PrecropError: it is a link, cannot be created, or belongs to another run or other code.
        """
        refuse_link(self.path)
        new = not self.path.exists()
        with errors_as(f"cannot make the folder {self.path}", OSError):
            self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / "run.json"
        if file.is_file():
            begun = self._check(file, read_json(file))
            self.check_code(begun.get("code"), described.get("code", {}))
        else:
            write_text(file, json_text(described, indent=1) + "\n")
        return new

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from training in the folder at the same time.

        The lock is released when the process that holds it ends, however it ends.

        Raises:
            PrecropError: another process holds the lock, or it is no file that can be locked.
        """
        lock = self.path / _LOCK
        with ExitStack() as held:
            try:
                held.enter_context(FileLock(lock, timeout=0))
            except Timeout as error:
                raise PrecropError(f"another process is training in {self.path}") from error
            except OSError as error:
                if error.errno not in _WITHOUT_LOCKS:
                    raise PrecropError(f"cannot take the lock {lock}: {reason(error)}") from error
            yield

    def make_room(self, size: int) -> None:
        """Check that ``size`` bytes fit on the disk, by writing and removing them.

        Checkpoints left incomplete by runs that were killed are removed first.

        Raises:
            PrecropError: the disk is full, or the folder is not writable.
        """
        for path in self.path.glob(".*"):
            if path.is_dir() and path.name.startswith((f".{LAST}.", f".{BEST}.")):
                shutil.rmtree(path, ignore_errors=True)
        failure = f"cannot write {size / 1e6:.1f} MB for checkpoints in {self.path}"
        with errors_as(failure, OSError), tempfile.TemporaryFile(dir=self.path) as file:
            for start in range(0, size, _CHUNK):
                file.write(bytes(min(_CHUNK, size - start)))
            file.flush()
            os.fsync(file.fileno())

    def last(self) -> tuple[Path, int, int | None] | None:
        """Return the last checkpoint, its step and its number of processes; None if there is none.

        The best checkpoint is checked, too.
        """
        found = {}
        for name in (BEST, LAST):
            if (path := checkpoints.stored(self.path / name)) is not None:
                content = checkpoints.described(path)
                run = self._check(path, content.get("run"))
                found[name] = path, content["step"], run.get("processes")
        return found.get(LAST)

    def masks(self) -> dict[str, Tensor] | None:
        """Return the masks that `keep_masks` wrote, or None."""
        path = self.path / _MASKS
        if not path.is_file():
            return None
        masks = load_tensors(path)
        with safe_open(checked_path(path), framework="pt") as file:
            known = file.metadata() or {}
        if known.get("digest") != _digest(masks):
            raise PrecropError(f"{path} was changed after it was written: remove its folder")
        self._check(path, known.get("run", self.run))  # older files do not say it
        return masks

    def keep_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Write the run's masks, completely or not at all."""
        with replacing(self.path / _MASKS) as temporary:
            save_tensors(masks, temporary, {"digest": _digest(masks), "run": self.run})

    def result(self) -> Result | None:
        """Return the result that `keep_result` wrote, or None if the run is not finished."""
        path = self.path / _RESULT
        if not path.is_file():
            return None
        content = read_json(path)
        try:
            digest = content.pop("digest", None)
            if digest is not None and digest != digest_of(content):
                raise PrecropError(
                    f"{path} was changed after it was written: remove it to train on"
                )
            history = tuple(map(figures, content.pop("history")))
            fields = {**figures(content), "folder": self.path}
            result = Result(**fields, history=history, finished=True)
            for epoch in (*history, {"loss": result.loss}):
                if not all(is_figure(*each) for each in epoch.items()):
                    raise TypeError("an epoch")
            if result.loss < 0:
                raise TypeError("loss")
            for name, most in _LARGEST.items():
                value = getattr(result, name)
                if type(value) not in (int, float) or not 0 <= value <= most:
                    raise TypeError(name)
        except (AttributeError, KeyError, TypeError) as error:
            raise PrecropError(f"{path} is not a result: remove it to train on") from error
        self._check(path, result.run)
        return result

    def keep_result(self, result: Result) -> None:
        """Write the run's result, completely or not at all."""
        content = finite({**result.to_json(), "history": result.history})
        del content["folder"]
        text = json_text({**content, "digest": digest_of(content)}, indent=1)
        write_text(self.path / _RESULT, f"{text}\n")

    def check_code(self, then: object, now: Mapping[str, str]) -> None:
        """Refuse a run of other user code, whose figures would count as those of the current code.

        ``then`` is the code recorded with the run (older runs have none), ``now`` the current code.
        """
        if files := changed(then, now):
            raise PrecropError(
                f"{self.path} is of other code, {files} changed since: undo that, or remove the "
                "folder, or name another --output"
            )

    def _check(self, path: Path, said: object) -> dict[str, Any]:
        """Refuse a file copied from another run, whose figures would count as this run's.

        ``said`` is what the file records of its run: the id, or the description, which is returned.
        """
        run = said if isinstance(said, dict) else {"id": said}
        if run.get("id") != self.run:
            found = brief(run.get("id"))
            raise PrecropError(f"{path} is not of run {self.run} but of {found}: remove it")
        return run


def _digest(tensors: Mapping[str, Tensor]) -> str:
    made = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        made.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        made.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return made.hexdigest()
