"""The command ``bench``. Heavy imports wait inside it, as in `precrop.cli.app`."""

import itertools
import json
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from precrop.cli.arguments import Args, ModelName, arguments, set_seed
from precrop.cli.arguments import input_shape as read_shape
from precrop.errors import PrecropError
from precrop.files import check_writable, write_text

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from precrop.deployment.benching import Bench, Row
    from precrop.plans.plan import Plan

PlanFiles = Annotated[
    list[Path] | None,
    typer.Option("--plan", metavar="FILE.json", help="A plan of this network; repeatable."),
]
Params = Annotated[
    str | None, typer.Option(help="Plan with this budget of parameters: a share or a number.")
]
Macs = Annotated[
    str | None,
    typer.Option(help="Plan with this budget of multiply-accumulates: a share or a number."),
]
Divisors = Annotated[
    str | None,
    typer.Option(
        metavar="1,8,auto",
        help="One plan for each: its widths are multiples of the divisor; auto: 16, halved as "
        "often as the budget needs.",
    ),
]
Masked = Annotated[
    bool,
    typer.Option("--masked", help="Also the network masked to the plan's layer-wise densities."),
]
Sparse = Annotated[
    str | None,
    typer.Option(
        metavar="LAYOUTS", help="And masked on sparse kernels: csr, bsr, scipy-csr; with commas."
    ),
]
Runtimes = Annotated[
    str, typer.Option("--runtime", metavar="RUNTIMES", help="eager, compiled, ort; with commas.")
]
Batches = Annotated[str, typer.Option("--batch", metavar="1,8", help="Images at once.")]
Threads = Annotated[str, typer.Option(metavar="1,2", help="Threads of the CPU.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")]
ChannelsLast = Annotated[
    bool, typer.Option("--channels-last", help="That memory format, in PyTorch.")
]
Rounds = Annotated[int, typer.Option(help="Samples of each variant in each setting.")]
InputShape = Annotated[
    list[str] | None,
    typer.Option(metavar="SHAPE", help="3,224,224 or 3x224x224; repeat for several inputs."),
]
Seed = Annotated[int, typer.Option(help="Of the initial weights and of the masks.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE.json", help="Write the JSON to this file."),
]
Plot = Annotated[
    Path | None, typer.Option(metavar="FILE.svg", help="Draw the speed-ups beside the ideal ones.")
]


def bench_command(
    model: ModelName,
    plan: PlanFiles = None,
    params: Params = None,
    macs: Macs = None,
    divisors: Divisors = None,
    masked: Masked = False,
    sparse: Sparse = None,
    runtime: Runtimes = "eager",
    batch: Batches = "1",
    threads: Threads = "1",
    device: Device = "cpu",
    channels_last: ChannelsLast = False,
    rounds: Rounds = 30,
    input_shape: InputShape = None,
    arg: Args = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    output: Output = None,
    plot: Plot = None,
) -> None:
    """Measure the dense network beside cropped and masked ones: latency, throughput, memory."""
    from precrop.deployment.benching import bench, settings, variants

    chosen = settings(
        _words(runtime),
        _numbers("--batch", batch),
        _numbers("--threads", threads),
        device=device,
        channels_last=channels_last,
    )
    if rounds < 1:
        raise PrecropError(f"--rounds {rounds} are none: give 1 or more")
    if output is not None:
        check_writable(output)
    if plot is not None:
        from precrop.deployment.speed_plot import check_plot

        check_plot(plot)
        if not plan and params is None and macs is None:
            raise PrecropError("--plot draws speed-ups: give a plan, or a budget to make one")
    set_seed(seed)
    network, shape = _load(model, arg, input_shape, plan or ())
    plans = _plans(network, shape, plan or (), params, macs, divisors)
    layouts = [] if sparse is None else _words(sparse)
    if sparse is not None and not layouts:
        raise PrecropError(f"--sparse {sparse!r} names no layout: write csr, bsr or scipy-csr")
    forms = variants(network, shape, plans, masked=masked, sparse=layouts, seed=seed)
    with _bar() as progress:
        found = bench(forms, shape, chosen, rounds=rounds, progress=progress)
    source = {"model": model, "args": arguments(arg), "seed": seed}
    text = json.dumps({**source, **found.to_json()}, indent=1)
    if as_json:
        typer.echo(text)
    else:
        _print(found)
    if output is not None:
        write_text(output, text + "\n")
    if plot is not None:
        from precrop.deployment.speed_plot import plot_bench

        plot_bench(found, plot, model)


