"""The command ``export``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

import precrop
from precrop.cli.arguments import arguments, file_stem, set_seed, shapes
from precrop.cli.options import (
    WEIGHT_FILES,
    AsJson,
    InputFactory,
    InputShapes,
    Seed,
    TrainedOptions,
    check_factory,
    inputs_of,
    with_options,
)
from precrop.cli.output import print_line
from precrop.errors import PrecropError, needs
from precrop.files import json_text
from precrop.model_spec import ModelSpec
from precrop.progress import step
from precrop.trust import runs_user_code

if TYPE_CHECKING:
    from torch import nn

    from precrop.deployment.exporting import Export, Origin


class _Network(NamedTuple):
    """A network to export, the shape of its input, how it is built, and the stem of its files.

    The shape is None for a network by name. ``metadata`` is what users of a trained network need,
    such as its classes and the mean and std of its images.
    """

    model: "nn.Module"
    shape: Any
    origin: "Origin"
    stem: str
    metadata: Mapping[str, Any] | None = None


@with_options
def export_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PLAN|CHECKPOINT|MODEL",
            help="A plan file; the folder of a run of `precrop train`, or one of its checkpoints; "
            "or a model by name, to export as it is.",
        ),
    ],
    original: TrainedOptions,
    format_: Annotated[
        Literal["onnx", "pt2", "safetensors"] | None,
        "ONNX; PyTorch's own exported program; or weights to load back. By default as the file's "
        "name ends, or ONNX if it has no ending.",
    ] = None,
    output: Annotated[Path | None, "The file, or a folder for it.", "FILE"] = None,
    weights: Annotated[
        Path | None, f"Weights of the exported network ({WEIGHT_FILES}); else initial ones.", "FILE"
    ] = None,
    batch: Annotated[int | None, "Export for this one batch size; any by default."] = None,
    input_shape: InputShapes = None,
    input: InputFactory = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Write a network to a file for other programs, and check the file by running it."""
    from precrop.deployment.exporting import FORMATS, export, format_of

    check_factory(input, input_shape)
    set_seed(seed)
    said = shapes(input_shape)
    file = None if output is None or output.is_dir() else output
    kind = format_of(file or Path(), format_)  # a bad format is refused before building a network
    with step(f"building {source}"):
        found = _find(source, original, weights)
        given = inputs_of(source, found.model, input, said or found.shape)
    path = file or _unused(output or Path(), f"{found.stem}{FORMATS[kind].suffix}")
    with step(f"exporting {found.stem} as {kind} and running the file"):
        made = export(
            found.model,
            given,
            path,
            kind,
            batch=batch,
            origin=found.origin,
            metadata=found.metadata,
        )
    print_line(json_text(made.to_json()) if as_json else _line(made))


def _find(source: str, original: TrainedOptions, weights: Path | None) -> _Network:
    """Find what to export: a folder, or a file next to ``checkpoint.json``, is a checkpoint.

    Any other file is a plan, and anything else is the name of a network.
    """
    from precrop.deployment.exporting import Origin
    from precrop.plans.state_dicts import load_state

    path = Path(source)
    if path.is_dir() or (path.is_file() and (path.parent / "checkpoint.json").is_file()):
        for option, value in {"--arg": original.arg, "--weights": weights}.items():
            if value:
                raise PrecropError(f"a checkpoint has its own network and weights: drop {option}")
        with needs("checkpoints need", "precrop[train]"):
            from precrop.training.evaluate import load_trained
        _, run, network = load_trained(path, original.trusted)  # masked weights are zeros in it
        origin = Origin(run.model, run.plan)
        found = _Network(network, run.input_shape, origin, run.name, run.metadata)
    elif path.is_file():
        plan = precrop.Plan.load(path)
        origin = Origin(original.source(plan), plan)
        found = _Network(origin.build(), plan.input_shape, origin, path.stem)
    elif path.suffix == ".json" or (len(path.parts) > 1 and not runs_user_code(source)):
        raise PrecropError(f"cannot read {source}: there is no such file")
    elif original.model is not None:
        raise PrecropError(f"--model names a plan's original, and {source} is not a plan file")
    else:
        origin = Origin(ModelSpec(source, arguments(original.arg)))
        found = _Network(origin.build(), None, origin, file_stem(source))
    if weights is not None:
        load_state(found.model, weights)
    return found


def _unused(folder: Path, name: str) -> Path:
    """Return a path with the default name; refuse an existing file, which may hold weights."""
    path = folder / name
    if path.exists():
        raise PrecropError(f"{path} is there already: say -o {path} to replace it")
    return path


def _line(made: "Export") -> str:
    batch = "any batch size" if made.batch is None else f"batches of {made.batch}"
    batches = " and ".join(map(str, made.batches))
    files = ", ".join(map(str, made.files))
    doubt = "" if made.telling else " (which do not depend on the input: the weights are initial)"
    return (
        f"{files}: {made.bytes / 1e6:.1f} MB, for {batch}; run by {made.runtime} at batch "
        f"{batches}: largest difference from PyTorch {made.difference:.1e} of the largest "
        f"output{doubt}"
    )
