"""What happens at the end of an epoch: checkpoints, the table of figures, a line; and the bar."""

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
    """Keeps the ``last`` checkpoint and the ``best`` by accuracy, both whole at any moment.

    Lightning's ModelCheckpoint knows the best from paths that it keeps in checkpoints: in a folder
    that was moved it would forget it, and write a worse one over it.

    With ``table`` the history is kept as ``metrics.csv``, too; each of ``told`` gets an epoch's row
    of it when the epoch is kept.
    """

    def __init__(self, folder: Path, *, table: bool, told: Sequence[Told]) -> None:
        self.folder, self.table, self.told = folder, table, told

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Write the best first: killed in between, the epoch runs and writes it again."""
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
    """The history as CSV, whole or not at all; one row per epoch, whatever was interrupted."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def say_epoch(epochs: int, row: Mapping[str, float]) -> None:
    """A row of the history as a line on standard error, with the time that is left."""
    left = timedelta(seconds=round((epochs - row["epoch"]) * row["seconds"]))
    console().print(
        f"epoch {int(row['epoch'])}/{epochs}  loss {row['train_loss']:.3f}  "
        f"held out: loss {row['loss']:.3f} accuracy {row['accuracy']:.2%}  "
        f"{row['images_per_second']:,.0f} images/s  {left} left",
        soft_wrap=True,
    )


class Bar(RichProgressBar):
    """Lightning's bar on standard error, with loss and accuracy of the epoch so far."""

    def __init__(self) -> None:
        theme = RichProgressBarTheme(metrics_format=".3f")
        super().__init__(theme=theme, console_kwargs={"stderr": True})
        self._shown, self._figures = 0.0, dict[str, Any]()

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        """As many as fit in one line with the figures."""
        words = TextColumn("{task.description}", markup=False)
        return [words, BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn()]

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Begin to draw a bar that goes away in the end."""
        super().on_train_start(trainer, pl_module)
        if self.progress is not None:
            self.progress.live.transient = True

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *batch: Any) -> None:
        """Look at the figures a few times a second: they make a device wait."""
        if time.perf_counter() - self._shown > _REFRESH:
            self._figures, self._shown = pl_module.train_figures.so_far(), time.perf_counter()
        super().on_train_batch_end(trainer, pl_module, *batch)

    def get_metrics(self, trainer: pl.Trainer, pl_module: Any) -> dict[str, Any]:
        """What stands beside the bar."""
        return self._figures

    def _get_train_description(self, current_epoch: int) -> str:
        # Lightning counts from 0, and to one less than there are.
        return f"epoch {current_epoch + 1}/{self.trainer.max_epochs}"
