"""Training a run from its beginning, or from where it was interrupted, to its result."""

import dataclasses
import json
import random
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from precrop.errors import PrecropError, errors_as
from precrop.files import digest_of, read_json, refuse_link, write_text
from precrop.progress import in_terminal, unheard
from precrop.training import checkpoints
from precrop.training.batches import train_batches
from precrop.training.callbacks import BEST, LAST, Bar, Keeper, Told, say_epoch
from precrop.training.data import ImageData, load_again
from precrop.training.devices import ProcessLayout, is_first_process, layout, reading_processes
from precrop.training.logs import USUAL, check_loggers, make_loggers, quiet
from precrop.training.module import Classifier
from precrop.training.networks import Built, build, found_masks
from precrop.training.recipes import Recipe
from precrop.training.runs import Run, Start

RUN, RESULT, MASKS = "run.json", "result.json", "masks.safetensors"
_FIGURES = ("accuracy", "best_accuracy", "loss", "seconds", "params", "macs")
"""Fields of a result that are numbers."""
_STATES = {"sgd": 1, "rmsprop": 2}
"""Tensors that an optimizer keeps per weight."""


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        run: its id.
        folder: where it is kept.
        accuracy: share of the held-out images that are right after the last epoch.
        best_accuracy: the highest such share after any epoch.
        loss: mean loss of the held-out images after the last epoch.
        params: parameters of the network, without masked weights.
        macs: multiply-accumulates at batch 1, without those of masked weights.
        seconds: that its epochs took, whatever was interrupted.
        history: per epoch the learning rate, losses, accuracies, seconds.
        finished: the result was there already; nothing was trained.
    """

    run: str
    folder: Path
    accuracy: float
    best_accuracy: float
    loss: float
    params: int
    macs: int
    seconds: float
    history: tuple[Mapping[str, float], ...]
    finished: bool = False

    def to_json(self) -> dict[str, Any]:
        """All but the history in JSON's types, as ``precrop train --json`` prints it."""
        fields = dataclasses.asdict(self)
        del fields["history"], fields["finished"]
        return {**fields, "folder": str(self.folder)}


def train(
    run: Run,
    *,
    data: ImageData | None = None,
    output: Path = Path("runs"),
    devices: int = 1,
    compiled: bool = False,
    loggers: Sequence[str] = USUAL,
    progress: bool = False,
    workers: int | None = None,
    told: Told = unheard,
) -> Result:
    """Train a run, or go on with it if its folder holds a checkpoint.

    On the CPU an interrupted run ends with the same weights, bit for bit, as one that was not.

    Args:
        run: what to train.
        data: the run's images, if they are loaded already.
        output: the folder that gets the run's own folder.
        devices: processes with a device each; more than one start this program anew.
        compiled: compile the network with `torch.compile`.
        loggers: names in `precrop.training.logs.LOGGERS`.
        progress: show a bar and a line per epoch on standard error.
        workers: processes that read images which do not fit in memory; by default the cores'.
        told: called with an epoch's row of the history, when it is kept.

    Raises:
        PrecropError: the run cannot be trained, its folder cannot be written, or the loss is no
            longer a number.
        KeyboardInterrupt: it was interrupted; its folder holds the last finished epoch.
    """
    names = check_loggers(loggers)
    folder = output / run.name
    result = read_result(folder, run.id)
    if result is not None:
        return result
    places = layout(devices)
    data = data or load_again(run.data, run.input_shape, run.data_digest)
    if data.digest != run.data_digest:
        raise PrecropError(f"the images of {run.data} are not those that run {run.id} is about")
    if workers is None:
        workers = reading_processes(data, places)
    first = is_first_process()
    if first:
        refuse_link(folder)
        with errors_as(f"cannot make the folder {folder}", OSError):
            folder.mkdir(parents=True, exist_ok=True)
        if (folder / RUN).is_file():
            checkpoints.check_run(folder / RUN, read_json(folder / RUN), run.id)
        else:
            write_text(folder / RUN, json.dumps(run.described(), indent=1) + "\n")
    with checkpoints.alone(folder) if first else nullcontext():
        built = _built(run, data, folder)
        if first:
            checkpoints.tidy(folder)
            checkpoints.check_space(folder, _size(built, run.recipe))
        say: Told = partial(say_epoch, run.recipe.epochs) if progress else unheard
        callbacks: list[Callback] = [Keeper(folder, table="csv" in names, told=[say, told])]
        if progress and in_terminal():
            callbacks.append(Bar())
        best, start = (checkpoints.stored(folder / name) for name in (BEST, LAST))
        if best is not None:
            checkpoints.described(best, run.id)
        step = 0 if start is None else checkpoints.described(start, run.id)["step"]
        with quiet(), _process_kept():
            module = Classifier(
                run, built.network, data, places, compiled=compiled, workers=workers
            )
            writers = make_loggers(names, run, folder, step)
            trainer = _trainer(module, places, folder, writers, callbacks)
            _fit(trainer, module, start, step)
        return _finish(folder, run, built, module)


