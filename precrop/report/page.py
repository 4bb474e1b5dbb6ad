"""One page that holds everything: tables, verdicts, charts, filters. Needs no network."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import repeat
from typing import Any

import vl_convert

from precrop.report.figures import FIGURES
from precrop.report.frames import ResultFrame, RunGroup, percent, run_id
from precrop.report.tables import looks
from precrop.report.verdicts import OUTCOMES, Verdict, figures
from precrop.report.words import (
    GROUP,
    METHOD,
    REPLACED,
    TITLE,
    Marked,
    Report,
    compared_cells,
    counted,
    describe,
    failures,
    group_cells,
    summary,
    untouched,
)

_NUMBERS = ("accuracy, %", "n", "seed", "parameters", "MACs", "s per epoch", "seconds")
"""Columns of numbers, by their heads."""


def page(report: Report) -> str:
    """The page's HTML."""
    frame = report.frame
    parts = {
        "title": TITLE,
        "style": _asset("page.css"),
        "summary": escape(summary(frame)),
        "groups": _groups(frame),
        "runs": _runs(frame),
        "verdicts": _verdicts(report.verdicts),
        "figures": "\n".join(_section(name, heading) for name, (heading, _) in FIGURES.items()),
        "rest": _rest(report),
        # Within a script element "<" may end it, or begin a comment.
        "content": json.dumps(_content(report)).replace("<", "\\u003c"),
        "vega": vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"),
        "script": _asset("page.js"),
    }
    head, *pieces = _asset("page.html").split("{{")
    filled = [head]
    for piece in pieces:
        name, _, after = piece.partition("}}")
        filled += [parts[name], after]
    return "".join(filled)


def _asset(name: str) -> str:
    return files("precrop.report").joinpath(name).read_text(encoding="utf-8")


def _section(name: str, heading: str) -> str:
    inside = f'<h2>{heading}</h2><p class="quiet"></p><div class="chart scroll"></div>'
    return f'<section data-figure="{name}" hidden>{inside}</section>'


def _content(report: Report) -> dict[str, Any]:
    settings = [
        {
            "network": setting.network,
            "data": setting.data,
            "recipe": setting.recipe,
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
    rows = [(*group_cells(group), _code(group.runs)) for group in frame.groups]
    return _table(GROUP, rows, [_keys(frame, group) for group in frame.groups])


def _runs(frame: ResultFrame) -> str:
    counts = ("seed", "accuracy, %", "parameters", "MACs", "seconds")
    rows = [
        (
            _code([run_id(row)]),
            row.study,
            str(group.budget),
            group.variant,
            str(row.seed),
            f"{percent(row):.2f}",
            f"{row.params:,}",
            f"{row.macs:,}",
            f"{row.seconds:.1f}",
        )
        for group in frame.groups
        for row in group.rows
    ]
    keys = [_keys(frame, group) for group in frame.groups for _ in group.rows]
    return _table(("run", "study", "budget", "variant", *counts), rows, keys)


def _keys(frame: ResultFrame, group: RunGroup) -> str:
    """What the page's filters know a row by, as attributes."""
    setting = frame.settings.index(group.setting)
    keys = {"setting": str(setting), "budget": str(group.budget), "variant": group.variant}
    return " ".join(f'data-{name}="{escape(value)}"' for name, value in keys.items())


def _verdicts(found: Mapping[str, Verdict]) -> str:
    """Those that the runs can be asked for; the others behind one line."""
    lines = [_verdict(verdict) for verdict in found.values() if verdict.judged]
    if (line := untouched(found)) is not None:
        rest = [_verdict(verdict) for verdict in found.values() if not verdict.judged]
        lines.append(_folded(line, rest) if rest else f'<p class="quiet">{escape(line)}</p>')
    return "\n".join(lines)


def _folded(line: str, rest: Iterable[str]) -> str:
    return f'<details class="untouched"><summary>{escape(line)}</summary>{"".join(rest)}</details>'


def _verdict(verdict: Verdict) -> str:
    kind = verdict.answer.replace(" ", "-")
    table = ""
    if verdict.judged:
        heads = ("network, data, recipe", "budget", "compared", "difference", "outcome", "runs")
        rows = [
            (
                *compared_cells(judged),
                figures(judged),
                OUTCOMES[judged.outcome],
                _code(judged.comparison.runs),
            )
            for judged in verdict.judged
        ]
        label = counted(len(rows), "comparison")
        table = f"<details><summary>{label}</summary>{_table(heads, rows)}</details>"
    return (
        f'<div class="verdict"><p class="answer {kind}">{verdict.answer}</p><div>'
        f'<p class="claim">{escape(verdict.claim)}</p>'
        f'<p class="quiet">{escape(verdict.source)}. {escape(verdict.text)}</p>{table}</div></div>'
    )


def _code(words: Iterable[str]) -> Marked:
    return Marked(f"<code>{escape(' '.join(words))}</code>")


def _table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], attributes: Iterable[str] = repeat("")
) -> str:
    """A table; the attributes are those of its rows."""
    kinds = [' class="number"' if head in _NUMBERS else "" for head in heads]
    lines = [f"<tr>{_cells('th', kinds, heads)}</tr>"]
    for row, known in zip(rows, attributes, strict=False):
        lines.append(f"<tr {known}>{_cells('td', kinds, row)}</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _cells(tag: str, kinds: Sequence[str], texts: Sequence[str]) -> str:
    pairs = zip(kinds, texts, strict=True)
    shown = ((kind, text if isinstance(text, Marked) else escape(text)) for kind, text in pairs)
    return "".join(f"<{tag}{kind}>{text}</{tag}>" for kind, text in shown)


def _rest(report: Report) -> str:
    """What no filter changes: failed cells, what was left out, how figures came about."""
    frame, parts = report.frame, []
    if frame.failed:
        rows = [(_code([cell]), what, error) for cell, what, error in failures(frame)]
        table = _table(("cell", "what", "error"), rows)
        parts.append(f"<section><h2>Failed</h2>{table}</section>")
    if frame.replaced:
        cells = _code(row.cell for row in frame.replaced)
        parts.append(f"<section><h2>Left out</h2><p>{REPLACED}{cells}</p></section>")
    text = "".join(f"<p>{escape(line)}</p>" for line in (*METHOD, *describe(report)))
    parts.append(f'<section class="quiet"><h2>How to read this</h2>{text}</section>')
    return "\n".join(parts)
