"""What happens at the end of an epoch: checkpoints, the table of figures, the progress bar."""

import csv
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from precrop.files import replacing
from precrop.progress import console
from precrop.training.module import Classifier

Told = Callable[[Mapping[str, float]], None]
LAST, BEST = "last", "best"
_REFRESH = 0.25


class Keeper(Checkpoint):
    """Keeps the ``last`` checkpoint and the ``best`` by accuracy, both whole at any moment.

    Args:
        folder: of the run.
        table: whether to keep the history as ``metrics.csv``, too.
        report: called when an epoch is kept.
        told: called with the row of the history, then.
    """

    def __init__(
        self,
        folder: Path,
        table: bool,
        report: Callable[[pl.Trainer, Classifier], None] | None,
        told: Told | None = None,
    ) -> None:
        self.folder, self.table, self.report, self.told = folder, table, report, told

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Write the best first: killed in between, the epoch runs and writes it again."""
        assert isinstance(module, Classifier)
        accuracies = [row["accuracy"] for row in module.history]
        if accuracies[-1] > max(accuracies[:-1], default=-1.0):
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)
        trainer.save_checkpoint(self.folder / LAST)
        if self.table and trainer.is_global_zero:
            write_table(self.folder / "metrics.csv", module.history)
        if self.report is not None:
            self.report(trainer, module)
        if self.told is not None:
            self.told(module.history[-1])


def write_table(path: Path, history: list[dict[str, float]]) -> None:
    """The history as CSV, whole or not at all; one row per epoch, whatever was interrupted."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)


class Bar(ProgressBar):
    """A live bar with loss, accuracy, images per second and time left; a line per epoch.

    Without a terminal there are the lines only.
    """

    def __init__(self) -> None:
        super().__init__()
        self._console = console()
        self._progress: Progress | None = None
        self._task: Any = None
        self._shown = self._start = 0.0
        self._first = 0

    def disable(self) -> None:
        """Lightning calls it on all processes but the first."""
        self._console = Console(quiet=True)

    def enable(self) -> None:
        """Lightning calls it on the first process."""

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Begin to count time."""
        self._start, self._first = time.perf_counter(), trainer.global_step
        if sys.stderr.isatty() and not self._console.quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._progress = Progress(
                *columns,
                TextColumn("{task.fields[figures]}"),
                console=self._console,
                transient=True,
                auto_refresh=False,
            )
            self._progress.start()
            self._task = self._progress.add_task("", figures="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the figures a few times a second: they make a device wait."""
        now = time.perf_counter()
        if self._progress is None or now - self._shown < _REFRESH:
            return
        self._shown = now
        figures = module.train_figures.so_far()
        done = (trainer.global_step - self._first) / (now - self._start)
        self._progress.update(
            self._task,
            description=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            completed=batch_idx + 1,
            total=trainer.num_training_batches,
            figures=f"loss {figures['loss']:.3f}  accuracy {figures['accuracy']:.1%}  "
            f"{done * module.recipe.batch_size:,.0f} images/s  {self._left(trainer, done)} left",
        )
        self._progress.refresh()

    def line(self, trainer: pl.Trainer, module: Classifier) -> None:
        """One line for an epoch that is over and kept."""
        row = module.history[-1]
        done = (trainer.global_step - self._first) / (time.perf_counter() - self._start)
        self._console.print(
            f"epoch {int(row['epoch'])}/{trainer.max_epochs}  loss {row['train_loss']:.3f}  "
            f"held out: loss {row['loss']:.3f} accuracy {row['accuracy']:.2%}  "
            f"{row['images_per_second']:,.0f} images/s  {self._left(trainer, done)} left",
            soft_wrap=True,
        )

    def _left(self, trainer: pl.Trainer, steps_per_second: float) -> str:
        left = int(trainer.estimated_stepping_batches) - trainer.global_step
        return str(timedelta(seconds=round(left / max(steps_per_second, 1e-9))))

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
