"""The text for the repository: every number has its runs beside it, every picture is there."""

import re
from dataclasses import replace

from precrop.report.markdown import markdown
from precrop.report.words import PICTURES, Report
from precrop.report.writing import TEXT, write_report
from tests.study.made_rows import made_row


def text(report: Report) -> str:
    return (report.folder / TEXT).read_text(encoding="utf-8")


def test_every_group_stands_with_its_figures_and_runs(report: Report) -> None:
    lines = text(report).splitlines()
    for group in report.frame.groups:
        (line,) = (
            line
            for line in lines
            if line.startswith(f"| {group.variant} | {group.accuracy} |")
            and f"`{group.runs[0]}`" in line
        )
        assert all(f"`{run}`" in line for run in group.runs)
        assert f"({group.params_share:.1%})" in line


def test_every_verdict_and_comparison_is_there(report: Report) -> None:
    content = text(report)
    for verdict in report.verdicts.values():
        row = f"| {verdict.claim} | {verdict.source} | **{verdict.answer}** |"
        assert (row in content) == bool(verdict.judged)
        for judged in verdict.judged:
            assert f"{judged.comparison.difference:+.2f}" in content


def test_the_readers_own_table_comes_first(report: Report) -> None:
    heads = [line for line in text(report).splitlines() if line.startswith("## ")]
    assert heads[:2] == ["## Accuracy by variant", "## Verdicts"]
    first = next(line for line in text(report).splitlines() if line.startswith("|"))
    assert first.startswith("| variant | accuracy, % | n | budget |")


def test_claims_without_runs_are_one_line(report: Report) -> None:
    silent = [name for name, verdict in report.verdicts.items() if not verdict.judged]
    line = f"{len(silent)} claims have no runs to be judged by here: {', '.join(silent)}."
    assert len(silent) > 5
    assert line in text(report).splitlines()


def test_without_roles_no_claim_is_judged_and_it_is_said(report: Report) -> None:
    bare = write_report([made_row()], report.folder / "bare")
    assert bare.verdicts == {}
    assert "No claim was judged: the studies' files name none, or were not found" in text(bare)


def test_tables_are_rectangular(report: Report) -> None:
    for block in re.split(r"\n\n", text(report)):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        counts = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert len(counts) <= 1, block


def test_pictures_are_beside_the_text(report: Report) -> None:
    linked = set(re.findall(r"\]\(([^)]*)\)", text(report)))
    there = {f"{PICTURES}/{path.name}" for path in (report.folder / PICTURES).iterdir()}
    assert linked == there
    assert linked


def test_failed_cells_are_told(report: Report) -> None:
    (row,) = report.frame.failed
    assert f"| `{row.cell}` |" in text(report)
    assert "the loss is not a number" in text(report)


def test_a_bar_in_a_name_stays_in_its_cell(report: Report) -> None:
    rows = [made_row(variant="a|b")]
    small = write_report(rows, report.folder / "bar")
    content = markdown(replace(small, figures=()))
    assert r"| a\|b |" in content
