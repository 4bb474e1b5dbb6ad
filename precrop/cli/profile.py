"""The command ``profile``."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from precrop.cli.arguments import arguments, file_stem
from precrop.cli.options import Args, AsJson, InputShapes, ModelOptions, with_options
from precrop.cli.output import goes_on, warn
from precrop.errors import PrecropError
from precrop.files import check_writable, json_text
from precrop.plans.text import bare_table, plain, wide_console
from precrop.progress import bar, lines, measuring, note

if TYPE_CHECKING:
    from precrop.costs.profiles import DeviceProfile
    from precrop.deployment.profiling import Subject

USUAL = ("resnet18", "mobilenet_v3_large", "efficientnet_b0", "regnet_y_400mf", "vgg11")
"""Networks that are measured by default; they have most kinds of layers in few operations."""
_WORST_FIT = 0.15
"""Median error on held-out passes beyond which a profile is misleading."""
_MINUTE = 60.0
_COLUMNS = 140


@with_options
def profile_command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL…]",
            help="Networks to measure, best like those that you will plan; by default "
            f"{', '.join(USUAL)}.",
        ),
    ] = None,
    minutes: Annotated[
        float, "Stop after so many minutes; the same command goes on with what is left."
    ] = 2.0,
    runtime: Annotated[Literal["ort", "eager"], "ONNX Runtime, or PyTorch as it is."] = "ort",
    device: Annotated[str, "cpu or cuda."] = "cpu",
    threads: Annotated[int, "CPU threads."] = 1,
    batch: Annotated[int, "Inputs in one pass."] = 1,
    rounds: Annotated[int, "Passes per measured time, which is their median."] = 15,
    shares: Annotated[
        str, "Shares of its MACs at which each network is cropped and measured."
    ] = "1,0.35,0.6,0.2",
    check: Annotated[
        list[str] | None, "Only compare this one's time with its prediction; repeatable.", "MODEL"
    ] = None,
    input_shape: InputShapes = None,
    arg: Args = None,
    output: Annotated[
        Path | None, "The profile's file; cpu-ort-1.json and so on by default."
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how fast this device is, for budgets of latency. Run it again to continue."""
    start = time.monotonic()
    wanted = _shares(shares)
    if not 0 < minutes < float("inf"):
        raise PrecropError(f"--minutes {minutes:g} is not a time: write a number above 0")
    if min(rounds, threads, batch) < 1:
        raise PrecropError("--rounds, --threads and --batch are whole numbers from 1")
    arguments(arg)
    path, kept = _files(output, f"{file_stem(device)}-{runtime}-{threads}.json")
    names = models or list(USUAL)
    note(
        f"measuring {device} with {runtime} on {threads} thread{'s' if threads > 1 else ''}: "
        f"{', '.join(names)}; at most {minutes:g} minutes, kept in {path}"
    )
    from precrop.deployment import profiling, quiet
    from precrop.deployment.setting import Setting

    subjects = [_subject(ModelOptions(name, input_shape, arg)) for name in names]
    checked = [_subject(ModelOptions(name, input_shape, arg)) for name in check or ()]
    setting = Setting(runtime, batch, threads, device)
    state = quiet.wait(warn, setting.clock)
    with goes_on(f" from {kept}"), measuring(lines()) as progress:
        profile = profiling.profile_device(
            subjects,
            setting,
            shares=wanted,
            rounds=rounds,
            kept=kept,
            seconds=max(minutes * _MINUTE - (time.monotonic() - start), 0.0),
            quiet=state,
            found=lambda profile: profile.save(path),
            progress=progress,
        )
    profile.save(path)  # before the checks, which may fail
    if not as_json:
        _show(profile)
    _warn(profile)
    checks = [
        profiling.check(profile, subject, batch_size=batch, rounds=rounds)
        for subject in bar(checked, "checking", len(checked))
    ]
    if as_json:
        found = {**asdict(profile), "checks": [{**asdict(c), "error": c.error} for c in checks]}
        typer.echo(json_text(found, indent=1))
        return
    for one in checks:
        text = (
            f"{one.name}: predicted {one.predicted * 1e3:.2f} ms, measured "
            f"{one.seconds * 1e3:.2f} ms ({one.error:+.1%})"
        )
        wide_console(_COLUMNS).print(plain(text))


def _files(output: Path | None, usual: str) -> tuple[Path, Path]:
    """Return the profile's file, and the file of the measured passes that it is made from."""
    path = output or Path(usual)
    check_writable(path)
    kept = path.with_name(f"{path.stem}.passes.jsonl")
    if output is None and path.exists() and not kept.exists():
        raise PrecropError(f"{path} is there already: say -o {path} to replace it")
    check_writable(kept)
    return path, kept


def _subject(source: ModelOptions) -> "Subject":
    """Build a network by name and read it once, to refuse early an input on which it fails."""
    from precrop.deployment.profiling import Subject
    from precrop.read.inputs import Inputs
    from precrop.read.network import read_network

    model, shape = source.load()
    read_network(model, Inputs(shape))
    return Subject(str(source.spec), model, shape)


def _shares(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise PrecropError(f"--shares {text} is not like 1,0.5,0.25") from error
    if not all(0 < share <= 1 for share in found):
        raise PrecropError(f"--shares {text}: each is above 0 and at most 1")
    return found


def _warn(profile: "DeviceProfile") -> None:
    """Warn of what makes a profile unreliable, and say how many passes are left."""
    fitted = profile.fitted
    held_out, left = fitted["held_out"], fitted["left"]
    if held_out is None:
        warn("one pass alone says nothing of how well others are predicted: measure more")
    elif held_out["median_error"] > _WORST_FIT:
        warn(
            f"no good fit: its median error on what it was not fitted to is "
            f"{held_out['median_error']:.1%}: measure again on a quiet machine, with more networks "
            "or --rounds"
        )
    if left:
        note(f"{left} passes are left: the same command goes on with them")


def _show(profile: "DeviceProfile") -> None:
    """Print the coefficients in units that are easy to compare, and how well they fit."""
    console = wide_console(_COLUMNS)
    table = bare_table("kind", "launch", "ns/KB read", "written", "weights", "GMAC/s")
    for kind, rates in profile.coefficients.items():
        macs = rates.get("macs", 0.0)
        bytes_ = [f"{rates.get(name, 0) * 1e12:.1f}" for name in ("reads", "writes", "weights")]
        speed = f"{1e-9 / macs:.1f}" if macs else "–"
        table.add_row(plain(kind), f"{rates.get('calls', 0) * 1e6:.1f} us", *bytes_, speed)
    console.print(table)
    fitted = profile.fitted
    console.print()
    text = (
        f"{profile.name}, {profile.runtime}, {profile.threads} threads, step {profile.step}: "
        f"{fitted['samples']} operations in {len(fitted['passes'])} passes. Median error "
        f"{fitted['median_error']:.1%}, the largest {fitted['largest_error']:.1%}."
    )
    console.print(plain(text))
    held_out = fitted["held_out"]
    if held_out is not None:
        console.print(
            f"On each {held_out['left_out']} that a fit to the others did not see: median error "
            f"{held_out['median_error']:.1%}, the largest {held_out['largest_error']:.1%}."
        )
