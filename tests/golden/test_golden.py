"""What must stay when the package is rebuilt, compared with the record: see `record`.

A quick part runs always, the whole with the matrix (``pytest -m matrix tests/golden``).
"""

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.golden import plans, pruning, record, studies
from tests.golden.networks import NETWORKS


def test_enough_is_recorded() -> None:
    recorded = record.read(record.PLANS)
    assert list(recorded) == list(NETWORKS)
    assert all(set(lines) == set(plans.cases(name)) for name, lines in recorded.items())
    made = [line for lines in recorded.values() for line in lines.values() if " " in line]
    assert len(made) > 2200
    assert all(" " in recorded[name]["both"] for name in NETWORKS)


@pytest.mark.parametrize("name", plans.QUICK)
def test_plans(name: str) -> None:
    compare_plans(name, plans.QUICK[name])


@pytest.mark.matrix
@pytest.mark.parametrize("name", NETWORKS)
def test_all_plans(name: str) -> None:
    compare_plans(name, plans.cases(name))


@pytest.mark.parametrize("name", ["nats_sss"])
def test_pruning(name: str) -> None:
    compare_pruning(name)


@pytest.mark.matrix
@pytest.mark.parametrize("name", pruning.NETWORKS)
def test_all_pruning(name: str) -> None:
    compare_pruning(name)


def test_cells() -> None:
    assert studies.cells() == record.read(record.STUDIES)["cells"]


def test_runs() -> None:
    compare_runs("methods-pilot")


@pytest.mark.matrix
@pytest.mark.parametrize("name", studies.STORES)
def test_all_runs(name: str) -> None:
    compare_runs(name)


def test_stores() -> None:
    recorded = record.read(record.STUDIES)
    assert studies.states() == recorded["status"]
    assert studies.rows() == recorded["rows"]


@pytest.mark.matrix
def test_report(tmp_path: Path) -> None:
    verdicts, tables = studies.report(tmp_path)
    assert verdicts == record.read(record.STUDIES)["verdicts"]
    assert tables.splitlines() == record.TABLES.read_text(encoding="utf-8").splitlines()


def compare_plans(name: str, chosen: Iterable[str]) -> None:
    """Plans of a network are those that were recorded; all that differ are told at once."""
    recorded, readable = record.read(record.PLANS)[name], record.read(record.WIDTHS).get(name, {})
    lines, widths = plans.recorded(name, chosen)
    assert widths == {case: readable[case] for case in widths}
    assert lines == {case: recorded[case] for case in lines}


def compare_runs(name: str) -> None:
    """Ids of runs are those that were recorded."""
    assert studies.runs(name) == record.read(record.STUDIES)["runs"][name]


def compare_pruning(name: str) -> None:
    """Numbers are those that were recorded, but for the last digit that was written down."""
    recorded, found = record.read(record.PRUNING)[name], pruning.recorded(name)
    for part, lines in recorded.items():
        assert list(found[part]) == list(lines)
        for what, line in lines.items():
            ours, theirs = split(found[part][what]), split(line)
            assert ours == pytest.approx(theirs, abs=1.5e-4 if part == "masks" else 2e-6), what


def split(line: str) -> list[float | str]:
    """The words of a line; those that are numbers as numbers."""
    return [word if word.endswith(":") else float(word) for word in line.split()]
