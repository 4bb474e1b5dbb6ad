"""Output that commands share: lines on standard error and standard output, and plans."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer

import precrop
from precrop.errors import printable
from precrop.progress import say

INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells."""


def warn(text: str) -> None:
    """Print a warning as one line on standard error."""
    say(f"warning: {text}")


def warn_of_loss(loss: float) -> None:
    """Warn if the loss on held-out images is NaN or infinite: the network has diverged."""
    if not math.isfinite(loss):
        warn(f"the loss is no number: {loss} on held-out images; their accuracy may be chance")


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print the warnings of a block of code as one line each on standard error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", precrop.LayerCollapseWarning)
        warnings.simplefilter("always", precrop.SlicedChannelsWarning)
        yield
    for warning in caught:
        warn(str(warning.message))


@contextmanager
def goes_on(where: str, *, say_so: bool = True) -> Iterator[None]:
    """After Ctrl-C, say from where the same command resumes, and exit."""
    try:
        yield
    except KeyboardInterrupt:
        if say_so:
            say(f"stopped; the same command goes on{where}")
        raise typer.Exit(INTERRUPTED) from None


def print_line(text: str) -> None:
    """Print a line on standard output; control characters (of file names, say) are escaped."""
    typer.echo(printable(text))


def print_plan(plan: "precrop.Plan", as_json: bool, summary: bool) -> None:
    """Print a plan as JSON, as a summary with a line per stage, or as a table of its layers."""
    if as_json:
        typer.echo(plan.to_json(), nl=False)
    elif summary:
        typer.echo(plan.summary())
    else:
        from precrop.plans.table import show

        show(plan)
