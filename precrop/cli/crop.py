"""The command ``crop``."""

from precrop.cli.arguments import file_stem, set_seed
from precrop.cli.build import BuildOptions
from precrop.cli.options import InputOptions, with_options
from precrop.cli.planning import PlanOptions


@with_options
def crop_command(wanted: PlanOptions, source: InputOptions, built: BuildOptions) -> None:
    """Plan and build in one step, and write the weights and the plan."""
    stem = file_stem(source.model)
    built.check(stem)
    set_seed(built.seed)
    network, plan = wanted.plan(source)
    built.write(network, plan, stem)
