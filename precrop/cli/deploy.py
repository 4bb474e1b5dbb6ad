"""The command ``deploy``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from precrop.cli.arguments import file_stem, shapes
from precrop.cli.options import LastJson, ModelOptions, check_init, with_options
from precrop.cli.output import goes_on, warn
from precrop.cli.planning import WidthOptions
from precrop.cli.train import RecipeOptions
from precrop.errors import PrecropError, needs
from precrop.files import json_text
from precrop.plans.kinds import Init
from precrop.plans.text import bare_table, plain, wide_console
from precrop.progress import note

if TYPE_CHECKING:
    from precrop.deployment.deploying import Deployed, Times

_LATE = 1.1
"""A file gets a warning if its measured time exceeds this multiple of the asked time."""
_COLUMNS = 120


@with_options
def deploy_command(
    source: ModelOptions,
    wanted: WidthOptions,
    recipe: RecipeOptions,
    data: Annotated[
        str | None,
        "Training images: digits (built in), cifar10, cifar100, or a folder; --epochs 0 leaves "
        "out training.",
        "DATA",
    ] = None,
    out: Annotated[
        Path | None, "The folder for all that is made; deployed/MODEL-LATENCY by default.", "DIR"
    ] = None,
    format_: Annotated[
        Literal["onnx", "pt2"], "For ONNX Runtime, or PyTorch's own exported program."
    ] = "onnx",
    threads: Annotated[int, "CPU threads that the file is to run on."] = 1,
    rounds: Annotated[int, "Passes per measured time, which is their median."] = 20,
    init: Annotated[Init, "How the cropped network gets its weights, as for train."] = "slice",
    seed: Annotated[int, "Seed of the weights and of the training."] = 0,
    as_json: LastJson = False,
) -> None:
    """Make a trained file that meets a latency: profile, plan, train, export, check, measure.

    The same command resumes where it was stopped: the folder keeps the result of every step.
    """
    keywords = wanted.keywords()
    if wanted.latency is None:
        raise PrecropError("give the time that is to be met: --latency 8ms, or a share, 0.5")
    if data is None and recipe.epochs != 0:
        raise PrecropError(
            "give the training images with --data, or skip the training with --epochs 0"
        )
    check_init(init, None, "for trained ones there are plan, build --weights and export")
    changes, shape = recipe.changed(), shapes(source.input_shape)
    spec = source.spec
    folder = out or Path("deployed", file_stem(f"{source.model}-{wanted.latency}"))
    note(f"{spec} within {wanted.latency}, in {folder}")
    if data is not None:
        with needs("training needs", "precrop[train]"):
            import precrop.training.loop  # noqa: F401
    from precrop.deployment.deploying import deploy

    with goes_on(f" from {folder}"):
        found = deploy(
            spec,
            output=folder,
            data=data,
            input_shape=shape,
            recipe=recipe.recipe,
            changes=changes,
            init=init,
            seed=seed,
            format=format_,
            threads=threads,
            rounds=rounds,
            progress=note,
            **keywords,
        )
    if as_json:
        typer.echo(json_text(found.to_json()))
    else:
        _print(found)
    if found.used > _LATE:
        warn(f"the file takes {found.used:.0%} of the asked time: measure again when it is quiet")


def _print(found: "Deployed") -> None:
    plan = found.plan
    table = bare_table("", "original", "deployed", "", words=("",))
    asked = f"asked {1e3 * found.limit:.3f}: {found.used:.0%} of it"
    table.add_row("ms", _milliseconds(found.dense), _milliseconds(found.deployed), asked)
    sizes = {
        "parameters": (plan.base_params, plan.params),
        "MACs": (plan.base_macs, plan.macs),
    }
    for name, (before, after) in sizes.items():
        table.add_row(name, f"{before:,}", f"{after:,}", f"{after / before:.1%}")
    console = wide_console(_COLUMNS)
    console.print(table)
    right = "initial weights"
    if found.accuracy is not None:
        right = f"accuracy {found.accuracy:.2%} on {found.images:,} held-out images"
    away = f"largest difference from PyTorch {found.difference:.1e} of the largest output"
    console.print(plain(f"{found.file}: {right}; {away}"))
    console.print("Milliseconds are medians of fresh sessions that took turns, and their extremes.")
    if not found.quiet.enough:
        console.print(plain(f"The machine was busy: {found.quiet}."))


def _milliseconds(times: "Times") -> str:
    median, least, most = (f"{1e3 * s:.3f}" for s in (times.median, times.least, times.most))
    return f"{median} ({least} to {most})"
