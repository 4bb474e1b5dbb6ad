"""Plans as tables for the terminal; Rich is imported only when drawing (`precrop.plans.text`)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from precrop.errors import printable
from precrop.plans.multiples import REASONS
from precrop.plans.text import bare_table, change, plain, wide_console
from precrop.read.known import TRAIN_MODE
from precrop.solve.budgets import written

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    from precrop.plans.plan import Plan

_BAR = 32
_COLUMNS = 110  # where the output is not a terminal
_NAMES_SHOWN = 4
_CLOSE = 0.1
"""Largest distance from uniform width that counts as close to it."""
_PRECISE = 1e-6
"""Precision of the solver; smaller multipliers count as zero."""
_COSTS = {"params": "parameters", "macs": "MACs", "memory": "activations"}


def network_name(plan: "Plan") -> str:
    """Return the network's name on the command line, or else its class."""
    return plan.source.name if plan.source else plan.network.rpartition(":")[2]


def show(plan: "Plan", console: "Console | None" = None) -> None:
    """Print the widths layer by layer, the totals, the notes and how long planning took."""
    console = wide_console(_COLUMNS, console)
    console.print(layer_table(plan))
    console.print()
    console.print(total_table(plan))
    console.print()
    for line in notes(plan):
        console.print(plain(line))
    console.print(plain(f"Planned in {plan.seconds:.3f} s."))


def notes(plan: "Plan", *, brief: bool = False) -> Iterator[str]:
    """Yield notes on a plan besides its widths, one per line; only the main ones if ``brief``."""
    yield from latency_lines(plan)
    yield from frozen_lines(plan)
    yield from outputs_lines(plan)
    if not brief and plan.left_out:
        yield f"Left out, as no pass calls them: {_some(plan.left_out)}"
    if plan.widened:
        most = max(new / old for old, new in plan.widened.values())
        yield f"Wider than the original: {_some(plan.widened)}: up to {most:.2f} times"
    if plan.solver.get("untrained"):
        yield f"Cropped, though not trained (requires_grad): {_some(plan.solver['untrained'])}"
    tables = plan.solver.get("tables", {})
    if tables:
        changes = (f"{printable(name)} {old} → {new}" for name, (old, new) in tables.items())
        yield f"Embeddings and other tables: {_some(changes)}"
    yield from multiples_lines(plan)
    roots = [f"{path}.{name}" for path, name, value in plan.attributes if type(value) is float]
    if roots and not brief:  # an attention's scale, for example
        yield f"Rescaled with the widths: {_some(roots)}"
    if plan.solver.get("lookalikes"):
        yield (
            f"Not rescaled: {_some(plan.solver['lookalikes'])}: a width that changes, or its "
            "root, perhaps by chance; nothing in forward proves that it follows that"
        )
    yield from uniform_lines(plan)
    if not brief and any(budget.multiplier > _PRECISE for budget in plan.budgets.values()):
        yield (
            "Worth of +1%: what 1% more of that budget adds to the objective (SynExp: the sum of "
            "the layers' log densities); 0 where the budget does not bind."
        )


def layer_table(plan: "Plan") -> "Table":
    """Return a table with one row per layer; names leave out parts that the row above has, too.

    A bar's length follows the square root of the original width, so that narrow layers stay
    visible; its solid part is the share that is kept. For a layer that becomes wider it is extended
    to the square root of the new width.
    If densities were asked for, the last column shows them next to the resulting ones.
    """
    aimed = any(layer.target is not None for layer in plan.layers)
    headings = ["layer", "inputs", "outputs", "width", "kept", "weights", *["target"] * aimed]
    table = bare_table(*headings, words=("width",))
    table.columns[headings.index("width")].no_wrap = False  # so that bars shrink and numbers don't
    widest = max((max(layer.base_out, layer.out_channels) for layer in plan.layers), default=1)
    above: list[str] = []
    for layer in plan.layers:
        parts = printable(layer.name).split(".")
        table.add_row(
            _tail(parts, above),
            change(layer.base_in, layer.in_channels),
            change(layer.base_out, layer.out_channels),
            _Bar(layer.base_out, layer.out_channels, widest),
            "frozen" if layer.frozen else f"{layer.kept:.0%}",
            f"{layer.density:.1%}",
            *(["" if layer.target is None else f"{layer.target:.1%}"] if aimed else []),
            style="yellow" if layer.frozen else "",
        )
        above = parts
    return table


def total_table(plan: "Plan") -> "Table":
    """Return a table of the costs before and after, and of their budgets.

    The last column is what one per cent more of a budget would add to the objective.
    """
    table = bare_table("total", "before", "after", "share", "budget", "used", "worth of +1%")
    totals = {"params": (plan.base_params, plan.params), "macs": (plan.base_macs, plan.macs)}
    totals |= {name: (budget.base, budget.used) for name, budget in sorted(plan.budgets.items())}
    for name, (before, after) in totals.items():
        share = f"{after / before:.1%}" if before else "–"
        cells = [written(name, before), written(name, after), share]
        budget = plan.budgets.get(name)
        if budget is not None:
            worth = f"{budget.multiplier:.3g}" if budget.multiplier > _PRECISE else "0"
            cells += [written(name, budget.limit), f"{budget.used / budget.limit:.2%}", worth]
        table.add_row(plain(_COSTS.get(name, name)), *cells)
    return table


