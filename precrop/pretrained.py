"""A cropped network in a folder: weights, plan and config, as the Hugging Face Hub expects them.

The folder has three files: ``model.safetensors``, ``plan.json``, and ``config.json``, which names
the original network and its arguments. It may be untrusted: nothing in it is executed, and it can
only have networks of precrop, torchvision and timm built.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from precrop.errors import MALFORMED, PrecropError, errors_as, needs, typed_reason, within
from precrop.files import read_json, replacing
from precrop.model_spec import ModelSpec
from precrop.modules.copying import copied
from precrop.modules.hooks import unwrapped
from precrop.modules.reparametrised import fold
from precrop.plans.build import built_differences, check_built, check_same_network
from precrop.plans.ends import for_built, for_ends
from precrop.plans.plan import Plan
from precrop.plans.weights import FLOATS, fill, load_tensors, save_tensors
from precrop.trust import runs_user_code
from precrop.version import __version__

WEIGHTS, PLAN, CONFIG = "model.safetensors", "plan.json", "config.json"
FILES = (WEIGHTS, PLAN, CONFIG)
FORMAT = 1
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
"""A network's name on the Hub: an account and the name of a repository."""

Original = nn.Module | Callable[[], nn.Module] | str
"""The network that was cropped, a function that makes it, or its name."""


