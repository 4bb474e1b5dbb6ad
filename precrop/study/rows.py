"""One row of a study's store: what was trained, under which conditions, and what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

SCHEMA = 1
"""Raised when a field changes its meaning; a store says which one it was written with."""


@dataclass(frozen=True)
class Row:
    """A cell of a study that was run, once.

    Densities and widths are of every layer with a weight, in the order in which the network runs
    them; what is empty was not measured or does not apply.

    Attributes:
        study: the study's name.
        cell: identity of what the study asked for; the same cell is never run twice in a store.
        run: identity of what was trained, as `precrop.training.runs.Run.id`; two cells may come to
            the same run. None where it failed before there was one.
        network: name of the network, as for ``precrop train``.
        args: keyword arguments for its builder.
        variant: name of the variant within the study.
        kind: how the network was made smaller.
        method: what decided the layers' shares: ``synexp``, ``uniform``, ``synflow``…; empty where
            dense.
        granularity: ``channel`` for cropped networks, a mask's own otherwise; empty where dense.
        asked_params: the budget as a share of the original's parameters.
        asked_macs: the budget as a share of the original's multiply-accumulates.
        seed: of the run.
        data: name of the data, and the images' size where the study gives one.
        data_digest: of the images' content.
        recipe: the recipe's fields.
        status: ``done``, or ``failed`` with an ``error``.
        error: one line.
        accuracy: share of the held-out images that are right after the last epoch.
        best_accuracy: the highest such share after any epoch.
        loss: mean loss of the held-out images after the last epoch.
        params: parameters, without masked weights.
        macs: multiply-accumulates at batch 1, without those of masked weights.
        base_params: parameters of the original.
        base_macs: multiply-accumulates of the original.
        densities: share of a layer's weights that remain, by layer name.
        widths: input and output channels, by layer name.
        history: per epoch the learning rate, losses, accuracies, seconds.
        seconds: that training took.
        overhead: seconds of everything else that the study did for the cell.
        started: when it was begun, in UTC.
        ended: when it was over, in UTC.
        device: what it was trained on.
        versions: of precrop, Python and the libraries that compute.
    """

    study: str
    cell: str
    run: str | None
    network: str
    args: Mapping[str, Any]
    variant: str
    kind: Literal["dense", "cropped", "masked"]
    method: str
    granularity: str
    asked_params: float | None
    asked_macs: float | None
    seed: int
    data: str
    data_digest: str
    recipe: Mapping[str, Any]
    status: Literal["done", "failed"]
    error: str | None
    accuracy: float | None
    best_accuracy: float | None
    loss: float | None
    params: int | None
    macs: int | None
    base_params: int | None
    base_macs: int | None
    densities: Mapping[str, float]
    widths: Mapping[str, tuple[int, int]]
    history: Sequence[Mapping[str, float]]
    seconds: float
    overhead: float
    started: datetime
    ended: datetime
    device: str
    versions: Mapping[str, str]


NESTED = ("args", "recipe", "densities", "widths", "history", "versions")
"""Fields that a store keeps as JSON."""
FIELDS = tuple(field.name for field in fields(Row))