def _words(text: str) -> list[str]:
    """What stands between commas, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _numbers(option: str, text: str) -> list[int]:
    words = _words(text)
    if not words or not all(map(_is_count, words)):
        raise PrecropError(f"{option} {text!r} is not like 1,8: whole numbers from 1")
    return [int(word) for word in words]


def _is_count(word: str) -> bool:
    return word.isdecimal() and int(word) > 0


def _load(
    name: str, arg: Sequence[str] | None, shapes: Sequence[str] | None, plans: Sequence[Path]
) -> tuple["nn.Module", Any]:
    """The network and the shape of its input: as given, as the first plan has it, or its own."""
    from precrop.plans.plan import Plan
    from precrop.zoo import default_input_shape, load_model

    network = load_model(name, arguments(arg))
    given = [read_shape(text) for text in shapes or ()]
    if given:
        return network, given[0] if len(given) == 1 else tuple(given)
    if plans:
        return network, Plan.load(plans[0]).input_shape
    return network, default_input_shape(name, network)


def _plans(
    network: "nn.Module",
    shape: Any,
    files: Sequence[Path],
    params: str | None,
    macs: str | None,
    divisors: str | None,
) -> dict[str, "Plan"]:
    """Plans from files by the files' names, and those made here by their divisors."""
    import precrop
    from precrop.plans.plan import Plan

    budgeted = params is not None or macs is not None
    if divisors is not None and not budgeted:
        raise PrecropError("--divisors needs a budget: add --macs 0.5 or --params 0.5")
    made = _divisors(divisors) if budgeted else {}
    found: dict[str, Plan] = {}
    for path in files:
        found[_free({*found, *made}, path.stem, str(path))] = Plan.load(path)
    for name, divisor in made.items():
        found[name] = precrop.plan(network, shape, params=params, macs=macs, divisor=divisor)
    return found


def _divisors(text: str | None) -> dict[str, int | Literal["auto"]]:
    """Divisors of the plans to make, by the plans' names."""
    if text is None:
        return {"planned": 1}
    words = _words(text)
    if not words or not all(word == "auto" or _is_count(word) for word in words):
        raise PrecropError(f"--divisors {text!r} is not like 1,8,auto: whole numbers from 1")
    found: list[int | Literal["auto"]]
    found = ["auto" if word == "auto" else int(word) for word in words]
    return {f"/{divisor}": divisor for divisor in found}


def _free(taken: Container[str], *names: str) -> str:
    """The first of the names that is not taken; the last one with a number where all are."""
    numbered = (f"{names[-1]} {number}" for number in itertools.count(2))
    return next(name for name in itertools.chain(names, numbered) if name not in taken)


@contextmanager
def _bar() -> Iterator[Callable[[str, float], None] | None]:
    """A bar on standard error that goes away in the end; none where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    # Drawn only when told to: a thread that draws by itself would take time from what is measured.
    with Progress(
        *columns, console=Console(stderr=True), transient=True, auto_refresh=False
    ) as bars:
        task = bars.add_task("", total=1.0)

        def show(what: str, share: float) -> None:
            bars.update(task, description=what, completed=share, refresh=True)

        yield show


def _print(found: "Bench") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 140)
    for (runtime, batch, threads), rows in found.settings.items():
        several = "threads" if threads > 1 else "thread"
        console.print(f"{runtime}, batch {batch}, {threads} {several}, {rows[0].device}")
        console.print(_table(rows))
        console.print()
    for (variant, reason), runtimes in _reasons(found).items():
        console.print(f"{variant} ({', '.join(runtimes)}): {reason}", markup=False)
    for variant, notes in found.notes.items():
        layers = ", ".join(list(notes)[:3]) + (", …" if len(notes) > 3 else "")
        console.print(f"{variant}: on dense kernels stay {len(notes)} layers: {layers}")
    machine = found.machine
    console.print(
        f"{machine.get('gpu', machine['cpu'])}, {machine['cores']} cores; "
        f"PyTorch {machine['versions'].get('torch')}. Milliseconds are medians; "
        "low and high the 10th and 90th percentiles."
    )


def _reasons(found: "Bench") -> dict[tuple[str, str], list[str]]:
    """Runtimes that could not run something, by variant and reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in found.rows:
        if row.reason is not None:
            runtimes = reasons.setdefault((row.variant, row.reason), [])
            if row.runtime not in runtimes:
                runtimes.append(row.runtime)
    return reasons


def _table(rows: Sequence["Row"]) -> "Table":
    """One row per variant of one setting."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("variant", no_wrap=True)
    for name in (
        "M params", "M MACs", "ms", "low", "high", "spread", "images/s",
        "speed-up", "ideal", "of ideal", "peak MB",
    ):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        costs = (f"{count / 1e6:,.3f}" for count in (row.params, row.macs))
        table.add_row(row.variant, *costs, *_measured(row))
    return table


def _measured(row: "Row") -> list[str]:
    if row.latency is None or row.low is None or row.high is None:
        return ["not run", *[""] * 5, f"{row.ideal:.2f}", "", ""]
    return [
        *(f"{1e3 * seconds:.3f}" for seconds in (row.latency, row.low, row.high)),
        f"{row.spread:.1%}",
        f"{row.throughput:,.1f}",
        "" if row.speedup is None else f"{row.speedup:.2f}",
        f"{row.ideal:.2f}",
        "" if row.share_of_ideal is None else f"{row.share_of_ideal:.0%}",
        "" if row.peak_memory is None else f"{row.peak_memory / 1e6:.2f}",
    ]
