"""Options that are said once, and become parameters of every command that takes them."""

import dataclasses
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

import precrop
from precrop.cli.app import app
from precrop.cli.options import AsJson, with_options
from precrop.cli.planning import PlanOptions


@dataclass(frozen=True)
class Named:
    name: Annotated[str, typer.Argument(help="Of a thing.")]


@dataclass(frozen=True)
class Sized(Named):
    """What a name and options come to."""

    width: Annotated[int, "How wide.", "N"] = 3
    even: Annotated[bool, "Widths are even."] = False
    only: Annotated[list[str] | None, "Repeatable.", "PATTERN"] = None


@with_options
def show_sized(
    sized: Sized,
    output: Annotated[Path | None, "Where it goes."] = None,
    limit: Annotated[int, typer.Option("--at-most", min=1, help="A limit.")] = 9,
    as_json: AsJson = False,
) -> None:
    """Show what was said."""
    typer.echo(repr((sized, output, limit, as_json)))


def invoke(*words: str) -> Any:
    here = typer.Typer(rich_markup_mode=None)
    here.command()(show_sized)
    return CliRunner().invoke(here, words)


def test_a_command_gets_values_of_its_groups() -> None:
    words = ["box", "--width", "8", "--even", "--only", "a", "--only", "b", "-o", "x", "--json"]
    said = (Sized("box", 8, True, ["a", "b"]), Path("x"), 9, True)
    assert invoke(*words).stdout == f"{said!r}\n"
    assert invoke("box", "--at-most", "2").stdout == f"{(Sized('box'), None, 2, False)!r}\n"


def test_what_is_wrong_is_refused_as_ever() -> None:
    for words, message in (
        ([], "Missing argument 'name'"),
        (["box", "--width", "wide"], "Invalid value for '--width'"),
        (["box", "--at-most", "0"], "Invalid value for '--at-most'"),
        (["box", "--no-even"], "No such option: --no-even"),
    ):
        result = invoke(*words)
        assert result.exit_code == 2
        assert message in result.output


def test_help_has_the_texts_and_what_stands_for_values() -> None:
    text = " ".join(invoke("--help").stdout.split())
    for words in (
        "Show what was said.",
        "--width N How wide. [default: 3]",
        "--only PATTERN Repeatable.",
        "-o, --output <path> Where it goes.",
        "--json Print JSON.",
    ):
        assert words in text
    assert text.index("--only") < text.index("--output") < text.index("--at-most")


def test_an_option_that_two_groups_have_is_refused() -> None:
    def twice(sized: Sized, width: Annotated[int, "How wide."] = 1) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name: 'width'"):
        with_options(twice)


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def test_every_option_of_every_command_has_help() -> None:
    found = dict(commands(typer.main.get_command(app)))
    assert {"plan", "study run"} < set(found)
    for name, command in found.items():
        assert command.help
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name}"


def test_every_command_can_be_quiet_and_verbose() -> None:
    for name, command in commands(typer.main.get_command(app)):
        said = {option for parameter in command.params for option in parameter.opts}
        assert {"-q", "--quiet", "-v", "--verbose"} <= said, name


def test_plans_options_are_those_of_the_library_with_its_defaults() -> None:
    parameters = inspect.signature(precrop.plan).parameters
    values_of_python = ("strategy", "widths")
    the_network = ("model", "input_shape", "example_inputs", "example_kwargs")
    expected = {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in (*values_of_python, *the_network)
    }
    options = {field.name: field.default for field in dataclasses.fields(PlanOptions)}
    assert options == {**expected, "ignore": None, "calibrate": False}
    assert expected["ignore"] == ()
