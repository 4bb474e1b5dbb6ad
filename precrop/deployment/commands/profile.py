"""The command ``profile``. Heavy imports wait inside it, as in `precrop.cli`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from precrop.errors import PrecropError

if TYPE_CHECKING:
    from precrop.costs.profiles import DeviceProfile
    from precrop.deployment.profiling import Check, Subject


def profile_command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…", help="Networks to measure: several kinds predict more networks well."
        ),
    ],
    runtime: Annotated[
        Literal["ort", "eager"], typer.Option(help="ONNX Runtime, or PyTorch as it is.")
    ] = "ort",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Of the CPU.")] = 1,
    batch: Annotated[int, typer.Option(help="Inputs in one pass.")] = 1,
    rounds: Annotated[int, typer.Option(help="Passes for each time.")] = 15,
    shares: Annotated[
        str, typer.Option(help="Of the MACs, at which each network is cropped and measured.")
    ] = "1,0.6,0.35,0.2",
    check: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL", help="Measure this one beside its prediction only; repeatable."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the profile to this file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how fast this device is, for budgets of latency."""
    from rich.console import Console
    from rich.progress import Progress

    from precrop.deployment import profiling

    wanted = _shares(shares)
    subjects, checked = _subjects(models), _subjects(check or [])
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=len(subjects) * len(wanted))
        profile = profiling.profile_device(
            subjects,
            runtime=runtime,
            device=device,
            threads=threads,
            batch_size=batch,
            shares=wanted,
            rounds=rounds,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        task = bar.add_task("checking", total=len(checked))
        checks = []
        for subject in checked:
            checks += profiling.check(profile, [subject], batch_size=batch, rounds=rounds)
            bar.advance(task)
    if output is not None:
        profile.save(output)
    if as_json:
        found = {**asdict(profile), "checks": [{**asdict(c), "error": c.error} for c in checks]}
        typer.echo(json.dumps(found, indent=1))
        return
    _show(profile, checks)


def _subjects(names: list[str]) -> "list[Subject]":
    from precrop.deployment.profiling import Subject
    from precrop.zoo import default_input_shape, load_model

    found = []
    for name in names:
        model = load_model(name, {})
        found.append(Subject(name, model, default_input_shape(name, model)))
    return found


def _shares(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise PrecropError(f"--shares {text} is not like 1,0.5,0.25") from error
    if not found or not all(0 < share <= 1 for share in found):
        raise PrecropError(f"--shares {text}: each is above 0 and at most 1")
    return found


def _show(profile: "DeviceProfile", checks: "list[Check]") -> None:
    """The coefficients in units that people can compare, and how well they fit."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("kind", "launch", "ns/KB read", "written", "weights", "GMAC/s"):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    for kind, rates in profile.coefficients.items():
        macs = rates.get("macs", 0.0)
        bytes_ = [f"{rates.get(name, 0) * 1e12:.1f}" for name in ("reads", "writes", "weights")]
        speed = f"{1e-9 / macs:.1f}" if macs else "–"
        table.add_row(kind, f"{rates.get('calls', 0) * 1e6:.1f} us", *bytes_, speed)
    console.print(table)
    fitted = profile.fitted
    console.print(
        f"\n{profile.name}, {profile.runtime}, {profile.threads} threads, step {profile.step}: "
        f"{fitted['samples']} operations; of {len(fitted['passes'])} passes the median error is "
        f"{fitted['median_error']:.1%}, the largest {fitted['largest_error']:.1%}."
    )
    for one in checks:
        console.print(
            f"{one.name}: predicted {one.predicted * 1e3:.2f} ms, measured "
            f"{one.seconds * 1e3:.2f} ms ({one.error:+.1%})"
        )
