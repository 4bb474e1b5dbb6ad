"""The report as one self-contained page with tables, verdicts, charts and filters."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from html import escape
from importlib.resources import files
from itertools import repeat
from typing import Any

import vl_convert

from precrop.files import json_text
from precrop.report import words
from precrop.report.figures import FIGURES
from precrop.report.frames import ResultFrame, RunGroup, percent, run_id
from precrop.report.tables import looks
from precrop.report.verdicts import OUTCOMES, Verdict, figures
from precrop.report.words import Cells, Marked, Report

_NUMBERS = ("accuracy, %", "n", "seed", "parameters", "MACs", "s per epoch", "seconds")
"""Headings of the columns that hold numbers."""


def page(report: Report) -> str:
    """Return the page's HTML, which loads nothing from elsewhere."""
    frame = report.frame
    parts = {
        "title": words.TITLE,
        "style": _asset("page.css"),
        "summary": escape(words.summary(frame)),
        "groups": _groups(frame),
        "runs": _runs(frame),
        "verdicts": _verdicts(report.verdicts),
        "figures": "\n".join(_section(name, heading) for name, (heading, _) in FIGURES.items()),
        "rest": _rest(report),
        # Within a script element, "<" may end it or begin a comment.
        "content": json_text(_content(report)).replace("<", "\\u003c"),
        "vega": _vega(),
        "script": _asset("page.js"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _asset("page.html"))


@cache
def _vega() -> str:
    """Return the library that draws the charts; cached, as bundling it takes a second."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _asset(name: str) -> str:
    return files("precrop.report").joinpath(name).read_text(encoding="utf-8")


def _section(name: str, heading: str) -> str:
    inside = f'<h2>{heading}</h2><p class="quiet"></p><div class="chart scroll"></div>'
    return f'<section data-figure="{name}" hidden>{inside}</section>'


def _content(report: Report) -> dict[str, Any]:
    settings = [
        {
            **asdict(setting),
            "figures": {
                figure.name: {"caption": figure.caption, "chart": figure.chart}
                for figure in report.figures
                if figure.setting == setting
            },
        }
        for setting in report.frame.settings
    ]
    known = looks(report.frame)
    colors = dict(zip(known["variant"], known["color"], strict=True))
    return {"colors": colors, "settings": settings}


def _groups(frame: ResultFrame) -> str:
    rows = [{**words.group_cells(group), "runs": _code(group.runs)} for group in frame.groups]
    return _table(rows, [_keys(frame, group) for group in frame.groups])


def _runs(frame: ResultFrame) -> str:
    rows = [
        {
            "run": _code([run_id(row)]),
            "study": row.study,
            "budget": str(group.budget),
            "variant": group.variant,
            "seed": str(row.seed),
            "accuracy, %": f"{percent(row):.2f}",
            "parameters": f"{row.params:,}",
            "MACs": f"{row.macs:,}",
            "seconds": f"{row.seconds:.1f}",
        }
        for group in frame.groups
        for row in group.rows
    ]
    keys = [_keys(frame, group) for group in frame.groups for _ in group.rows]
    return _table(rows, keys)


def _keys(frame: ResultFrame, group: RunGroup) -> str:
    """Return the attributes by which the page's filters select a row."""
    setting = frame.settings.index(group.setting)
    keys = {"setting": str(setting), "budget": str(group.budget), "variant": group.variant}
    return " ".join(f'data-{name}="{escape(value)}"' for name, value in keys.items())


def _verdicts(found: Mapping[str, Verdict]) -> str:
    """Show verdicts with comparisons; fold the others behind one line."""
    lines = [_verdict(verdict) for verdict in found.values() if verdict.judged]
    if (line := words.untouched(found)) is not None:
        text, rest = escape(line), "".join(_verdict(v) for v in found.values() if not v.judged)
        folded = f'<details class="untouched"><summary>{text}</summary>{rest}</details>'
        lines.append(folded if rest else f'<p class="quiet">{text}</p>')
    return "\n".join(lines)


def _verdict(verdict: Verdict) -> str:
    kind = verdict.answer.replace(" ", "-")
    table = ""
    if verdict.judged:
        rows = [
            {
                **words.compared_cells(judged),
                "difference": figures(judged),
                "outcome": OUTCOMES[judged.outcome],
                "runs": _code(judged.comparison.runs),
            }
            for judged in verdict.judged
        ]
        label = words.counted(len(rows), "comparison")
        table = f"<details><summary>{label}</summary>{_table(rows)}</details>"
    return (
        f'<div class="verdict"><p class="answer {kind}">{verdict.answer}</p><div>'
        f'<p class="claim">{escape(verdict.claim)}</p>'
        f'<p class="quiet">{escape(verdict.source)}. {escape(verdict.text)}</p>{table}</div></div>'
    )


def _code(names: Iterable[str]) -> Marked:
    return Marked(f"<code>{escape(' '.join(names))}</code>")


def _table(rows: Sequence[Cells], attributes: Iterable[str] = repeat("")) -> str:
    """Return a table; the attributes are those of its rows."""
    lines = [f"<tr>{_cells('th', {head: head for head in rows[0]})}</tr>"]
    for row, known in zip(rows, attributes, strict=False):
        lines.append(f"<tr {known}>{_cells('td', row)}</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _cells(tag: str, row: Cells) -> str:
    cells = []
    for head, text in row.items():
        kind = ' class="number"' if head in _NUMBERS else ""
        shown = text if isinstance(text, Marked) else escape(text)
        cells.append(f"<{tag}{kind}>{shown}</{tag}>")
    return "".join(cells)


def _rest(report: Report) -> str:
    """Return what no filter changes: failed cells, rows left out, and how to read the figures."""
    frame, parts = report.frame, []
    if frame.failed:
        rows = [{"cell": _code([row.cell]), **words.failure_cells(row)} for row in frame.failed]
        parts.append(f"<section><h2>Failed</h2>{_table(rows)}</section>")
    if frame.replaced:
        cells = _code(row.cell for row in frame.replaced)
        parts.append(f"<section><h2>Left out</h2><p>{words.REPLACED}{cells}</p></section>")
    text = "".join(f"<p>{escape(line)}</p>" for line in (*words.METHOD, *words.describe(report)))
    parts.append(f'<section class="quiet"><h2>How to read this</h2>{text}</section>')
    return "\n".join(parts)
