"""Rows as a study would have written them, made by hand."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from precrop.study.rows import Row
from precrop.training.recipes import RECIPES

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LAYERS = {"stem": (3, 16), "body.0": (16, 16), "body.1": (16, 32), "body.2": (32, 64)}
"""Input and output channels of the original that made rows are about, but for its classifier."""
CLASSES = 10


def made_row(**changes: Any) -> Row:
    """A finished run of PreCrop; fields that follow from others do so unless they are given."""
    row = replace(_ROW, **changes)
    follow = {
        "cell": digest("cell", row.study, row.network, row.variant, row.seed, _asked(row)),
        "run": digest("run", row.network, row.variant, row.seed, _asked(row), row.data_digest),
        "ended": row.started + timedelta(seconds=row.seconds + row.overhead),
        "densities": dict.fromkeys((*LAYERS, "classifier"), row.asked_params or 1.0),
        "widths": _widths(row),
    }
    if row.status == "failed":
        follow |= dict.fromkeys(("accuracy", "best_accuracy", "loss", "params", "macs"))
        follow |= {"run": None, "history": (), "densities": {}, "widths": {}}
    return replace(row, **{**follow, **changes})


def digest(*parts: Any) -> str:
    """Twelve hexadecimal digits, as cells and runs have them."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _asked(row: Row) -> tuple[float | None, float | None]:
    return row.asked_params, row.asked_macs


def _widths(row: Row) -> dict[str, tuple[int, int]]:
    share = (row.asked_params or 1.0) ** 0.5 if row.kind == "cropped" else 1.0
    outs = {name: max(1, round(share * width[1])) for name, width in LAYERS.items()}
    ins = [3, *outs.values()]
    widths = {name: (ins[index], out) for index, (name, out) in enumerate(outs.items())}
    return {**widths, "classifier": (ins[-1], CLASSES)}


_ROW = Row(
    study="made",
    cell="",
    run="",
    network="resnet20",
    args={"num_classes": CLASSES},
    variant="PreCrop",
    kind="cropped",
    method="synexp",
    granularity="channel",
    asked_params=0.3,
    asked_macs=0.3,
    seed=0,
    data="cifar10",
    data_digest="d" * 64,
    recipe=RECIPES["cifar-quick"].to_json(),
    status="done",
    error=None,
    accuracy=0.85,
    best_accuracy=0.86,
    loss=0.5,
    params=81_000,
    macs=12_000_000,
    base_params=270_000,
    base_macs=40_000_000,
    densities={},
    widths={},
    history=tuple(
        {"epoch": float(n), "lr": 0.1, "train_loss": 1.0, "accuracy": 0.8, "seconds": 20.0 + n}
        for n in range(3)
    ),
    seconds=63.0,
    overhead=0.5,
    started=STARTED,
    ended=STARTED,
    device="cpu",
    versions={"precrop": "0.1.0", "torch": "2.15.0"},
)