def save_pretrained(
    model: nn.Module,
    plan: Plan,
    folder: str | Path,
    *,
    name: str | None = None,
    args: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a cropped network to a folder that `from_pretrained` reads.

    Args:
        model: the network that ``plan`` built, trained or not. It may be wrapped (`torch.compile`,
            DDP, averaging); masks of `torch.nn.utils.prune` and parametrizations become permanent.
        plan: its plan. If it was made for another number of outputs, it is saved recounted. For a
            network with another head, give ``name``, or `Plan.for_outputs` of its original.
        folder: created if missing. Files of an earlier save are replaced, others stay.
        name: the original's name: ``resnet50``, ``timm:NAME``, ``package.module:factory``. By
            default the plan's; if that has none, `from_pretrained` must be given the original.
        args: keyword arguments that the original was built with, if ``name`` is given.
        metadata: anything else worth keeping, as JSON types: class names, normalisation.

    Raises:
        PlanError: ``model`` is not what the plan builds, or ``name`` not what was planned.
        PrecropError: the folder cannot be written, or ``metadata`` is not JSON.
    """
    model, folder = unwrapped(model), Path(folder)
    if not plan.shapes.keys() <= model.state_dict().keys():
        model = copied(model, lambda _, tensor: tensor.detach().clone())
        fold(model, plan.shapes)
    plan = for_built(plan, model)
    if name is None and args is not None:
        raise PrecropError("args= is for the builder of the original: name it with name=")
    original = plan.source if name is None else ModelSpec(name, dict(args or {}))
    # Build it now, to refuse a name and arguments with which it could not be loaded.
    network = None if original is None else _named(original)
    if network is not None and built_differences(plan, model):
        plan = for_ends(plan, network)
    check_built(plan, model)
    if network is not None:
        check_same_network(plan, network)
    plan = replace(plan, source=original)
    config = {
        "format": FORMAT,
        "library_name": "precrop",
        "name": None if original is None else original.name,
        "args": {} if original is None else dict(original.args),
        "network": plan.network,
        "input_shape": plan.input_shape,
        "params": plan.params,
        "macs": plan.macs,
        "versions": {"precrop": __version__, "torch": str(torch.__version__)},
        "metadata": metadata or {},
    }
    with errors_as("args and metadata must be plain JSON values", *MALFORMED):
        text = json.dumps(config, indent=1, allow_nan=False)
    with errors_as(f"cannot write {folder}", OSError):
        folder.mkdir(parents=True, exist_ok=True)
    with (  # moved into place in reverse order: the weights, then what describes them
        replacing(folder / CONFIG) as config_file,
        replacing(folder / PLAN) as plan_file,
        replacing(folder / WEIGHTS) as weights_file,
    ):
        save_tensors(model.state_dict(), weights_file, {"format": "pt"})
        plan_file.write_text(plan.to_json(), encoding="utf-8")
        config_file.write_text(text + "\n", encoding="utf-8")


def from_pretrained(
    folder: str | Path,
    model: Original | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
) -> nn.Module:
    """Load the network that `save_pretrained` wrote, in eval mode. No code in the files is run.

    Args:
        folder: a folder, or the name of a repository on the Hugging Face Hub, ``user/name``, which
            is downloaded if there is no such folder.
        model: the original network, which stays as it was, or a function without arguments that
            makes it (``lambda: Net(classes=37)``). Not needed for networks of precrop, torchvision
            and timm that were saved with their names. If others were, give the name to allow that
            it is imported and called: ``"package.module:factory"``.
        revision: a branch, tag or commit of the repository.
        token: for a private repository, if the Hub's own login is not to be used.

    Raises:
        PlanError: the plan is broken, or for another network.
        PrecropError: a file is missing or broken, or does not say how the network is built.
    """
    place = _place(folder, revision, token)
    plan = Plan.load(place / PLAN)
    small = plan.build(_original(place, model, plan))
    tensors = load_tensors(place / WEIGHTS)
    _take_types(small, tensors)
    fill(small, tensors, place / WEIGHTS)
    return small.eval()


def push_to_hub(
    folder: str | Path, repository: str, *, private: bool = False, token: str | None = None
) -> str:
    """Upload what `save_pretrained` wrote to the Hugging Face Hub.

    Args:
        folder: only its three files, and ``README.md`` if there is one, are uploaded.
        repository: ``user/name``; it is created if missing.
        private: whether a new repository is private.
        token: for access, if the Hub's own login is not to be used.

    Returns:
        The address of the commit.

    Raises:
        PrecropError: the folder lacks a file, or the upload failed.
    """
    folder = Path(folder)
    for file in FILES:
        if not (folder / file).is_file():
            raise PrecropError(f"{folder} has no {file}: write it with precrop.save_pretrained")
    if not _REPOSITORY.fullmatch(repository):
        raise PrecropError(f"{repository!r} is not a repository: write user/name")
    hub = _hub(f"{repository} cannot be reached")
    # The Hub's client and its connection may raise anything.
    with errors_as(f"cannot upload to {repository}", Exception, told=typed_reason):
        hub.create_repo(repository, token=token, private=private, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repository,
            folder_path=folder,
            token=token,
            allow_patterns=[*FILES, "README.md"],
            commit_message="Upload a network cropped by precrop",
        )
    return str(commit)


def _named(original: ModelSpec) -> nn.Module | None:
    """Build the network of a name and arguments; None for a user's factory, which is not run."""
    if runs_user_code(original.name):
        return None
    original.check(False, "")
    with torch.random.fork_rng(devices=[]):  # so that training continues with the same numbers
        return original.build()


def _original(folder: Path, model: Original | None, plan: Plan) -> nn.Module:
    """Return the network that was cropped: the user's, or one built by what the folder says."""
    if isinstance(model, nn.Module):
        return model
    if model is not None and not isinstance(model, str):
        return _made(model)
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise PrecropError(f"{folder / CONFIG} was not written by save_pretrained")
    if config.get("name") is None:
        raise PrecropError(
            f"{folder} does not say how its network ({config.get('network')}) is built: give the "
            "original, model=, or a function that makes it"
        )
    with within(f"{folder / CONFIG} is broken"):
        original = ModelSpec.from_json(config)
    if isinstance(model, str) and model != original.name:
        raise PrecropError(f"{folder} is of {original.name}, not of {model}")
    original.check(model or False, f"say model={original.name!r}")
    return original.build(plan.shapes, folder / WEIGHTS)


def _made(factory: Any) -> nn.Module:
    if not callable(factory):
        raise PrecropError(
            f"model= is a {type(factory).__name__}: give the original network, a function that "
            "makes it, or its name"
        )
    wanted = "model= must be a network, or a function without arguments that makes it"
    with errors_as(wanted, TypeError):
        made = factory()
    if not isinstance(made, nn.Module):
        raise PrecropError(f"model= gave a {type(made).__name__}, not a torch.nn.Module")
    return made


def _take_types(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Convert a network to the precision in which its weights were saved."""
    for name, value in model.state_dict(keep_vars=True).items():
        if name in tensors and {tensors[name].dtype, value.dtype} <= FLOATS:
            value.data = value.data.to(tensors[name].dtype)


def _place(folder: str | Path, revision: str | None, token: str | None) -> Path:
    """Return the folder; download it if it does not exist and looks like a repository's name."""
    path = Path(folder)
    if path.is_dir():
        return path
    if path.exists() or not _REPOSITORY.fullmatch(str(folder)):
        raise PrecropError(f"{folder} was not written by precrop.save_pretrained")
    hub = _hub(f"{folder} is not a folder here")
    refusal = f"{folder} is not a folder here, and is not on the Hugging Face Hub"
    with errors_as(refusal, Exception, told=typed_reason):  # of the client and its connection
        found = hub.snapshot_download(
            str(folder), revision=revision, token=token, allow_patterns=list(FILES)
        )
    return Path(found)


def _hub(why: str) -> Any:
    with needs(f"{why}, and the Hub needs", "precrop[hub]"):
        import huggingface_hub
    return huggingface_hub
