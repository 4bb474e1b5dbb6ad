"""Stores weights as safetensors files, whose metadata says how to build the network."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from precrop.deployment.exportable import Exportable, Origin, Runs, run
from precrop.errors import MALFORMED, PrecropError, errors_as
from precrop.files import checked_path
from precrop.model_spec import ModelSpec
from precrop.plans.plan import Plan
from precrop.plans.weights import fill, load_tensors, save_tensors

RECORD = "precrop"
"""Name of the metadata entry that describes the network."""


def write_safetensors(source: Exportable, path: Path) -> None:
    """Write the state_dict and the metadata from which `load_safetensors` builds the network."""
    record = source.facts
    if source.origin is not None:
        record = record | source.origin.model.to_json()
        if source.origin.plan is not None:
            record["plan"] = json.loads(source.origin.plan.to_json())
    metadata = {"format": "pt", RECORD: json.dumps(record)}
    save_tensors(source.model.state_dict(), path, metadata)


def open_safetensors(path: Path, source: Exportable) -> Runs:
    """Return a function that runs the rebuilt network with the file's weights."""
    network = source.emptied()
    fill(network, load_tensors(path), path)
    return lambda arguments: run(network, arguments)


def load_safetensors(
    path: str | Path, model: str | None = None, args: Mapping[str, Any] | None = None
) -> nn.Module:
    """Load the network in a file of `precrop.deployment.exporting.export`, in eval mode.

    No code in the file is run.

    Args:
        path: the file.
        model: the original's name, if the file doesn't have it or names a user's own factory.
        args: keyword arguments for its builder.

    Raises:
        PrecropError: the file is broken, or doesn't say how its network is built.
    """
    path = Path(path)
    record = _record(path)
    text = record.get("plan")
    plan = None if text is None else Plan.from_json(json.dumps(text))
    original = _recorded(path, record) if model is None else ModelSpec(model, args or {})
    tensors = load_tensors(path)
    like = {name: tensor.shape for name, tensor in tensors.items()}
    network = Origin(original, plan).build(like, path)
    fill(network, tensors, path)
    return network.eval()


def _record(path: Path) -> dict[str, Any]:
    with (
        errors_as(f"cannot read {path}", OSError, SafetensorError, *MALFORMED),
        safe_open(checked_path(path), framework="pt") as file,
    ):
        record = json.loads((file.metadata() or {}).get(RECORD, "{}"))
    if not isinstance(record, dict):
        raise PrecropError(f"{path} does not say how its network is built")
    return record


def _recorded(path: Path, record: Mapping[str, Any]) -> ModelSpec:
    """Return the network that a file names; fail if building it would run a user's code."""
    try:
        model = ModelSpec.from_json(record)
    except PrecropError as error:
        raise PrecropError(
            f"{path} does not say which network it is of: name it (model=)"
        ) from error
    model.check(False, f"say model={model.name!r}")
    return model
