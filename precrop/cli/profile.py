"""The command ``profile``. Heavy imports wait inside it, as in `precrop.cli.app`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from precrop.cli.options import Args, AsJson, ModelOptions, with_options
from precrop.cli.output import warn
from precrop.errors import PrecropError
from precrop.files import check_writable

if TYPE_CHECKING:
    from precrop.costs.profiles import DeviceProfile
    from precrop.deployment.profiling import Check, Subject

_WORST_FIT = 0.15
"""Median error of the fitted passes, beyond which a profile misleads."""


@with_options
def profile_command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…", help="Networks to measure: several kinds predict more networks well."
        ),
    ],
    runtime: Annotated[Literal["ort", "eager"], "ONNX Runtime, or PyTorch as it is."] = "ort",
    device: Annotated[str, "cpu or cuda."] = "cpu",
    threads: Annotated[int, "Of the CPU."] = 1,
    batch: Annotated[int, "Inputs in one pass."] = 1,
    rounds: Annotated[int, "Passes for each time."] = 15,
    shares: Annotated[
        str, "Of the MACs, at which each network is cropped and measured."
    ] = "1,0.6,0.35,0.2",
    check: Annotated[
        list[str] | None, "Measure this one beside its prediction only; repeatable.", "MODEL"
    ] = None,
    input_shape: Annotated[
        list[str] | None,
        "3,224,224 or 3x224x224, for every MODEL; repeat for several inputs.",
        "SHAPE",
    ] = None,
    arg: Args = None,
    output: Annotated[Path | None, "Write the profile to this file."] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how fast this device is, for budgets of latency."""
    from rich.console import Console
    from rich.progress import Progress

    from precrop.deployment import profiling

    wanted = _shares(shares)
    if output is not None:
        check_writable(output)
    subjects = [_subject(ModelOptions(name, input_shape, arg)) for name in models]
    checked = [_subject(ModelOptions(name, input_shape, arg)) for name in check or ()]
    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("measuring", total=len(subjects) * len(wanted))
        profile = profiling.profile_device(
            subjects,
            runtime=runtime,
            device=device,
            threads=threads,
            batch_size=batch,
            shares=wanted,
            rounds=rounds,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    _warn(profile)
    if not as_json:
        _show(profile)
    if output is not None:
        profile.save(output)  # before the checks, which may fail
    checks = _checks(profile, checked, batch, rounds) if checked else []
    if as_json:
        found = {**asdict(profile), "checks": [{**asdict(c), "error": c.error} for c in checks]}
        typer.echo(json.dumps(found, indent=1))
    else:
        _show_checks(checks)


def _subject(source: ModelOptions) -> "Subject":
    """A network by name. It is read once, to refuse an input now that it fails on."""
    from precrop.deployment.profiling import Subject
    from precrop.read.inputs import Inputs
    from precrop.read.network import Network

    model, shape = source.load()
    Network(model, Inputs(shape))
    return Subject(source.model, model, shape)


def _checks(
    profile: "DeviceProfile", subjects: "Sequence[Subject]", batch: int, rounds: int
) -> "list[Check]":
    from precrop.deployment import profiling
    from precrop.progress import bar

    found = []
    for subject in bar(subjects, "checking", len(subjects)):
        found += profiling.check(profile, [subject], batch_size=batch, rounds=rounds)
    return found


def _shares(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise PrecropError(f"--shares {text} is not like 1,0.5,0.25") from error
    if not found or not all(0 < share <= 1 for share in found):
        raise PrecropError(f"--shares {text}: each is above 0 and at most 1")
    return found


def _warn(profile: "DeviceProfile") -> None:
    """One line on standard error where the profile does not even describe what it was fitted to."""
    error = profile.fitted["median_error"]
    if error > _WORST_FIT:
        warn(
            f"the profile misses the passes it was fitted to by {error:.1%} (median): measure "
            "again on a quiet machine, with more --rounds"
        )


def _show(profile: "DeviceProfile") -> None:
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


def _show_checks(checks: "Sequence[Check]") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for one in checks:
        console.print(
            f"{one.name}: predicted {one.predicted * 1e3:.2f} ms, measured "
            f"{one.seconds * 1e3:.2f} ms ({one.error:+.1%})"
        )