def read_result(folder: Path, run: str) -> Result | None:
    """The result of the run with that id, if it is finished, else None.

    Raises:
        PrecropError: its file is broken, or another run's.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        digest = content.pop("digest", None)
        if digest is not None and digest != digest_of(content):
            raise PrecropError(f"{path} was changed after it was written: remove it to train on")
        history = tuple(content.pop("history"))
        result = Result(**{**content, "folder": folder}, history=history, finished=True)
        for name in _FIGURES:
            if type(getattr(result, name)) not in (int, float):
                raise TypeError(name)
        checkpoints.check_run(path, result.run, run)
        return result
    except (AttributeError, KeyError, TypeError) as error:
        raise PrecropError(f"{path} is not a result: remove it to train on") from error


def _built(run: Run, data: ImageData, folder: Path) -> Built:
    """The network; masks are computed once and kept in the run's folder."""
    path = folder / MASKS
    kept = None
    if run.mask is not None and path.is_file():
        kept = checkpoints.read_run_masks(path, run.id)
    begun = checkpoints.stored(folder / LAST) is not None
    start = None if begun or run.weights is None else _unchanged(run.weights)
    built = build(run, lambda: sample(run, data), kept, start=start)
    if run.mask is not None and kept is None and is_first_process():
        checkpoints.write_masks(path, found_masks(built.network), run.id)
    return built


def _unchanged(weights: Start) -> Path:
    """The file of a run's first weights, if it is the one that the run is about.

    Raises:
        PrecropError: it is another one, or is not there.
    """
    path = Path(weights.file)
    if Start.of(path) != weights:
        raise PrecropError(f"{path} was changed since this run was described")
    return path


def sample(run: Run, data: ImageData) -> list[tuple[Tensor, Tensor]]:
    """Batches with ten training images per class or more, for mask methods that look at data."""
    found, seen = [], 0
    for images, labels in train_batches(data, run.recipe.batch_size, seed=run.seed, epoch=0):
        found.append((images, labels))
        seen += len(labels)
        if seen >= 10 * len(run.classes):
            break
    return found


def _size(built: Built, recipe: Recipe) -> int:
    """Bytes that a run's checkpoints take at most: best, last, and the next one beside it."""
    tensors = [*built.network.parameters(), *built.network.buffers()]
    weights = sum(t.numel() * t.element_size() for t in tensors)
    return weights * (3 + 2 * _STATES[recipe.optimizer]) + (1 << 16)


def _trainer(
    module: Classifier,
    places: ProcessLayout,
    folder: Path,
    loggers: Sequence[Any],
    callbacks: list[Callback],
) -> pl.Trainer:
    several = places.processes > 1
    return pl.Trainer(
        accelerator=places.accelerator,
        devices=places.devices,
        num_nodes=places.nodes,
        # Buffers are averaged once an epoch instead of being sent with every batch.
        strategy=DDPStrategy(broadcast_buffers=False) if several else "auto",
        sync_batchnorm=several and places.accelerator == "cuda",
        precision="bf16-mixed" if module.bf16 else "32-true",
        max_epochs=module.recipe.epochs,
        logger=loggers,
        callbacks=callbacks,
        plugins=[checkpoints.SafetensorsIO(module.run.described())],
        enable_progress_bar=any(isinstance(callback, Bar) for callback in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        benchmark=True,
        log_every_n_steps=1,
        default_root_dir=folder,
    )


def _fit(trainer: pl.Trainer, module: Classifier, start: Path | None, step: int) -> None:
    """Run Lightning from a step; an interruption comes out as the exception that it is.

    Raises:
        PrecropError: the checkpoint holds what Lightning or the network does not know.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, ckpt_path=start)
    except SystemExit as error:  # Lightning's answer to Ctrl-C and to SIGTERM
        if trainer.interrupted:
            raise KeyboardInterrupt from error
        raise
    except Exception as error:
        if start is None or trainer.global_step > step or isinstance(error, PrecropError):
            raise
        raise PrecropError(f"cannot go on from the checkpoint {start}: {error!r}") from error
    finally:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, handler)


def _finish(folder: Path, run: Run, built: Built, module: Classifier) -> Result:
    history = tuple(module.history)
    result = Result(
        run=run.id,
        folder=folder,
        accuracy=history[-1]["accuracy"],
        best_accuracy=max(row["accuracy"] for row in history),
        loss=history[-1]["loss"],
        params=built.params,
        macs=built.macs,
        seconds=sum(row["seconds"] for row in history),
        history=history,
    )
    if is_first_process():
        content = {**result.to_json(), "history": history}
        del content["folder"]
        content = json.loads(json.dumps(content))
        content["digest"] = digest_of(content)
        write_text(folder / RESULT, json.dumps(content, indent=1) + "\n")
    return result


@contextmanager
def _process_kept() -> Iterator[None]:
    """Training sets threads and seeds for all of the process: put them back."""
    threads, state = torch.get_num_threads(), random.getstate()
    numbers, tensors = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(tensors)
        np.random.set_state(numbers)  # noqa: NPY002
        random.setstate(state)
