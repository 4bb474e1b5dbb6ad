"""What is said beside a result, and how much of it."""

import contextlib
import io
import json
import sys
import time
from pathlib import Path

import pytest

from precrop import progress
from precrop.cli.app import main
from precrop.progress import Level, bar, lines, measuring, note, speaking, step

Output = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def in_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """From now on in a test: what a fixture sets, pytest's own capture replaces."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm")
    return found


def test_a_bar_shows_the_time_left_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = in_terminal(monkeypatch)
    assert list(bar(range(3), "counting sheep", 3)) == [0, 1, 2]
    assert "counting sheep" in terminal.getvalue()
    assert "0:00" in terminal.getvalue()


def test_measurements_are_shown_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = in_terminal(monkeypatch)
    with measuring() as show:
        show("half of it", 0.5)
    assert "half of it" in terminal.getvalue()


def test_nothing_is_drawn_elsewhere_or_when_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = in_terminal(monkeypatch)
    with speaking(Level.QUIET):
        assert list(bar(range(3), "counting", 3)) == [0, 1, 2]
        told = list[tuple[object, ...]]()
        with measuring(lambda *now: told.append(now)) as show, step("looking"):
            show("half of it", 0.5)
        note("a thing")
        progress.console().print("a line")
    assert terminal.getvalue() == ""
    assert told == [("half of it", 0.5)]


def test_a_step_shows_itself_when_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = in_terminal(monkeypatch)
    with step("a short one"):
        pass
    assert terminal.getvalue() == ""
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    with step("a long one"):
        time.sleep(0.1)
    assert "a long one" in terminal.getvalue()


def test_a_step_that_fails_leaves_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = in_terminal(monkeypatch)
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    with contextlib.suppress(ZeroDivisionError), speaking(Level.VERBOSE), step("a division"):
        time.sleep(0.05)
        _ = 1 / 0
    shown = terminal.getvalue()
    time.sleep(0.2)
    assert terminal.getvalue() == shown
    assert "a division:" not in shown


def test_commands_say_more_or_less(capsys: Output) -> None:
    words = ["plan", "resnet20", "--params", "1.5"]
    said = {}
    for flag in ("-q", "", "-v"):
        assert main([*words, *filter(None, [flag])]) == 0
        said[flag] = capsys.readouterr().err
    assert said["-q"] == said[""]
    assert said[""].startswith("precrop: warning: nothing is cropped")
    assert "precrop: planning resnet20: 0." in said["-v"]
    assert main([*words, "-q", "-v"]) == 2
    assert "--quiet and --verbose exclude one another" in capsys.readouterr().err
    assert progress.speaks()
    assert not progress.speaks(Level.VERBOSE)


def test_lines_say_everything_once() -> None:
    said: list[str] = []
    tell = lines(said.append)
    for what, share in [("counting", 0.0), ("counting", 0.3), ("sleeping", 0.5), ("sleeping", 1.0)]:
        tell(what, share)
    assert said == ["  0%  counting", " 50%  sleeping"]


class Odd:
    """Somebody's object in the place of a stream."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS = {"none": lambda: None, "closed": closed, "odd": Odd, "not even odd": object}


@pytest.mark.parametrize("kind", STREAMS)
def test_nothing_depends_on_standard_error(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    stream = STREAMS[kind]()
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["plan", "resnet20", "--params", "0.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"]["name"] == "resnet20"
    assert main(["plan", "nobody", "--params", "0.5", "--json"]) == 2
    assert capsys.readouterr().out == ""
    with speaking(Level.VERBOSE), step("a step"), measuring() as show:
        show("half of it", 0.5)
        note("a thing")
        if kind != "not even odd":
            progress.console().print("a line")
    assert list(bar(range(3), "counting", 3)) == [0, 1, 2]
    if isinstance(stream, Odd):
        assert stream.text.startswith("precrop: error: unknown model 'nobody'")
        assert "a line" in stream.text
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", STREAMS)
def test_a_plan_is_saved_whatever_standard_output_is(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for words in ([], ["--json"], ["--summary"]) if kind != "not even odd" else ():
        monkeypatch.setattr(sys, "stdout", STREAMS[kind]())
        path = tmp_path / f"{len(words)}.json"
        assert main(["plan", "resnet20", "--params", "0.5", "-o", str(path), *words]) == 0
        assert path.exists()
