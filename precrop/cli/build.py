"""The command ``build``."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

import precrop
from precrop.cli.arguments import set_seed
from precrop.cli.building import BuildOptions
from precrop.cli.options import OriginalOptions, with_options
from precrop.progress import step


@with_options
def build_command(
    file: Annotated[Path, typer.Argument(metavar="PLAN", help="A file that `precrop plan` wrote.")],
    original: OriginalOptions,
    built: BuildOptions,
) -> None:
    """Build the cropped network of a plan: writes its weights and the plan beside them."""
    built.check(file.stem)
    plan = precrop.Plan.load(file)
    source = original.source(plan)
    set_seed(built.seed)
    with step(f"building {source.name}"):
        network = source.build(plan.shapes)
    plan = dataclasses.replace(plan.for_outputs(network), source=source)
    built.write(network, plan, file.stem)
