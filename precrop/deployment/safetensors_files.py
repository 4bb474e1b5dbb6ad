"""Weights as safetensors, and in the file's metadata how their network is built."""

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
"""The entry of the metadata that says what the network is."""


def write_safetensors(source: Exportable, path: Path) -> None:
    """Write the state_dict; `load_safetensors` makes the network from it."""
    record = source.facts
    if source.origin is not None:
        record = record | source.origin.model.to_json()
        if source.origin.plan is not None:
            record["plan"] = json.loads(source.origin.plan.to_json())
    metadata = {"format": "pt", RECORD: json.dumps(record)}
    save_tensors(source.model.state_dict(), path, metadata)


def open_safetensors(path: Path, source: Exportable) -> Runs:
    """Run the weights in the network built anew."""
    network = source.emptied()
    fill(network, load_tensors(path), path)
    return lambda arguments: run(network, arguments)


def load_safetensors(
    path: str | Path, model: str | None = None, args: Mapping[str, Any] | None = None
) -> nn.Module:
    """The network in a file of `precrop.deployment.exporting.export`, in eval mode.

    Runs no code of the file's.

    Args:
        path: the file.
        model: the original's name, where the file doesn't say it, or names a user's own factory.
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
    """The network that a file names, unless building it would run a user's code."""
    try:
        model = ModelSpec.from_json(record)
    except PrecropError as error:
        raise PrecropError(
            f"{path} does not say which network it is of: name it (model=)"
        ) from error
    model.check(False, f"say model={model.name!r}")
    return model
