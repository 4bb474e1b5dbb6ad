"""The options of ``plan`` and ``crop``: budgets, and how widths are found within them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import precrop
from precrop.cli.options import InputOptions, Macs, Params
from precrop.cli.output import warn
from precrop.errors import PrecropError, check_once
from precrop.files import read_json
from precrop.progress import note, step
from precrop.solve.budgets import UNITS, parse_budget
from precrop.trust import runs_user_code

if TYPE_CHECKING:
    from torch import nn

_ANY = 2**50
"""Stands for the original's cost while it is unknown; every sensible share of it is above 0."""
_DIGITS = 12
"""Most digits of a number of channels."""


@dataclass(frozen=True)
class WidthOptions:
    """Arguments of `precrop.plan`, with the same names and defaults as there."""

    params: Params = None
    macs: Macs = None
    latency: Annotated[
        str | None, "Budget of time for one pass, as the profile predicts it: 0.5, 50%, 8ms."
    ] = None
    memory: Annotated[str | None, "Budget of activations alive at once: 0.5, 50%, 64MB."] = None
    costs: Annotated[
        list[str] | None, "Budget of a plugin's own cost; repeatable.", "NAME=BUDGET"
    ] = None
    device_profile: Annotated[
        str | None,
        "The device whose time counts: a file of `precrop profile`; or cpu, cuda: rough estimates.",
        "FILE.json",
    ] = None
    divisor: Annotated[
        str,
        "With 8 every width is a multiple of 8, or that of the original. auto: the profile's step "
        "(16 without one), halved where budgets or narrow layers need it.",
    ] = "auto"
    min_width: Annotated[int, "No layer gets narrower than this."] = 1
    expand: Annotated[bool, "Layers may also widen (PreConfig)."] = False
    balance: Annotated[
        float, "Penalty on cropping a layer's inputs and outputs unevenly; large: uniform width."
    ] = 1.0
    objective: Annotated[
        str,
        "synexp, exact, exact-output, dense-layers, inner-layers: what the widths maximise; or a "
        "function of yours, module:function, whose module is run.",
    ] = "synexp"
    densities: Annotated[
        Path | None,
        "Densities to come close to, as `precrop densities --json` prints them.",
        "FILE.json",
    ] = None
    rule: Annotated[
        str,
        "balanced; uniform: the same share of every width; or densities first, then channels: "
        "sqrt-min, sqrt-max, geometric-mean.",
    ] = "balanced"
    residual: Annotated[
        Literal["tie", "crop"],
        "Layers at a residual sum share one width (tie), or each has its own (crop).",
    ] = "tie"
    ignore: Annotated[
        list[str] | None, "Layers that keep their width (layer4.*); repeatable.", "PATTERN"
    ] = None
    groups: Annotated[
        Literal["keep", "scale"],
        "Grouped convolutions keep their number of groups (keep), or their groups' width (scale).",
    ] = "keep"
    drop_unused: Annotated[bool, "Leave out modules that no forward pass calls."] = False

    def keywords(self) -> dict[str, Any]:
        """Return the keyword arguments for `precrop.plan`."""
        if runs_user_code(self.objective):
            from precrop.strategies.objectives import take_own_objective

            take_own_objective(self.objective)
        costs = _budgets(self.costs)
        for name, asked in {**{name: getattr(self, name) for name in UNITS}, **costs}.items():
            if asked is not None:
                parse_budget(name, asked, _ANY)  # before anything is imported and built
        read = {
            "costs": costs,
            "divisor": _divisor(self.divisor),
            "densities": None if self.densities is None else _read_densities(self.densities),
            "ignore": tuple(self.ignore or ()),
        }
        return {**vars(self), **read}


@dataclass(frozen=True)
class PlanOptions(WidthOptions):
    """All options for making one plan."""

    batch_size: Annotated[int, "Inputs in one pass, for --latency and --memory."] = 1
    calibrate: Annotated[
        bool, "Measure the planned network and correct the plan until it is fast enough."
    ] = False

    def plan(self, source: InputOptions) -> tuple["nn.Module", "precrop.Plan"]:
        """Return the network and its plan, which stores the network's name and arguments."""
        keywords = self.keywords()
        calibrated = keywords.pop("calibrate")
        model, inputs = source.load()
        if calibrated:
            plan = _calibrated(model, inputs, **keywords)
        else:
            with step(f"planning {source.model}"):
                plan = precrop.plan(model, inputs, **keywords)
        _warn_if_slack(plan)
        return model, dataclasses.replace(plan, source=source.spec)


def _calibrated(
    model: "nn.Module", inputs: Any, *, latency: str | None, **options: Any
) -> "precrop.Plan":
    """Return a plan that measurements of its network corrected; warn if it is too slow."""
    from precrop.deployment.calibrating import calibrate

    if latency is None:
        raise PrecropError("--calibrate needs a time to meet: give --latency")
    parse_budget("latency", latency, UNITS["latency"].suffixes["s"])  # before anything is measured
    found = calibrate(model, inputs, latency, progress=_say, **options)
    for number, attempt in enumerate(found.attempts, 1):
        _say(
            f"plan {number}: {attempt.seconds * 1e3:.3f} ms, {attempt.used:.1%} of the asked "
            f"{attempt.limit * 1e3:.3f} ms (the original {attempt.dense * 1e3:.3f} ms)"
        )
    if not found.met:
        tried = f"the fastest of {len(found.attempts)} that were measured"
        warn(f"no plan was fast enough; this is {tried}")
    return found.plan


def _say(doing: str) -> None:
    note(f"calibrating: {doing}")


def _warn_if_slack(plan: "precrop.Plan") -> None:
    """Warn if nothing is cropped because a budget is above the original, and layers can't widen."""
    above = [name for name, budget in plan.budgets.items() if budget.limit > budget.base]
    if above and plan.params == plan.base_params and not plan.options["expand"]:
        asked = plan.budgets[above[0]].asked
        more = "takes" if above[0] == "latency" else "has; --expand lets layers widen"
        warn(f"nothing is cropped: {above[0]}={asked} is more than the original {more}")


def _budgets(pairs: Sequence[str] | None) -> dict[str, str]:
    """Return budgets by cost, from ``NAME=BUDGET`` pairs."""
    found: dict[str, str] = {}
    for pair in pairs or ():
        name, _, budget = pair.partition("=")
        if not name or not budget:
            raise PrecropError(f"--cost {pair} is not like energy=0.5")
        check_once(name, budget, found)
        found[name] = budget
    return found


def _divisor(text: str) -> int | Literal["auto"]:
    """Parse ``auto`` or a number of channels."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or len(text) > _DIGITS:
        shown = text if len(text) <= _DIGITS else text[:_DIGITS] + "…"
        raise PrecropError(f"--divisor {shown} is not a number of channels: write 8, or auto")
    return int(text)


def _read_densities(path: Path) -> dict[str, float]:
    """Read a JSON file ``{layer name: density}``; its numbers are checked where they are used."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise PrecropError(f"{path} is not like {{layer name: density}}")
    if {"schema", "layers"} <= content.keys():
        raise PrecropError(
            f"{path} is a plan, not densities: `precrop densities --json` prints those, and "
            f"`precrop build {path}` builds its network"
        )
    return content
