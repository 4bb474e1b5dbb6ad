"""Callbacks: checkpoints, a table and a printed line after each epoch, and the progress bar."""

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from precrop.files import replacing
from precrop.progress import console
from precrop.training.folder import BEST, LAST
from precrop.training.module import Classifier

Told = Callable[[Mapping[str, float]], None]
_REFRESH = 0.25


class Keeper(Checkpoint):
    """Keeps the ``last`` checkpoint and the ``best`` by accuracy, each complete at any moment.

    Lightning's ModelCheckpoint finds the best by a path stored in its checkpoints: after the folder
    was moved, it would forget the best and overwrite it with a worse one.

    With ``table`` the history is also written as ``metrics.csv``. Each function in ``told`` gets an
    epoch's row of the history once its checkpoint is written.
    """

    def __init__(self, folder: Path, *, table: bool, told: Sequence[Told]) -> None:
        self.folder, self.table, self.told = folder, table, told

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Write the best first: a run killed before ``last`` repeats the epoch and writes both."""
        assert isinstance(module, Classifier)
        accuracies = [row["accuracy"] for row in module.history]
        if accuracies[-1] > max(accuracies[:-1], default=-1.0):
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)
        trainer.save_checkpoint(self.folder / LAST)
        if not trainer.is_global_zero:
            return
        if self.table:
            write_table(self.folder / "metrics.csv", module.history)
        for tell in self.told:
            tell(module.history[-1])


def write_table(path: Path, history: list[dict[str, float]]) -> None:
    """Write the history as CSV, completely or not at all: one row per epoch, resumed or not."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def say_epoch(epochs: int, row: Mapping[str, float]) -> None:
    """Print a row of the history on standard error, with the time that is left."""
    left = timedelta(seconds=round((epochs - row["epoch"]) * row["seconds"]))
    console().print(
        f"epoch {int(row['epoch'])}/{epochs}  loss {row['train_loss']:.3f}  "
        f"held out: loss {row['loss']:.3f} accuracy {row['accuracy']:.2%}  "
        f"{row['images_per_second']:,.0f} images/s  {left} left",
        soft_wrap=True,
    )


class Bar(RichProgressBar):
    """Lightning's progress bar on standard error, with loss and accuracy of the epoch so far."""

    def __init__(self) -> None:
        theme = RichProgressBarTheme(metrics_format=".3f")
        super().__init__(theme=theme, console_kwargs={"stderr": True})
        self._shown, self._figures = 0.0, dict[str, Any]()

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        """Return few columns, so that the metrics fit on the same line."""
        words = TextColumn("{task.description}", markup=False)
        return [words, BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn()]

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start a bar that disappears at the end."""
        super().on_train_start(trainer, pl_module)
        if self.progress is not None:
            self.progress.live.transient = True

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *batch: Any) -> None:
        """Read the metrics only a few times a second: each time synchronises with the device."""
        if time.perf_counter() - self._shown > _REFRESH:
            self._figures, self._shown = pl_module.train_figures.so_far(), time.perf_counter()
        super().on_train_batch_end(trainer, pl_module, *batch)

    def get_metrics(self, trainer: pl.Trainer, pl_module: Any) -> dict[str, Any]:
        """Return the metrics shown beside the bar."""
        return self._figures

    def _get_train_description(self, current_epoch: int) -> str:
        # Lightning counts epochs from 0.
        return f"epoch {current_epoch + 1}/{self.trainer.max_epochs}"
