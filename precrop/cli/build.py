"""The command ``build``, and the options that ``crop`` shares with it."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import precrop
from precrop.cli.arguments import set_seed
from precrop.cli.options import (
    WEIGHT_FILES,
    AsJson,
    OriginalOptions,
    Seed,
    check_init,
    with_options,
)
from precrop.cli.output import print_line, warnings_as_lines
from precrop.files import check_writable, json_text
from precrop.plans.kinds import Init
from precrop.progress import step

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class BuildOptions:
    """Options for the weights of a plan's network, and for the files that are written."""

    init: Annotated[
        Init,
        "Slice the original's weights, or initialise anew; of trained weights keep the channels "
        "with the largest filters (l1, l2) or batch norm scales (bn).",
    ] = "slice"
    seed: Seed = None
    weights: Annotated[
        Path | None, f"Trained weights of the original to slice: {WEIGHT_FILES}.", "FILE"
    ] = None
    output: Annotated[Path, "A folder, or the first part of the files' names."] = Path()
    as_json: AsJson = False

    def check(self, stem: str) -> None:
        """Refuse, before any work, weights that ``reset`` would discard and unwritable files."""
        check_init(self.init, self.weights)
        prefix = self.output / stem if self.output.is_dir() else self.output
        for suffix in (".safetensors", ".json"):
            check_writable(prefix.parent / f"{prefix.name}{suffix}")

    def write(self, network: "nn.Module", plan: "precrop.Plan", stem: str) -> None:
        """Build the network and write its safetensors and JSON, both or neither."""
        from precrop.plans.state_dicts import load_state
        from precrop.plans.weights import save_built

        if self.weights is not None:
            load_state(network, self.weights)
        with warnings_as_lines(), step("building the cropped network"):
            small = plan.build(network, self.init)
        weights, plan_file = save_built(small, plan, self.output, stem)
        if self.as_json:
            files = {"weights": str(weights), "plan": str(plan_file)}
            typer.echo(json_text({**files, "params": plan.params, "macs": plan.macs}, indent=1))
            return
        print_line(f"{plan.params:,} parameters, {plan.macs:,} MACs: {weights}, {plan_file}")


@with_options
def build_command(
    file: Annotated[Path, typer.Argument(metavar="PLAN", help="A file that `precrop plan` wrote.")],
    original: OriginalOptions,
    built: BuildOptions,
) -> None:
    """Build the cropped network of a plan, and write its weights and the plan."""
    built.check(file.stem)
    plan = precrop.Plan.load(file)
    source = original.source(plan)
    set_seed(built.seed)
    network = original.load(plan)
    plan = dataclasses.replace(plan.for_outputs(network), source=source)
    built.write(network, plan, file.stem)
