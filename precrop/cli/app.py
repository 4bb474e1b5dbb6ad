"""The command line. Heavy imports wait inside the commands, so that ``--help`` is quick."""

import os
from collections.abc import Sequence
from typing import Annotated

import typer

import precrop
from precrop import plugins
from precrop.cli.bench import bench_command
from precrop.cli.build import build_command
from precrop.cli.count import count_command
from precrop.cli.crop import crop_command
from precrop.cli.densities import densities_command
from precrop.cli.deploy import deploy_command
from precrop.cli.doctor import doctor_command
from precrop.cli.eval import eval_command
from precrop.cli.explore import explore_command
from precrop.cli.export import export_command
from precrop.cli.judge import judge_command
from precrop.cli.list import list_command
from precrop.cli.output import INTERRUPTED, say
from precrop.cli.plan import plan_command
from precrop.cli.profile import profile_command
from precrop.cli.recalibrate import recalibrate_command
from precrop.cli.report import report_command
from precrop.cli.show import show_command
from precrop.cli.study_diff import diff_command
from precrop.cli.study_run import run_command
from precrop.cli.study_show import show_command as show_study_command
from precrop.cli.study_status import status_command
from precrop.cli.train import train_command
from precrop.errors import PrecropError
from precrop.files import terminated_as_interrupted
from precrop.own import UNGUARDED, started_by_import

app = typer.Typer(
    help="Crop any convolutional network to a budget of parameters and MACs, before training.",
    rich_markup_mode="rich",
)
studies = typer.Typer(name="study", help="Run studies: networks x variants x budgets x seeds.")
studies.command("run")(run_command)
studies.command("status")(status_command)
studies.command("show")(show_study_command)
studies.command("diff")(diff_command)

app.command("plan")(plan_command)
app.command("crop")(crop_command)
app.command("build")(build_command)
app.command("show")(show_command)
app.command("explore")(explore_command)
app.command("densities")(densities_command)
app.command("count")(count_command)
app.command("export")(export_command)
app.command("bench")(bench_command)
app.command("profile")(profile_command)
app.command("deploy")(deploy_command)
app.command("train")(train_command)
app.command("eval")(eval_command)
app.command("recalibrate")(recalibrate_command)
app.add_typer(studies)
app.command("report")(report_command)
app.command("judge")(judge_command)
app.command("list")(list_command)
app.command("doctor")(doctor_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, or 2 after an error of the user's.

    Args:
        argv: the words after ``precrop``; those of this process by default.
    """
    if started_by_import():
        os._exit(UNGUARDED)  # whatever the script does after us, it would do it again too
    command = typer.main.get_command(app)
    words = None if argv is None else list(argv)
    try:
        with terminated_as_interrupted():
            plugins.load()
            status = command.main(args=words, prog_name="precrop", standalone_mode=False)
    except PrecropError as error:
        return _refuse(str(error))
    except typer.TyperException as error:
        return _refuse(error.format_message())
    except OSError as error:
        return _refuse(_os_reason(error))
    except RecursionError:
        return _refuse("what was given is nested too deeply")
    except MemoryError:
        return _refuse("there is not enough memory for what was asked")
    except (KeyboardInterrupt, typer.Abort):
        say("stopped")
        return INTERRUPTED
    except RuntimeError as error:
        if "alloc" not in str(error) and "out of memory" not in str(error):
            raise
        return _refuse(f"there is not enough memory for what was asked: {error}")
    return status if isinstance(status, int) else 0


def _refuse(message: str) -> int:
    say(f"error: {message}")
    return 2


def _os_reason(error: OSError) -> str:
    """What the system says: no room, no right, a name that is too long."""
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{error.filename}: {reason}"


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
