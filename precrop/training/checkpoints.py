"""Checkpoints: folders of safetensors and JSON, replaced as a whole, read without pickle.

A checkpoint is a folder of three files. ``model.safetensors`` holds the network's weights under its
``state_dict`` keys, with zeros where masked, so that it fits the plain network.
``state.safetensors`` holds every other tensor (momenta, masks), ``checkpoint.json`` everything that
is not a tensor, and the run's description.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor

from precrop.errors import MALFORMED, PrecropError, errors_as, within
from precrop.files import digest_of, digest_of_file, mode_for, read_json, sync
from precrop.plans.weights import load_tensors, save_tensors

WEIGHTS, STATE, CONTENT = "model.safetensors", "state.safetensors", "checkpoint.json"
FORMAT = 2
_UNCHECKED = 1
"""The format that did not have digests yet."""
_MOST_STEPS = 2**63
NETWORK = "network."
"""Prefix of the network's own keys in the LightningModule's state_dict."""
_MASK, _ORIGINAL = "_mask", "_orig"
"""Suffixes that `torch.nn.utils.prune` gives to masks and to masked parameters."""
_MASKS = "masks/"


class SafetensorsIO(CheckpointIO):
    """Lets Lightning write and read its checkpoints in this format."""

    def __init__(self, run: Mapping[str, Any]) -> None:
        super().__init__()
        self.run = run

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write Lightning's checkpoint to the folder ``path``."""
        write(Path(path), checkpoint, self.run)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read what `save_checkpoint` wrote."""
        return read(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint's folder."""
        shutil.rmtree(path, ignore_errors=True)


