"""Loggers by name, and Lightning's own words kept out of our output."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from precrop.errors import PrecropError
from precrop.training.runs import Run

LOGGERS = ("csv", "tensorboard", "wandb", "mlflow", "none")
USUAL = ("csv", "tensorboard")


def check_loggers(names: Sequence[str]) -> tuple[str, ...]:
    """The loggers' names, without ``none``.

    Raises:
        PrecropError: a name is unknown, or ``none`` is not the only one.
    """
    for name in names:
        if name not in LOGGERS:
            raise PrecropError(f"logger {name!r} is unknown: choose from {', '.join(LOGGERS)}")
    others = tuple(name for name in names if name != "none")
    if others and len(others) < len(names):
        raise PrecropError(f"logger none goes with no other: drop it, or drop {others[0]}")
    return others


def make_loggers(names: Sequence[str], run: Run, folder: Path, step: int) -> list[Any]:
    """Lightning's loggers. ``csv`` is not among them: the table is written with the checkpoints.

    Args:
        names: as `check_loggers` gives them.
        run: names the runs in other tools.
        folder: of the run.
        step: at which training goes on; what a killed run logged after it is dropped.

    Raises:
        PrecropError: the library of a logger is not installed.
    """
    made: list[Any] = []
    for name in names:
        try:
            if name == "tensorboard":
                made.append(_tensorboard(folder, step))
            elif name == "wandb":
                made.append(_wandb(run, folder))
            elif name == "mlflow":
                made.append(_mlflow(run, folder))
        except ImportError as error:
            raise PrecropError(
                f"--logger {name} needs {name}, which is not installed: pip install {name}"
            ) from error
    return made


def _tensorboard(folder: Path, step: int) -> Any:
    from lightning.pytorch.loggers import TensorBoardLogger

    options: dict[str, Any] = {"purge_step": step} if step else {}
    return TensorBoardLogger(folder, name="", version="tensorboard", **options)


def _wandb(run: Run, folder: Path) -> Any:
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(
        project="precrop", name=run.name, id=run.id, resume="allow", save_dir=str(folder)
    )
    logger.log_hyperparams(run.described())
    return logger


def _mlflow(run: Run, folder: Path) -> Any:
    from lightning.pytorch.loggers import MLFlowLogger

    return MLFlowLogger("precrop", run_name=run.name, save_dir=str(folder.parent / "mlruns"))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what Lightning prints, logs and warns of to itself."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch")]
    loggers += [logging.getLogger(f"lightning.{part}") for part in ("fabric", "pytorch.utilities")]
    loggers.append(logging.getLogger("lightning.pytorch.utilities.rank_zero"))
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Its warnings are about loaders, logs and clusters that we set up ourselves.
            warnings.filterwarnings("ignore", module=r"lightning\.")
            warnings.filterwarnings("ignore", module=r"torchmetrics\.")
            warnings.filterwarnings("ignore", module=r"torch\.utils\.tensorboard")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
