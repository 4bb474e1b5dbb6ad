"""One page that holds everything: data, charts that can be filtered, verdicts. Needs no network."""

import json
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from precrop.errors import PrecropError
from precrop.report.families import granularities
from precrop.report.figures import COLORS, original_widths, unit_name
from precrop.report.frames import Frame, Group, percent, run_id, short_count
from precrop.report.verdicts import OUTCOMES, Verdict, figures
from precrop.report.words import METHOD, TITLE, describe, failures, summary, untouched


def page(frame: Frame, found: Mapping[str, Verdict], margin: float) -> str:
    """The page's HTML.

    Args:
        frame: all that the store holds.
        found: the verdicts.
        margin: percentage points that count as no difference.

    Raises:
        PrecropError: plotly is not installed.
    """
    parts = {
        "title": TITLE,
        "style": _asset("page.css"),
        "summary": escape(summary(frame)),
        "verdicts": _verdicts(found),
        "margin": f"{margin:g}",
        "rest": _rest(frame, margin),
        # Within a script element "<" may end it, or begin a comment.
        "content": json.dumps(_content(frame, margin)).replace("<", "\\u003c"),
        "plotly": _plotly(),
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


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]
    except ImportError as error:
        raise PrecropError("plotly is not installed: pip install 'precrop[report]'") from error
    return str(get_plotlyjs())


def _content(frame: Frame, margin: float) -> dict[str, Any]:
    places = {id(group): index for index, group in enumerate(frame.groups)}
    families = [[places[id(group)] for group in family] for family in granularities(frame)]
    return {
        "margin": margin,
        "colors": {name: COLORS[i % len(COLORS)] for i, name in enumerate(frame.variants)},
        "groups": [_group(frame, index, group) for index, group in enumerate(frame.groups)],
        "families": families,
    }


def _group(frame: Frame, index: int, group: Group) -> dict[str, Any]:
    return {
        "index": index,
        "network": group.setting.network,
        "data": group.setting.data,
        "recipe": group.setting.recipe,
        "budget": str(group.budget),
        "variant": group.variant,
        "kind": group.kind,
        "unit": unit_name(group),
        "accuracy": str(group.accuracy),
        "mean": group.accuracy.mean,
        "deviation": group.accuracy.deviation,
        "params": short_count(group.params),
        "macs": short_count(group.macs),
        "params_share": group.params_share,
        "macs_share": group.macs_share,
        "widths": group.widths,
        "original": original_widths(frame, group.setting),
        "densities": group.densities,
        "epoch_seconds": group.epoch_seconds,
        "devices": group.devices,
        "runs": [
            {
                "id": run_id(row),
                "study": row.study,
                "seed": row.seed,
                "accuracy": percent(row),
                "params": row.params,
                "macs": row.macs,
                "params_share": (row.params or 0) / (row.base_params or 1),
                "macs_share": (row.macs or 0) / (row.base_macs or 1),
                "seconds": row.seconds,
            }
            for row in group.rows
        ],
    }


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
                str(judged.comparison.one.setting),
                str(judged.comparison.one.budget),
                f"{judged.comparison.one.variant} against {judged.comparison.other.variant}",
                figures(judged),
                OUTCOMES[judged.outcome],
                _code(judged.comparison.runs),
            )
            for judged in verdict.judged
        ]
        count = len(rows)
        label = "1 comparison" if count == 1 else f"{count} comparisons"
        table = f"<details><summary>{label}</summary>{_table(heads, rows)}</details>"
    return (
        f'<div class="verdict"><p class="answer {kind}">{verdict.answer}</p><div>'
        f'<p class="claim">{escape(verdict.claim)}</p>'
        f'<p class="quiet">{escape(verdict.source)}. {escape(verdict.text)}</p>{table}</div></div>'
    )


class _Safe(str):
    """Text that is HTML already."""


def _code(words: Iterable[str]) -> _Safe:
    return _Safe(f"<code>{escape(' '.join(words))}</code>")


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{_safe(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _safe(cell: str) -> str:
    return cell if isinstance(cell, _Safe) else escape(cell)


def _rest(frame: Frame, margin: float) -> str:
    """What no filter changes: failed cells, what was left out, how figures came about."""
    parts = []
    if frame.failed:
        rows = [(_code([cell]), what, error) for cell, what, error in failures(frame)]
        table = _table(("cell", "what", "error"), rows)
        parts.append(f"<section><h2>Failed</h2>{table}</section>")
    if frame.replaced:
        cells = _code(row.cell for row in frame.replaced)
        parts.append(
            "<section><h2>Left out</h2><p>Older runs of variants whose options were changed under "
            f"the same name: {cells}</p></section>"
        )
    text = "".join(f"<p>{escape(line)}</p>" for line in (*METHOD, *describe(frame, margin)))
    parts.append(f'<section class="quiet"><h2>How to read this</h2>{text}</section>')
    return "\n".join(parts)