def write(path: Path, checkpoint: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Write a checkpoint to the folder ``path``, completely or not at all.

    Raises:
        PrecropError: the folder cannot be written, or a value has a type that JSON does not know.
    """
    state = dict(checkpoint)
    weights, masks = plain_weights(state.pop("state_dict"))
    tensors = {f"{_MASKS}{name}": mask for name, mask in masks.items()}
    rest = _encode(state, "", tensors)
    content = {
        "format": FORMAT,
        "run": run,
        "step": checkpoint["global_step"],
        "channels_last": [name for name, value in tensors.items() if _is_channels_last(value)],
        "rest": rest,
    }
    beside: Any = {"dir": path.parent, "prefix": f".{path.name}.", "ignore_cleanup_errors": True}
    failure = f"cannot write the checkpoint {path}"
    with errors_as(failure, OSError), TemporaryDirectory(**beside) as made:
        temporary = Path(made)
        with within(failure):
            for name, part in {WEIGHTS: weights, STATE: tensors}.items():
                save_tensors(part, temporary / name, {"format": "pt"})
        content["files"] = {name: digest_of_file(temporary / name) for name in (WEIGHTS, STATE)}
        text = json.dumps({**content, "digest": digest_of(content)}, allow_nan=False)
        (temporary / CONTENT).write_text(text, encoding="utf-8")
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        temporary.chmod(mode_for(path, 0o777) | 0o700)
        _swap(temporary, path)


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint that `write` wrote, with the run's description; runs no code of the files.

    Raises:
        PrecropError: a file is missing or broken.
    """
    folder = stored(path)
    if folder is None:
        raise PrecropError(f"{path} holds no checkpoint: there is no {CONTENT}")
    content = described(folder)
    tensors = load_tensors(folder / STATE)
    with errors_as(f"the checkpoint {folder} is broken", AssertionError, *MALFORMED):
        for name in content["channels_last"]:
            tensors[name] = tensors[name].contiguous(memory_format=torch.channels_last)
        checkpoint = _decode(content["rest"], tensors)
        assert isinstance(checkpoint, dict)
        weights = load_tensors(folder / WEIGHTS)
        checkpoint["state_dict"] = masked_state(weights, _masks_among(tensors))
        checkpoint["run"] = content["run"]
    return checkpoint


def described(folder: Path) -> dict[str, Any]:
    """Check the digests of a checkpoint's files and return the content of its JSON.

    Raises:
        PrecropError: a file is missing, broken or changed.
    """
    content = read_json(folder / CONTENT)
    if not isinstance(content, dict) or content.get("format") not in (_UNCHECKED, FORMAT):
        raise PrecropError(f"{folder / CONTENT} is not a checkpoint of format {FORMAT}")
    if type(content.get("step")) is not int or not 0 <= content["step"] < _MOST_STEPS:
        raise PrecropError(f"{folder / CONTENT} is broken: it does not say the step")
    digest, files = content.pop("digest", None), content.get("files", {})
    if content["format"] == _UNCHECKED and digest is None:
        return content
    broken = errors_as(f"the checkpoint {folder} is broken", *MALFORMED)
    with errors_as(f"cannot read the checkpoint {folder}", OSError), broken:
        written = {CONTENT: digest, **files}
        found = {CONTENT: digest_of(content)}
        found |= {name: digest_of_file(folder / name) for name in (WEIGHTS, STATE)}
        changed = next((name for name in found if written.get(name) != found[name]), None)
    if changed is not None:
        raise PrecropError(
            f"{folder / changed} was changed after it was written, by a failing disk perhaps: "
            f"remove {folder} to train from an earlier state"
        )
    return content


def read_masks(folder: Path) -> dict[str, Tensor]:
    """Return a checkpoint's masks by the masked parameters' names; may raise `PrecropError`."""
    return _masks_among(load_tensors(folder / STATE))


def stored(path: Path) -> Path | None:
    """Return where checkpoint ``path`` is: there, or beside it if its replacement was cut short."""
    return next((at for at in (path, _old(path)) if (at / CONTENT).is_file()), None)


def plain_weights(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the plain network's weights, zero where masked, and the masks by parameter name."""
    weights, masks = {}, {}
    for key, value in state_dict.items():
        name = key.removeprefix(NETWORK)
        plain = name.removesuffix(_ORIGINAL)
        mask = state_dict.get(f"{NETWORK}{plain}{_MASK}") if plain != name else None
        if mask is not None:
            weights[plain] = value * mask
            masks[plain] = mask.bool()
        elif not (name.endswith(_MASK) and f"{key.removesuffix(_MASK)}{_ORIGINAL}" in state_dict):
            weights[name] = value
    return weights, masks


def masked_state(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `plain_weights`: return the LightningModule's state_dict."""
    state = {}
    for name, value in weights.items():
        if name in masks:
            state[f"{NETWORK}{name}{_ORIGINAL}"] = value
            state[f"{NETWORK}{name}{_MASK}"] = masks[name].to(value.dtype)
        else:
            state[f"{NETWORK}{name}"] = value
    return state


def _masks_among(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(_MASKS): t for n, t in tensors.items() if n.startswith(_MASKS)}


def _swap(new: Path, target: Path) -> None:
    """Replace ``target`` by ``new``; the old one stays beside it until that is done."""
    old = _old(target)
    if os.path.lexists(target):
        _remove(old)
        target.rename(old)
    new.rename(target)
    sync(target.parent)
    _remove(old)


def _remove(path: Path) -> None:
    """Remove a folder and its content, or a file or link; what a link points to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _old(path: Path) -> Path:
    return path.parent / f"{path.name}.old"


def _is_channels_last(tensor: Tensor) -> bool:
    return (
        tensor.dim() == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    )


def _encode(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """Return ``value`` in JSON's types; its tensors go to ``tensors`` under their place in it."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}  # JSON has none for NaN and infinity
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        tensors[where] = value
        return {"tensor": where}
    if isinstance(value, Mapping):
        items = [[key, _encode(item, f"{where}/{key}", tensors)] for key, item in value.items()]
        return {"dict": items}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(item, f"{where}/{i}", tensors) for i, item in enumerate(value)]}
    raise PrecropError(f"a checkpoint cannot hold {where}, a {type(value).__name__}")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `_encode`."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "number":
        return float(content)
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    items = [_decode(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)
