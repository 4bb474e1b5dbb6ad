"""The row that a cell gets in the store, whether it was trained or failed."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from precrop.errors import PrecropError, one_line
from precrop.solve.budgets import Budget, parse_budget
from precrop.study.cells import Cell
from precrop.study.preparing import Prepared
from precrop.study.rows import Row

if TYPE_CHECKING:
    from precrop.training.folder import Result

_MEASURED = ("run", "accuracy", "best_accuracy", "loss", "params", "macs")
"""Fields of a row that come from the result; they are None if the cell failed."""


def outcome(cell: Cell, prepared: Prepared, result: "Result", **spent: Any) -> Row:
    """Return the row of a trained cell; with a final loss that is not finite, the cell has failed.

    Args:
        cell: the cell.
        prepared: its run.
        result: the result of the run, whose folder holds the masks.
        spent: the row's ``overhead``, ``started``, ``ended`` and ``device``.
    """
    run = prepared.run
    if not math.isfinite(result.loss):
        error = PrecropError(f"the held-out images' loss is {result.loss} after training")
        return failure(cell, error, run.data_digest, **spent)
    return Row(
        **_asked(cell, run.data_name, prepared.original.costs),
        **{name: getattr(result, name) for name in _MEASURED},
        data_digest=run.data_digest,
        status="done",
        error=None,
        **_layers(prepared, result),
        history=result.history,
        seconds=result.seconds,
        versions=run.versions,
        code=prepared.code,
        **spent,
    )


def failure(cell: Cell, error: BaseException, data_digest: str = "", **spent: Any) -> Row:
    """Return the row of a cell that failed; the arguments are those of `outcome`."""
    from precrop.training.runs import current_versions

    kind = "" if isinstance(error, PrecropError) else type(error).__name__
    unknown: dict[str, Any] = dict.fromkeys(_MEASURED)
    return Row(
        **_asked(cell, cell.data_name),
        **unknown,
        data_digest=data_digest,
        status="failed",
        error=one_line(": ".join(filter(None, (kind, str(error))))),
        densities={},
        widths={},
        history=(),
        seconds=0.0,
        versions=current_versions(),
        **{"overhead": 0.0, "device": "", **spent},
    )


def _asked(cell: Cell, data: str, bases: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return the fields that every row has; ``bases`` are the costs of the original network."""
    bases, side = bases or {}, cell.image_size
    return {
        "study": cell.study,
        "cell": cell.id,
        "network": cell.network.name,
        "args": dict(cell.network.args),
        "variant": cell.variant,
        "kind": cell.how.kind,
        "method": cell.how.method,
        "granularity": cell.how.granularity,
        "asked_params": _share("params", cell.limits.params, bases.get("params")),
        "asked_macs": _share("macs", cell.limits.macs, bases.get("macs")),
        "seed": cell.seed,
        "data": data if side is None else f"{data} {side}x{side}",
        "recipe": cell.recipe.to_json(),
        "base_params": bases.get("params"),
        "base_macs": bases.get("macs"),
    }


def _share(name: str, budget: Budget | None, base: int | None) -> float | None:
    """Return a budget as a share of the original; None if there is none, or ``base`` is unknown."""
    if budget is None or isinstance(budget, float):
        return budget
    return None if base is None else parse_budget(name, budget, base) / base


def _layers(prepared: Prepared, result: "Result") -> dict[str, Any]:
    """Return the densities and the channels of all layers of the trained network, by name."""
    plan, layers = prepared.run.plan, prepared.original.layers
    if plan is not None:
        return {"densities": plan.densities, "widths": plan.widths}
    from precrop.training.folder import RunFolder

    masks = RunFolder(result.folder, result.run).masks() or {}
    left = {name: float(mask.double().mean()) for name, mask in masks.items()}
    return {
        "densities": {layer.name: left.get(layer.weight, 1.0) for layer in layers},
        "widths": {layer.name: (layer.in_channels, layer.out_channels) for layer in layers},
    }
