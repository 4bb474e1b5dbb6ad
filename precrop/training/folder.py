"""The folder of a run: the files in it, whose they are, and who may write to them.

It may come from a stranger, or be copied from another run: nothing is written where a link leads,
and what is of another run, or was changed after it was written, is refused.
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
"""The checkpoints of a run."""
_RESULT, _MASKS, _LOCK = "result.json", "masks.safetensors", ".lock"
_CHUNK = 1 << 20
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP)
"""What file systems say that have none; then a run is on its own."""
_LARGEST = {"accuracy": 1, "best_accuracy": 1, "params": 2**63, "macs": 2**63, "seconds": 1e9}
"""Fields of a result that are numbers, none below 0, and what each is at most; so is the loss."""


@dataclass(frozen=True)
class Result:
    """What a run came to. Parameters and MACs are counted without masked weights."""

    run: str  # its id
    folder: Path  # where it is kept
    accuracy: float  # share of the held-out images that are right after the last epoch
    best_accuracy: float  # the highest such share after any epoch
    loss: float  # mean loss of the held-out images after the last epoch
    params: int
    macs: int  # multiply-accumulates at batch 1
    seconds: float  # that its epochs took, whatever was interrupted
    history: tuple[Mapping[str, float], ...]  # per epoch learning rate, losses, accuracies, seconds
    code: Mapping[str, str] = field(default_factory=dict)  # the run's; empty in older results
    processes: int | None = None  # that trained it; None in older results
    finished: bool = False  # the result was there already; nothing was trained

    def to_json(self) -> dict[str, Any]:
        """All but the history in JSON's types, as ``precrop train --json`` prints it."""
        fields = dataclasses.asdict(self)
        del fields["history"], fields["finished"]
        for name in ("code", "processes"):
            if not fields[name]:
                del fields[name]
        return {**fields, "folder": str(self.folder)}


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    What reads it raises `PrecropError` if a file is broken, was changed, or is another run's.
    """

    path: Path
    run: str  # its id

    def begin(self, described: Mapping[str, Any]) -> bool:
        """Make it, and say in it which run it is of.

        Returns:
            Whether it is new.

        Raises:
            PrecropError: it is a link, cannot be made, or is another run's, or other code's.
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
        """Keep other processes from training in it at the same time.

        The lock goes with the process that holds it, however that ends.

        Raises:
            PrecropError: another process has the lock, or it is no file that can be locked.
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
        """See that there is room for ``size`` bytes: they are written to the disk and removed.

        What runs that were killed while they wrote a checkpoint left is removed before.

        Raises:
            PrecropError: there is no room, or no right to write.
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
        """The last checkpoint, its step, and the processes that wrote it, if the run has begun.

        The best one is checked, too.
        """
        found = {}
        for name in (BEST, LAST):
            if (path := checkpoints.stored(self.path / name)) is not None:
                content = checkpoints.described(path)
                run = self._check(path, content.get("run"))
                found[name] = path, content["step"], run.get("processes")
        return found.get(LAST)

    def masks(self) -> dict[str, Tensor] | None:
        """The masks that `keep_masks` wrote, if there are some."""
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
        """Write the run's masks, whole or not at all."""
        with replacing(self.path / _MASKS) as temporary:
            save_tensors(masks, temporary, {"digest": _digest(masks), "run": self.run})

    def result(self) -> Result | None:
        """The result that `keep_result` wrote, if the run is finished."""
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
        """Write what the run came to, whole or not at all."""
        content = finite({**result.to_json(), "history": result.history})
        del content["folder"]
        text = json_text({**content, "digest": digest_of(content)}, indent=1)
        write_text(self.path / _RESULT, f"{text}\n")

    def check_code(self, then: object, now: Mapping[str, str]) -> None:
        """Refuse what other code of the user's has made: it would count as this one's.

        ``then`` is the code that was kept (older runs have none), ``now`` that of today.
        """
        if files := changed(then, now):
            raise PrecropError(
                f"{self.path} is of other code, {files} changed since: undo that, or remove the "
                "folder, or name another --output"
            )

    def _check(self, path: Path, said: object) -> dict[str, Any]:
        """Refuse what another run has made: copied here, its figures would count as this one's.

        ``said`` is what a file or a checkpoint says of its run: the id, or all, which is returned.
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
