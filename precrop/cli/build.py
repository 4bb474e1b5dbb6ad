"""The command ``build``. Heavy imports wait inside it, as in `precrop.cli.app`."""

from precrop.cli.arguments import set_seed
from precrop.cli.building import BuildOptions
from precrop.cli.options import OriginalOptions, PlanFile, with_options


@with_options
def build_command(plan_file: PlanFile, original: OriginalOptions, built: BuildOptions) -> None:
    """Build the cropped network of a plan: writes its weights and the plan beside them."""
    built.check(plan_file.stem)
    from precrop.plans.plan import Plan

    plan = Plan.load(plan_file)
    set_seed(built.seed)
    built.write(original.load(plan), plan, plan_file.stem)
