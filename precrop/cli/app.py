"""The command line; heavy imports are inside the commands, so that ``--help`` is quick."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated

import typer

import precrop
from precrop import plugins
from precrop.cli.output import INTERRUPTED
from precrop.errors import PrecropError, errors_as, flops_hint, reason, typed_reason
from precrop.files import terminated_as_interrupted
from precrop.own import UNGUARDED, started_by_import
from precrop.progress import say

COMMANDS = (
    "plan crop build show explore densities count export bench profile deploy train eval "
    "recalibrate report judge list doctor"
)
"""Commands in the order of ``--help``; each is a function in its own module (`plan_command`)."""
STUDY_COMMANDS = {"run": "study_run", "status": "study", "show": "study", "diff": "study"}
"""The modules of ``study``'s commands, by the commands' names."""
_ENDED = "code that is not precrop's ended the process"

app = typer.Typer(
    help="Crop any convolutional network to a budget of parameters and MACs, before training.",
    rich_markup_mode="rich",
)
studies = typer.Typer(name="study", help="Run studies: networks x variants x budgets x seeds.")


def _command(module: str, name: str) -> Callable[..., None]:
    command: Callable[..., None]
    command = getattr(import_module(f"precrop.cli.{module}"), f"{name}_command")
    return errors_as(_ENDED, SystemExit, GeneratorExit, told=typed_reason)(command)


for name in COMMANDS.split():
    app.command(name)(_command(name, name))
for name, module in STUDY_COMMANDS.items():
    studies.command(name)(_command(module, name))
app.add_typer(studies)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status, such as 2 after a user's error.

    Args:
        argv: the words after ``precrop``; those of this process by default.
    """
    if started_by_import():
        os._exit(UNGUARDED)  # or this child would repeat the rest of the unguarded script, too
    words = None if argv is None else list(argv)
    try:
        with terminated_as_interrupted(), _standard_output(), warnings.catch_warnings():
            command = typer.main.get_command(app)
            # PyTorch warns of layers without outputs, but `--arg num_classes=0` asks for one.
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            plugins.load()
            status = command.main(args=words, prog_name="precrop", standalone_mode=False)
    except PrecropError as error:
        ended = error.__cause__
        if isinstance(ended, SystemExit) and isinstance(ended.__context__, BrokenPipeError):
            return 1  # Rich and typer exit when nobody reads the output any more (`| head`)
        return _refuse(str(error))
    except typer.TyperException as error:
        # typer lets pydantic parse options, which puts words of its own first
        message = error.format_message().replace("Value error, ", "")
        return _refuse(message + (flops_hint("flops") if ": --flops" in message else ""))
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        return _refuse(where + (reason(error) or type(error).__name__))
    except RecursionError:
        return _refuse("what was given is nested too deeply")
    except MemoryError:
        return _refuse("there is not enough memory for what was asked")
    except (KeyboardInterrupt, typer.Abort):
        say("stopped")
        return INTERRUPTED
    except RuntimeError as error:
        if "DataLoader worker" in str(error):  # may be raised anywhere when a worker dies
            return _refuse(
                "a process that reads images was ended, by somebody or for want of memory: "
                f"{reason(error)}"
            )
        if "alloc" not in str(error) and "out of memory" not in str(error):
            raise
        return _refuse(f"there is not enough memory for what was asked: {error}")
    return status if isinstance(status, int) else 0


@contextmanager
def _standard_output() -> Iterator[None]:
    """Let standard output take all characters; if it is closed, discard what is written to it."""
    closed = getattr(sys.stdout, "closed", False)
    if isinstance(sys.stdout, TextIOWrapper) and not closed:
        sys.stdout.reconfigure(errors="replace")  # some encodings lack our bars and arrows
    with redirect_stdout(None) if closed else nullcontext():
        yield


def _refuse(message: str) -> int:
    say(f"error: {message}")
    return 2


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"precrop {precrop.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass
