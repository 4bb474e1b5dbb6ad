"""Training a run to its result, from the beginning or from its last checkpoint."""

import random
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException

from precrop.errors import PrecropError, typed_reason
from precrop.modules.names import buffers_of, parameters_of
from precrop.own import OWN_ERRORS
from precrop.progress import in_terminal, say, unheard
from precrop.training.batches import check_batch, sample
from precrop.training.callbacks import Bar, Keeper, Told, say_epoch
from precrop.training.checkpoints import SafetensorsIO
from precrop.training.data import ImageData, load_again
from precrop.training.devices import ProcessLayout, is_first_process, layout, reading_processes
from precrop.training.folder import Result, RunFolder
from precrop.training.logs import USUAL, check_loggers, make_loggers, quiet
from precrop.training.module import Classifier
from precrop.training.networks import Built, build, found_masks
from precrop.training.recipes import Recipe
from precrop.training.runs import Run, Start

_STATES = {"sgd": 1, "rmsprop": 2}
"""The number of tensors that an optimizer keeps per weight."""


def train(
    run: Run,
    *,
    data: ImageData | None = None,
    output: str | Path = Path("runs"),
    devices: int = 1,
    compiled: bool = False,
    loggers: Sequence[str] = USUAL,
    progress: bool = False,
    workers: int | None = None,
    told: Told = unheard,
) -> Result:
    """Train a run, or resume it if its folder holds a checkpoint.

    On the CPU a resumed run ends with the same weights, bit for bit, as an uninterrupted one.

    Args:
        run: what to train.
        data: the run's images, if they are loaded already.
        output: the folder in which the run gets its own folder.
        devices: processes, with one device each; with several, Lightning starts this program anew.
        compiled: compile the network with `torch.compile`.
        loggers: names in `precrop.training.logs.LOGGERS`.
        progress: show a bar and a line per epoch on standard error.
        workers: processes that decode images which do not fit in memory; by default as cores allow.
        told: called with an epoch's row of the history once its checkpoint is written.

    Raises:
        PrecropError: the run cannot be trained, its folder cannot be written or is of other code,
            or the loss is no longer a number.
        KeyboardInterrupt: training was interrupted; the folder holds the last finished epoch.
    """
    names = check_loggers(loggers)
    folder = RunFolder(Path(output) / run.name, run.id)
    first, places = is_first_process(), layout(devices)
    run = replace(run, code=run.own_code(), processes=places.processes)
    if (result := folder.result()) is not None:
        folder.check_code(result.code, run.code)
        _say_processes(run, "was trained", result.processes)
        return result
    data = data or load_again(run.data, run.input_shape, run.data_digest)
    if data.digest != run.data_digest:
        raise PrecropError(f"the images of {run.data} are not those that run {run.id} is about")
    check_batch(data, run.recipe.batch_size, places.processes)
    if workers is None:
        workers = reading_processes(data, places)
    new = first and folder.begin(run.described())
    with folder.alone() if first else nullcontext():
        start, step, processes = folder.last() or (None, 0, None)
        _say_processes(run, "was begun", processes)
        trainer: pl.Trainer | None = None
        try:
            built = _built(run, data, folder, begun=start is not None)
            if first:
                folder.make_room(_size(built, run.recipe))
            shown: Told = partial(say_epoch, run.recipe.epochs) if progress else unheard
            keeper = Keeper(folder.path, table="csv" in names, told=[shown, told])
            bars = [Bar()] if progress and in_terminal() else []
            with quiet(), _process_kept():
                module = Classifier(
                    run, built.network, data, places, compiled=compiled, workers=workers
                )
                writers = make_loggers(names, run, folder.path, step)
                trainer = _trainer(module, places, folder.path, writers, [keeper, *bars])
                _fit(trainer, module, start, step)
        except Exception:
            if new and (trainer is None or not trainer.global_step):
                # Not one step was possible: the network is for other images, say.
                shutil.rmtree(folder.path, ignore_errors=True)
            raise
        result = _result(run, folder.path, built, module)
        if first:
            folder.keep_result(result)
        return result


def _built(run: Run, data: ImageData, folder: RunFolder, *, begun: bool) -> Built:
    """Build the run's network; its masks are computed once and kept in the run's folder."""
    kept = None if run.mask is None else folder.masks()
    start = None if begun or run.weights is None else Path(run.weights.file)
    if start is not None and Start.of(start) != run.weights:
        raise PrecropError(f"{start} was changed since this run was described")
    built = build(run, lambda: sample(data, run.recipe.batch_size, run.seed), kept, start=start)
    if run.mask is not None and kept is None and is_first_process():
        folder.keep_masks(found_masks(built.network))
    return built


def _size(built: Built, recipe: Recipe) -> int:
    """Return the most bytes that checkpoints take: best, last, and the next one beside it."""
    tensors = [*parameters_of(built.network).values(), *buffers_of(built.network).values()]
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
        # Buffers are averaged once per epoch instead of broadcast with every batch.
        strategy=DDPStrategy(broadcast_buffers=False) if several else "auto",
        sync_batchnorm=several and places.accelerator == "cuda",
        precision="bf16-mixed" if module.bf16 else "32-true",
        max_epochs=module.recipe.epochs,
        reload_dataloaders_every_n_epochs=1,
        logger=loggers,
        callbacks=callbacks,
        plugins=[SafetensorsIO(module.run.described())],
        enable_progress_bar=any(isinstance(callback, Bar) for callback in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        benchmark=True,
        log_every_n_steps=1,
        default_root_dir=folder,
    )


def _fit(trainer: pl.Trainer, module: Classifier, start: Path | None, step: int) -> None:
    """Run Lightning from a step; an interruption is raised as KeyboardInterrupt."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, ckpt_path=start)
    except OWN_ERRORS as error:
        if isinstance(error, SIGTERMException) or isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error  # Lightning exits after Ctrl-C and SIGTERM
        if isinstance(error, PrecropError):
            raise
        if isinstance(error, Exception) and trainer.global_step > step:
            raise
        name, size = module.run.model.name, module.run.recipe.batch_size
        told = f"{name} cannot be trained on batches of {size}: {typed_reason(error)}"
        if start is not None:
            told = f"cannot go on from the checkpoint {start}: {error!r}"
        raise PrecropError(told) from error
    finally:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, handler)


def _result(run: Run, folder: Path, built: Built, module: Classifier) -> Result:
    history = tuple(module.history)
    return Result(
        run=run.id,
        folder=folder,
        accuracy=history[-1]["accuracy"],
        best_accuracy=max(row["accuracy"] for row in history),
        loss=history[-1]["loss"],
        params=built.params,
        macs=built.macs,
        seconds=sum(row["seconds"] for row in history),
        history=history,
        code=run.code,
        processes=run.processes,
    )


def _say_processes(run: Run, what: str, then: int | None) -> None:
    """Warn if another number of processes made what is reused; older runs do not record it."""
    if then not in (None, run.processes) and is_first_process():
        say(
            f"run {run.id} {what} by {then} process{'es' * (then != 1)}, not {run.processes}: on a "
            "CPU the batch norms of each see its own part of a batch, so that results differ; "
            "another --output is for a run of its own"
        )


@contextmanager
def _process_kept() -> Iterator[None]:
    """Restore what training changes in the process: threads, random states, cuDNN's search."""
    threads, state = torch.get_num_threads(), random.getstate()
    search = torch.backends.cudnn.benchmark
    numbers, tensors = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = search
        torch.set_rng_state(tensors)
        np.random.set_state(numbers)  # noqa: NPY002
        random.setstate(state)
