"""The command ``export``. Heavy imports wait inside it, as in `precrop.cli.app`."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from precrop.cli.arguments import Args, Trusted, arguments, plan_source, set_seed
from precrop.cli.arguments import input_shape as read_shape
from precrop.errors import PrecropError
from precrop.trust import Trust

if TYPE_CHECKING:
    from torch import nn

    from precrop.deployment.exporting import Export, Origin


class _Network(NamedTuple):
    """A network to be exported, the shape of its input, how it is built, and a name for files."""

    model: "nn.Module"
    shape: Any
    origin: "Origin"
    stem: str


def export_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PLAN|CHECKPOINT|MODEL",
            help="A plan file; the folder of a run of `precrop train`, or one of its checkpoints; "
            "or a model by name, to export as it is.",
        ),
    ],
    format_: Annotated[
        Literal["onnx", "pt2", "safetensors"],
        typer.Option(
            "--format", help="ONNX; PyTorch's own exported program; or weights to load back."
        ),
    ] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The file, or a folder for it."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.safetensors", help="The exported network's weights; else initial ones."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="The plan's original, if not its own; of a run, its network."
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="The one batch size that the file takes; any by default.")
    ] = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(metavar="SHAPE", help="3,224,224 or 3x224x224; repeat for several inputs."),
    ] = None,
    arg: Args = None,
    trust: Trusted = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the initial weights.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a network to a file for other programs, and check the file by running it."""
    from precrop.deployment.exporting import FORMATS, export

    set_seed(seed)
    found = _find(source, model, arg, input_shape, weights, trust)
    path = _target(output, found.stem, FORMATS[format_].suffix)
    made = export(found.model, found.shape, path, format_, batch=batch, origin=found.origin)
    if as_json:
        typer.echo(json.dumps(made.to_json()))
    else:
        typer.echo(_line(made))


def _find(
    source: str,
    model: str | None,
    arg: Sequence[str] | None,
    shapes: Sequence[str] | None,
    weights: Path | None,
    trust: bool,
) -> _Network:
    """What is to be exported: a folder is a checkpoint, a file too or a plan, else it's a name."""
    path = Path(source)
    if _is_checkpoint(path):
        given = {"--arg": arg, "--weights": weights}
        for option, value in given.items():
            if value:
                raise PrecropError(f"a checkpoint has its own network and weights: drop {option}")
        found = _of_checkpoint(path, model or trust)
    elif path.is_file():
        found = _of_plan(path, model, arg, trust)
    elif path.suffix == ".json" or len(path.parts) > 1:
        raise PrecropError(f"cannot read {source}: there is no such file")
    elif model is not None:
        raise PrecropError(f"--model names a plan's original, and {source} is no plan file")
    else:
        found = _of_model(source, arg, known=bool(shapes))
    if weights is not None:
        from precrop.plans.weights import load_weights

        load_weights(found.model, weights)
    if not shapes:
        return found
    read = [read_shape(text) for text in shapes]
    return found._replace(shape=read[0] if len(read) == 1 else read)


def _is_checkpoint(path: Path) -> bool:
    """Whether a path is a folder, or a file beside a checkpoint's own."""
    return path.is_dir() or (path.is_file() and (path.parent / "checkpoint.json").is_file())


def _of_checkpoint(path: Path, trust: Trust) -> _Network:
    """A run's network with trained weights; masked ones are zeros in it."""
    try:
        from precrop.training.evaluate import load_trained
    except ImportError as error:
        raise PrecropError(
            f"checkpoints need {error.name}, which is not installed: pip install 'precrop[train]'"
        ) from error
    from precrop.deployment.exporting import Origin

    _, run, network = load_trained(path, trust)
    return _Network(network, run.input_shape, Origin(run.model, run.args, run.plan), run.name)


def _of_plan(path: Path, model: str | None, arg: Sequence[str] | None, trust: bool) -> _Network:
    from precrop.deployment.exporting import Origin
    from precrop.plans.plan import Plan

    plan = Plan.load(path)
    name, args = plan_source(plan, model, arg, trust)
    origin = Origin(name, args, plan)
    return _Network(origin.build(), plan.input_shape, origin, path.stem)


def _of_model(name: str, arg: Sequence[str] | None, *, known: bool) -> _Network:
    """A network by name; the shape of its input where it isn't known otherwise."""
    from precrop.deployment.exporting import Origin
    from precrop.zoo import default_input_shape

    origin = Origin(name, arguments(arg))
    network = origin.build()
    shape = None if known else default_input_shape(name, network)
    return _Network(network, shape, origin, re.sub(r"[^\w.-]", "-", name))


def _target(output: Path | None, stem: str, suffix: str) -> Path:
    """Where the file goes. A name that nobody said replaces nothing: weights may have it."""
    if output is not None and not output.is_dir():
        return output
    path = (output or Path()) / f"{stem}{suffix}"
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
        f"{batches}: {made.difference:.1e} of the outputs' scale from PyTorch's{doubt}"
    )
