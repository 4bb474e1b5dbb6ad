"""What is said beside a result, and how much of it."""

import contextlib
import io
import sys
import time

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