def frozen_lines(plan: "Plan") -> Iterator[str]:
    """Yield the layers that unexpectedly keep their full width, one line per reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in plan.frozen.items():
        if name != TRAIN_MODE:
            reasons.setdefault(reason, []).append(name)
    if not reasons:
        yield "Nothing is frozen."
    for reason, names in reasons.items():
        yield f"Frozen: {_some(names)}: {reason}"
    if TRAIN_MODE in plan.frozen:
        yield f"{TRAIN_MODE.capitalize()} {plan.frozen[TRAIN_MODE]}"


def uniform_lines(plan: "Plan") -> Iterator[str]:
    """Yield how far the plan is from uniform width at its budgets, and what to expect from that."""
    found = plan.solver.get("uniform")
    if found:
        place = "close to it: expect the same accuracy."
        if found["apart"] > _CLOSE:
            place = f"{found['apart']:.0%} away from it, most in {_some(found['most'])}."
        yield f"Uniform width would keep {found['share']:.0%} of every width; this plan is {place}"
    starved = plan.solver.get("starved")
    if starved:
        yield (
            f"Warning: parameters alone leave {starved['layer']} {starved['kept']:.0%} of its "
            f"inputs (uniform width: {starved['uniform']:.0%}); with {starved['classes']} classes "
            "that can cost accuracy. Give a budget of MACs too."
        )


def multiples_lines(plan: "Plan") -> Iterator[str]:
    """Yield how many widths are multiples of the divisor, and which ones are not and why."""
    divisor = plan.options.get("divisor")
    if type(divisor) is not int or divisor < 2:
        return
    odd = [layer.name for layer in plan.layers if layer.out_channels % divisor]
    even = len(plan.layers) - len(odd)
    auto = plan.options.get("divisor_asked") == "auto"
    others = "" if auto else " and those of the original in others"
    yield f"Widths are multiples of {divisor} in {even} of {len(plan.layers)} layers{others}."
    reasons = plan.solver.get("no_multiples")
    if not isinstance(reasons, Mapping):  # older plans store only this reason
        reasons = {"parts": plan.solver.get("uneven")}
    for reason, words in REASONS.items():
        told = {*(reasons.get(reason) or ())}
        names = [name for name in odd if name in told]
        if names:
            yield f"Not a multiple of {divisor}: {_some(names)} ({words})."


def outputs_lines(plan: "Plan") -> Iterator[str]:
    """Yield the outputs or the layers at the network's ends that differ from the planned ones."""
    changed, ends = (plan.options.get(name, {}) for name in ("outputs", "ends"))
    other = [f"{name} has {new} in place of {old}" for name, (old, new) in changed.items()]
    if other:
        yield f"Planned with other outputs, recounted: {_some(other)}"
    if ends:
        before, now = (_some(ends[name]) or "nothing" for name in ("before", "now"))
        yield f"Planned with other ends, recounted: {now} in place of {before}"
    for name, budget in plan.budgets.items() if other or ends else ():
        if budget.used > budget.limit:
            more = budget.used / budget.limit - 1
            yield f"So the network takes {more:.1%} more than its budget of {name}: plan anew"


def latency_lines(plan: "Plan") -> Iterator[str]:
    """Yield what the latency is based on: a roofline, a device profile or a measurement."""
    if "latency" not in plan.budgets:
        return
    match plan.options.get("calibrated"):
        case {"seconds": float(cropped), "dense_seconds": float(dense)}:
            yield (
                f"Latency was measured: {1e3 * cropped:.3f} ms, the original {1e3 * dense:.3f} ms "
                "in the same rounds."
            )
    match plan.options.get("device_profile"):
        case {"basis": str(basis)}:
            yield f"The latency above is {basis}."


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _NAMES_SHOWN
    return ", ".join(listed[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _tail(parts: list[str], above: list[str]) -> "Text":
    """Return a dotted name with spaces in place of the leading parts that the row above has."""
    same = 0
    while same < min(len(parts), len(above)) - 1 and parts[same] == above[same]:
        same += 1
    shared = ".".join(parts[:same])
    return plain(" " * len(shared) + ("." if same else "") + ".".join(parts[same:]))


@dataclass(frozen=True)
class _Bar:
    """A layer's widths as a bar, which is shortened first if a line is too long."""

    old: int
    new: int
    widest: int

    def __rich_measure__(self, console: "Console", options: "ConsoleOptions") -> "Measurement":
        from rich.measure import Measurement

        return Measurement(1, min(_BAR, options.max_width))

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[Text]":
        from rich.text import Text

        length, width = min(_BAR, options.max_width), max(1, self.old)  # it may have no outputs
        old = length * (width / max(width, self.widest)) ** 0.5
        new = length * (self.new / self.widest) ** 0.5 if self.new > self.old else old
        kept, old, new = (max(1, round(one)) for one in (old * self.new / width, old, new))
        bar = Text("█" * min(kept, old), style="cyan")
        bar.append("░" * (old - kept), style="dim")
        bar.append("▓" * (new - old), style="green")
        yield bar
