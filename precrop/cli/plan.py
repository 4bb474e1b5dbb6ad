"""The command ``plan``."""

import shlex
from pathlib import Path
from typing import Annotated

from precrop.cli.arguments import set_seed
from precrop.cli.options import AsJson, InputOptions, Seed, Summary, with_options
from precrop.cli.output import print_line, print_plan
from precrop.cli.planning import PlanOptions
from precrop.files import check_writable


@with_options
def plan_command(
    wanted: PlanOptions,
    source: InputOptions,
    seed: Seed = None,
    output: Annotated[Path | None, "Write the plan to this file."] = None,
    summary: Summary = False,
    as_json: AsJson = False,
) -> None:
    """Decide how wide every layer should be, and show or save it."""
    if output is not None:
        check_writable(output)
    set_seed(seed)
    _, plan = wanted.plan(source)
    try:
        print_plan(plan, as_json, summary)
    finally:  # save the plan even if it can't be printed (closed terminal, full disk)
        if output is not None:
            plan.save(output)
    if output is not None and not as_json:
        name = shlex.quote(str(output))
        print_line(f"Written to {output}; `precrop build {name}` makes the network.")
