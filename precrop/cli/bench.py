"""The command ``bench``."""

import itertools
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import precrop
from precrop.cli.arguments import set_seed
from precrop.cli.options import AsJson, InputOptions, Macs, Params, with_options
from precrop.cli.output import INTERRUPTED
from precrop.errors import PrecropError
from precrop.files import check_picture, check_writable, json_text, write_text
from precrop.plans.text import bare_table, plain, wide_console
from precrop.progress import measuring, say, step

if TYPE_CHECKING:
    from torch import nn

    from precrop.deployment.benching import Bench, BenchRow


@dataclass(frozen=True)
class VariantOptions:
    """Options for what is measured besides the dense network."""

    plan: Annotated[list[Path] | None, "A plan of this network; repeatable.", "FILE.json"] = None
    params: Params = None
    macs: Macs = None
    divisors: Annotated[
        str | None,
        "One plan for each: its widths are multiples of the divisor; auto: what plan takes.",
        "1,8,auto",
    ] = None
    masked: Annotated[bool, "Also the network masked to the plan's layer-wise densities."] = False
    sparse: Annotated[
        str | None, "And masked on sparse kernels: csr, bsr, scipy-csr; with commas.", "LAYOUTS"
    ] = None

    @property
    def budgeted(self) -> bool:
        """Whether a budget is given, so that plans are made here."""
        return self.params is not None or self.macs is not None

    def plans(self, network: "nn.Module", shape: Any) -> dict[str, "precrop.Plan"]:
        """Return the plans: those from files by file name, those made here by their divisors."""
        if self.divisors is not None and not self.budgeted:
            raise PrecropError("--divisors needs a budget: add --macs 0.5 or --params 0.5")
        made: dict[str, int | Literal["auto"]] = {"planned": 1} if self.budgeted else {}
        if self.divisors is not None:
            made = {f"/{n}": n for n in _numbers("--divisors", self.divisors, "auto")}
        found: dict[str, precrop.Plan] = {}
        for path in self.plan or ():
            found[_free({*found, *made}, path.stem, str(path))] = precrop.Plan.load(path)
        for name, divisor in made.items():
            found[name] = precrop.plan(
                network, shape, params=self.params, macs=self.macs, divisor=divisor
            )
        return found

    def layouts(self) -> list[str]:
        """Return the layouts of sparse kernels."""
        layouts = _words(self.sparse or "")
        if self.sparse is not None and not layouts:
            raise PrecropError(
                f"--sparse {self.sparse!r} names no layout: write csr, bsr or scipy-csr"
            )
        return layouts


@with_options
def bench_command(
    source: InputOptions,
    wanted: VariantOptions,
    runtime: Annotated[
        str, "eager, compiled, ort (ONNX Runtime); several with commas.", "RUNTIMES"
    ] = "eager",
    batch: Annotated[str, "Images in one pass; several with commas.", "1,8"] = "1",
    threads: Annotated[str, "CPU threads; several with commas.", "1,2"] = "1",
    device: Annotated[str, "cpu, cuda or cuda:1."] = "cpu",
    channels_last: Annotated[bool, "Use the channels_last memory format in PyTorch."] = False,
    rounds: Annotated[int, "Measurements of each variant in each setting."] = 30,
    seed: Annotated[int, "Seed of the initial weights and of the masks."] = 0,
    as_json: AsJson = False,
    output: Annotated[Path | None, "Write the JSON to this file.", "FILE.json"] = None,
    plot: Annotated[Path | None, "Draw the speed-ups beside the ideal ones.", "FILE.svg"] = None,
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
        raise PrecropError(f"--rounds {rounds} makes no sense: give 1 or more")
    if output is not None:
        check_writable(output)
    if plot is not None:
        check_picture(plot)
        if not wanted.plan and not wanted.budgeted:
            raise PrecropError("--plot draws speed-ups: give a plan, or a budget to make one")
    set_seed(seed)
    network, shape = source.load(
        precrop.Plan.load(wanted.plan[0]).input_shape if wanted.plan else None
    )
    with step(f"planning and building variants of {source.model}"):
        plans = wanted.plans(network, shape)
        forms = variants(
            network, shape, plans, masked=wanted.masked, sparse=wanted.layouts(), seed=seed
        )
    measured: list[Bench] = []  # after each setting, all results so far
    try:
        with measuring() as progress:
            bench(forms, shape, chosen, rounds=rounds, found=measured.append, progress=progress)
    except KeyboardInterrupt:
        if not measured:
            raise
        say(f"stopped after {len(measured)} of {len(chosen)} settings")
    named = {"model": source.model, "args": source.spec.args, "seed": seed}
    text = json_text({**named, **measured[-1].to_json()}, indent=1)
    try:
        if as_json:
            typer.echo(text)
        else:
            _print(measured[-1])
    finally:  # save what was measured even if it can't be printed (closed terminal, full disk)
        if output is not None:
            write_text(output, text + "\n")
        if plot is not None:
            from precrop.deployment.speed_plot import plot_bench

            plot_bench(measured[-1], plot, source.model)
    if len(measured) < len(chosen):
        raise typer.Exit(INTERRUPTED)


def _words(text: str) -> list[str]:
    """Split a text at commas, without empty and repeated words."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _numbers(option: str, text: str, *others: str) -> list[Any]:
    """Parse whole numbers from 1 between commas; ``others`` are words that may replace one."""
    words = _words(text)
    if not words or not all(w in others or (w.isdecimal() and int(w) > 0) for w in words):
        like = ",".join(("1,8", *others))
        raise PrecropError(f"{option} {text!r} is not like {like}: whole numbers from 1")
    return [word if word in others else int(word) for word in words]


def _free(taken: Container[str], *names: str) -> str:
    """Return the first name that is not taken; if all are, the last one with a number."""
    numbered = (f"{names[-1]} {number}" for number in itertools.count(2))
    return next(name for name in itertools.chain(names, numbered) if name not in taken)


def _print(found: "Bench") -> None:
    console = wide_console(140)
    for setting, rows in found.settings.items():
        table = bare_table(
            "variant", "M params", "M MACs", "ms", "low", "high", "spread", "images/s",
            "speed-up", "ideal", "of ideal", "peak MB",
        )  # fmt: skip
        for row in rows:
            costs = (f"{count / 1e6:,.3f}" for count in (row.params, row.macs))
            table.add_row(plain(row.variant), *costs, *_measured(row))
        console.print(str(setting))
        console.print(table)
        console.print()
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in found.rows:
        if row.reason is not None:
            reasons.setdefault((row.variant, row.reason), []).append(row.runtime)
    for (variant, reason), runtimes in reasons.items():
        console.print(plain(f"{variant} ({', '.join(dict.fromkeys(runtimes))}): {reason}"))
    for variant, notes in found.notes.items():
        layers = ", ".join(list(notes)[:3]) + (", …" if len(notes) > 3 else "")
        console.print(plain(f"{variant}: on dense kernels stay {len(notes)} layers: {layers}"))
    machine = found.machine
    text = (
        f"{machine.get('gpu', machine['cpu'])}, {machine['cores']} cores; "
        f"PyTorch {machine['versions'].get('torch')}. Milliseconds are medians; "
        "low and high the 10th and 90th percentiles."
    )
    console.print(plain(text))


def _measured(row: "BenchRow") -> list[str]:
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
