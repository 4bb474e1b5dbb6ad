"""Loggers by name, and the silencing of Lightning's own output."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from precrop.errors import PrecropError, check_known, needs
from precrop.files import refuse_links_out
from precrop.training.runs import Run

LOGGERS = ("csv", "tensorboard", "wandb", "mlflow", "none")
USUAL = ("csv", "tensorboard")
_LOUD = (
    "lightning",
    "lightning.fabric",
    "lightning.pytorch",
    "lightning.pytorch.utilities",
    "lightning.pytorch.utilities.rank_zero",
)


def check_loggers(names: Sequence[str]) -> tuple[str, ...]:
    """Return the loggers' names, without ``none``.

    Raises:
        PrecropError: a name is unknown, or ``none`` is not the only one.
    """
    for name in names:
        check_known(f"logger {name!r}", name, LOGGERS)
    others = tuple(name for name in names if name != "none")
    if others and len(others) < len(names):
        raise PrecropError(f"logger none goes with no other: drop it, or drop {others[0]}")
    return others


def make_loggers(names: Sequence[str], run: Run, folder: Path, step: int) -> list[Any]:
    """Make Lightning's loggers, except ``csv``: that table is written with the checkpoints.

    TensorBoard drops what a killed run logged after ``step``, from which training resumes.

    Raises:
        PrecropError: the library of a logger is not installed, or its folder is a link.
    """
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

    made: list[Any] = []
    for name in names:
        kept = folder.parent / "mlruns" if name == "mlflow" else folder / name
        refuse_links_out(kept)
        with needs(f"--logger {name} needs", name):
            if name in ("wandb", "mlflow"):
                import_module(name)  # Lightning's own error does not name the library
            if name == "tensorboard":
                place: dict[str, Any] = {"name": "", "version": name}
                made.append(TensorBoardLogger(folder, **place, purge_step=step or None))
            elif name == "wandb":
                known: dict[str, Any] = {"name": run.name, "id": run.id, "save_dir": str(folder)}
                made.append(WandbLogger(project="precrop", resume="allow", **known))
                made[-1].log_hyperparams(run.described())
            elif name == "mlflow":
                made.append(MLFlowLogger("precrop", run_name=run.name, save_dir=str(kept)))
    return made


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress what Lightning prints, logs and warns about."""
    levels = {logger: logger.level for logger in map(logging.getLogger, _LOUD)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # It warns about data loaders, logs and clusters, which we set up ourselves.
            warnings.filterwarnings("ignore", module=r"(lightning|torchmetrics)\.")
            warnings.filterwarnings("ignore", module=r"torch\.utils\.tensorboard")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
