"""Weights in whatever file a user has: safetensors, or what ``torch.save`` wrote of a state_dict.

A file of ``torch.save`` is a pickle, which may run code when it is read. It is read by PyTorch's
unpickler for weights alone (``weights_only=True``), which makes tensors and plain values, calls
nothing else, and refuses any other file.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from precrop.errors import PrecropError, errors_as
from precrop.files import open_plain
from precrop.plans.pickles import check_modest
from precrop.plans.weights import fill, load_tensors

_NESTED = ("state_dict", "model", "model_state_dict", "network", "net")
"""Where training scripts put a state_dict among other things, the usual place first."""
_WRAPPERS = ("module.", "_orig_mod.")
"""What DDP and `torch.compile` put before all names."""
_MOST_WRAPPERS = 16
_HOW = "save the network's state_dict alone: torch.save(model.state_dict(), 'weights.pt')"


def load_state(model: nn.Module, path: Path) -> None:
    """Load a user's weights into ``model``, whole or not at all.

    Raises:
        PrecropError: the file is missing, broken, not a state_dict, or one of another model.
    """
    fill(model, renamed(read_state(path), model), path)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a state_dict by name, of safetensors or of ``torch.save``. Runs no code.

    A state_dict within a dict, under ``state_dict`` or ``model`` for one, is found there.

    Raises:
        PrecropError: the file is missing, broken or not a state_dict; then it says what to do.
    """
    with errors_as(f"cannot read {path}", OSError), open_plain(path) as file:
        head = file.read(9)
    pickled = head.startswith((b"PK", b"\x80")) and head[8:] != b"{"
    return _plain(_unpickled(path), path) if pickled else load_tensors(path)


def renamed(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors under the network's names, if theirs differ by a common prefix alone.

    Args:
        state: what DDP, `torch.compile` or a LightningModule saved has ``module.`` and the like
            before all names.
        model: the network.
    """
    wanted = model.state_dict().keys()
    bare = found = state
    for _ in range(_MOST_WRAPPERS):
        if not found or found.keys() == wanted:
            break
        first = next(iter(found)).partition(".")[0] + "."
        if not all(name.startswith(first) and name != first for name in found):
            return bare
        found = {name.removeprefix(first): value for name, value in found.items()}
        bare = found if first in _WRAPPERS else bare
    return found


def _unpickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), open_plain(path) as file:
            warnings.simplefilter("ignore")  # about the age of a file's format
            check_modest(file)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except PrecropError as error:
        raise PrecropError(f"{path} {error}; {_HOW}") from error
    except UnpicklingError as error:
        raise PrecropError(
            f"{path} is not a plain state_dict: it holds code or objects, and only tensors "
            f"are unpickled; {_HOW}"
        ) from error
    except Exception as error:  # whatever a broken file makes PyTorch raise
        raise PrecropError(f"{path} is broken: torch.load cannot read it") from error


def _plain(content: Any, path: Path) -> dict[str, Tensor]:
    """A state_dict, or the one inside a checkpoint's dict."""
    for _ in range(len(_NESTED)):  # one may lie in another; a dict may hold itself
        inner = content if isinstance(content, Mapping) else {}
        key = next((key for key in _NESTED if isinstance(inner.get(key), Mapping)), None)
        if key is None:
            break
        content = inner[key]
    if not isinstance(content, Mapping):
        raise PrecropError(
            f"{path} is not a plain state_dict: it holds a {type(content).__name__}; {_HOW}"
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            where = f"{name!r} is a {type(value).__name__}, no tensor"
            if not isinstance(name, str):  # of which a tuple of tuples could be endless to write
                where = f"a name is a {type(name).__name__}, no text"
            raise PrecropError(f"{path} is not a plain state_dict: {where}; {_HOW}")
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise PrecropError(f"{path}: {name} is not a plain tensor; {_HOW}")
    if not content:
        raise PrecropError(f"{path} holds no tensors; {_HOW}")
    return dict(content)
