"""Reads a user's weights: safetensors, or a state_dict that ``torch.save`` wrote.

A ``torch.save`` file is a pickle, which may run code when it is loaded. PyTorch's restricted
unpickler (``weights_only=True``) reads it; that makes only tensors and plain values, and calls
nothing else. Other objects in it (a checkpoint's arguments, NumPy numbers) are left out.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any, Self

import torch
from torch import Tensor, nn

from precrop.errors import PrecropError, errors_as
from precrop.files import open_plain
from precrop.forking import process_lock
from precrop.plans.pickles import check_modest
from precrop.plans.weights import StateDict, fill, load_tensors

_NESTED = (
    *("state_dict", "model", "model_state_dict", "model_state", "network", "net", "weights"),
    *("params", "state_dict_ema", "model_ema"),
)
"""Keys under which training scripts save a state_dict among other things, the usual one first."""
_COUNT = "num_batches_tracked"
"""Batch norms before PyTorch 0.4.1 lack this buffer; it is only used if their momentum is None."""
_MOST_PREFIXES = 16
_MOST_LEFT_OUT = 64
"""Most types of objects that are left out; a whole network has more, and is refused anyway."""
_LOADING = process_lock()  # warning filters and the safe globals are shared by all threads
_HOW = "save the network's state_dict alone: torch.save(model.state_dict(), 'weights.pt')"


def load_state(model: nn.Module, path: Path) -> None:
    """Load a user's weights into ``model``, whole or not at all.

    Raises:
        PrecropError: the file is missing, broken, not a state_dict, or one of another model.
    """
    fill(model, renamed(read_state(path), model), path)


def read_state(path: Path) -> StateDict:
    """Read a state_dict from a safetensors or ``torch.save`` file, without running any code.

    A state_dict nested in a dict (under ``state_dict`` or ``model``, for example) is found, too.

    Raises:
        PrecropError: the file is missing, broken or not a state_dict; the message says what to do.
    """
    with errors_as(f"cannot read {path}", OSError), open_plain(path) as file:
        head = file.read(9)
    pickled = head.startswith((b"PK", b"\x80")) and head[8:] != b"{"
    return _plain(_unpickled(path), path) if pickled else StateDict(load_tensors(path), {})


def renamed(state: Mapping[str, Tensor], model: nn.Module) -> StateDict:
    """Return the tensors under the network's names, without a prefix that they have in common.

    DDP, `torch.compile` or a LightningModule put ``module.`` and the like before the names. Tensors
    without the prefix (a loss's weights, an average's count) are left out. The batch counts that
    old batch norms lack are taken from the network.

    Raises:
        PrecropError: the file holds several such networks, each under another prefix.
    """
    own = model.state_dict()
    counts = {name: value for name, value in own.items() if name.endswith(_COUNT)}
    needed = own.keys() - counts.keys()
    first = next((name for name in own if name in needed), "")
    ends = (name for name in state if f".{name}".endswith(f".{first}"))
    below = {
        prefix: {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        for prefix in sorted((name.removesuffix(first) for name in ends), key=len)[:_MOST_PREFIXES]
    }
    fitting = [prefix for prefix, found in below.items() if found.keys() >= needed]
    if len(fitting) > 1:
        raise PrecropError(
            f"the file holds {len(fitting)} such networks, as {' and '.join(fitting)}*: save the "
            "state_dict of one alone"
        )
    prefix = max(below, key=lambda each: len(below[each].keys() & needed), default="")
    versions: Mapping[str, Any] = getattr(state, "_metadata", {})
    return StateDict(
        counts | below.get(prefix, dict(state)),
        # Versions are stored by module: the name of a tensor up to its last dot.
        {
            f"{name}.".removeprefix(prefix)[:-1]: version
            for name, version in versions.items()
            if f"{name}.".startswith(prefix)
        },
    )


class _LeftOut:
    """Stand-in for an object that is neither a tensor nor a plain value, which is never made."""

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Keep nothing."""


def _unpickled(path: Path) -> Any:
    try:
        with _LOADING, warnings.catch_warnings(), open_plain(path) as file:
            warnings.simplefilter("ignore")  # such as those about an old file format
            check_modest(file)
            file.seek(0)
            with torch.serialization.safe_globals(_left_out(file)):
                return torch.load(file, map_location="cpu", weights_only=True)
    except PrecropError as error:
        raise PrecropError(f"{path} {error}; {_HOW}") from error
    except UnpicklingError as error:
        raise PrecropError(
            f"{path} is not a plain state_dict: it holds code or objects, and only tensors "
            f"are unpickled; {_HOW}"
        ) from error
    except Exception as error:  # a broken file may make PyTorch raise anything
        raise PrecropError(f"{path} is broken: torch.load cannot read it") from error


def _left_out(file: IO[bytes]) -> list[Any]:
    """Return stand-ins for the other objects that an archive names; none for the older format."""
    archived = file.read(2) == b"PK"
    file.seek(0)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file) if archived else []
    file.seek(0)
    return [(_LeftOut, name) for name in names[:_MOST_LEFT_OUT]]


def _plain(content: Any, path: Path) -> StateDict:
    """Return a file's content as a state_dict, or the state_dict in a checkpoint's dict."""
    for _ in range(len(_NESTED)):  # dicts may be nested, and one may even contain itself
        inner = _entries(content)
        key = next((key for key in _NESTED if isinstance(inner.get(key), dict)), None)
        if key is None:
            break
        content = inner[key]
    if not isinstance(content, dict):
        raise PrecropError(f"{path} is not a plain state_dict: it holds {_kind(content)}; {_HOW}")
    tensors = {}
    for name, value in _entries(content).items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            where = f"{name!r} is {_kind(value)}, no tensor"
            if not isinstance(name, str):  # not shown: nested tuples may take forever to print
                where = f"a name is {_kind(name)}, no text"
            raise PrecropError(f"{path} is not a plain state_dict: {where}; {_HOW}")
        tensors[name] = tensor = Tensor.detach(value)
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise PrecropError(f"{path}: {name} is not a plain tensor; {_HOW}")
    if not tensors:
        raise PrecropError(f"{path} holds no tensors; {_HOW}")
    return StateDict(tensors, _versions(content))


def _entries(value: object) -> dict[Any, Any]:
    """Return a copy of a dict; an empty one for any other value.

    Here and for tensors, methods are called through the class: a file may set attributes on its
    objects that hide their methods.
    """
    return dict(dict.items(value)) if isinstance(value, dict) else {}


def _versions(state: object) -> dict[str, dict[str, int]]:
    """Return the module versions in a state_dict's metadata, and nothing else that it holds."""
    said = _entries(getattr(state, "_metadata", None))
    versions = {name: _entries(about).get("version") for name, about in said.items()}
    return {
        name: {"version": version}
        for name, version in versions.items()
        if isinstance(name, str) and type(version) is int
    }


def _kind(value: object) -> str:
    """Describe the type of a value in a few words."""
    kind = type(value).__name__
    return "an object (a whole network?)" if kind == _LeftOut.__name__ else f"a {kind}"
