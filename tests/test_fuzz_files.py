"""Some of the mutations that `make fuzz` makes of every kind of file."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import fuzz_files

EACH = 16


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where sound files are kept; what libraries log is of no interest."""
    logging.disable(logging.CRITICAL)
    yield tmp_path_factory.mktemp("fuzz")
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("kind", fuzz_files.KINDS)
def test_mutated_files_end_in_one_line_or_the_right_answer(kind: str, root: Path) -> None:
    first, step = list(fuzz_files.KINDS).index(kind), len(fuzz_files.KINDS)
    found = [fuzz_files.attempt(first + step * n, root) for n in range(EACH)]
    assert [entry for entry in found if "problem" in entry] == []
    assert {entry["kind"] for entry in found} == {kind}


@pytest.mark.parametrize("kind", fuzz_files.KINDS)
def test_the_sound_files_are_taken(kind: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise every mutation would end well, of whatever."""
    monkeypatch.chdir(fuzz_files.sound(kind, root))
    words = fuzz_files.KINDS[kind].words[0]
    status, out, err = fuzz_files.run(words)
    assert (status, bool(out)) == (0, True), err


def test_a_traceback_is_a_problem() -> None:
    assert fuzz_files.problem_in(None, "Traceback") == "Traceback"
    assert fuzz_files.problem_in(0, "") is None
    assert fuzz_files.problem_in(2, "precrop: error: no\n") is None
    assert fuzz_files.problem_in(2, "") is not None
    assert fuzz_files.problem_in(2, f"precrop: error: {'x' * 3000}\n") is not None
    assert fuzz_files.problem_in(3, "") is not None
