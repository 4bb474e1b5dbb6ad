"""The report as Markdown, for a repository: verdicts, tables, and pictures beside it."""

import re
from collections.abc import Iterable, Mapping, Sequence

from precrop.report.comparisons import Judged
from precrop.report.figures import Figure
from precrop.report.frames import ResultFrame
from precrop.report.verdicts import OUTCOMES, Verdict
from precrop.report.words import (
    GROUP,
    METHOD,
    PICTURES,
    REPLACED,
    TITLE,
    Marked,
    Report,
    compared_cells,
    describe,
    failures,
    group_cells,
    summary,
    untouched,
)


def markdown(report: Report) -> str:
    """The report's text."""
    frame, found = report.frame, report.verdicts
    blocks = [f"# {TITLE}", summary(frame), "## Accuracy by variant"]
    for setting in frame.settings:
        rows = [(*group_cells(group), _codes(group.runs)) for group in frame.within(setting)]
        blocks += [f"### {_plain(str(setting))}", _table(GROUP, rows)]
    blocks += ["## Verdicts", *_verdicts(found)]
    for verdict in found.values():
        blocks += _details(verdict)
    for setting in frame.settings:
        own = [figure for figure in report.figures if figure.setting == setting]
        blocks += [f"## {_plain(str(setting))}"] if own else []
        blocks += map(_picture, own)
    blocks += _rest(frame)
    blocks += ["## How to read this", *METHOD, *map(escaped, describe(report))]
    return "\n\n".join(blocks) + "\n"


def _verdicts(found: Mapping[str, Verdict]) -> list[str]:
    """Those that the runs can be asked for as a table; the others in one line."""
    heads = ("claim", "whose", "verdict", "why")
    asked = [verdict for verdict in found.values() if verdict.judged]
    rows = [(v.claim, v.source, Marked(f"**{v.answer}**"), v.text) for v in asked]
    line = untouched(found)
    return ([_table(heads, rows)] if rows else []) + ([escaped(line)] if line else [])


def _details(verdict: Verdict) -> list[str]:
    if not verdict.judged:
        return []
    heads = (
        "network, data, recipe",
        "budget",
        "compared",
        "points",
        "95% interval",
        "of its pairs alone",
        "n",
        "p",
        "params",
        "MACs",
        "outcome",
        "runs",
    )
    rows = [_comparison(judged) for judged in verdict.judged]
    text = f"**{verdict.answer}** {escaped(verdict.text)}"
    return [f"### {_plain(verdict.claim)}", text, _table(heads, rows)]


def _comparison(judged: Judged) -> tuple[str, ...]:
    compared = judged.comparison
    return (
        *compared_cells(judged),
        f"{compared.difference:+.2f}",
        _interval(compared.pooled.interval()),
        _interval(compared.paired.interval()),
        str(len(compared.seeds)),
        "" if judged.p is None else f"{judged.p:.2g}",
        f"{compared.params:.1%}",
        f"{compared.macs:.1%}",
        OUTCOMES[judged.outcome],
        _codes(compared.runs),
    )


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:+.2f} to {ends[1]:+.2f}"


def _picture(figure: Figure) -> str:
    path = f"{PICTURES}/{figure.stem}"
    caption = _plain(figure.caption)
    return f"![{caption}]({path}.png)\n\n*{caption}* [SVG]({path}.svg)"


def _rest(frame: ResultFrame) -> list[str]:
    blocks = []
    if frame.failed:
        rows = [(_codes([cell]), what, error) for cell, what, error in failures(frame)]
        blocks += ["## Failed", _table(("cell", "what", "error"), rows)]
    if frame.replaced:
        cells = _codes(row.cell for row in frame.replaced)
        blocks += ["## Left out", REPLACED + cells]
    return blocks


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return text if isinstance(text, Marked) else escaped(text)


def _codes(words: Iterable[str]) -> Marked:
    """Identities of runs and cells, which are letters and digits; nothing else ends their code."""
    return Marked(" ".join(f"`{re.sub(r'[^0-9A-Za-z._-]', '?', word)}`" for word in words))


_ESCAPES = str.maketrans(
    {
        **{mark: f"\\{mark}" for mark in "\\*|~"},
        **{mark: f"&#{ord(mark)};" for mark in "[]`@"},
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
    }
)


def escaped(text: str) -> str:
    """A name, or a sentence with names in it, as what it is: no HTML, link, code or emphasis.

    Underscores within words, of which networks' names are full, mean nothing and stay.
    """
    line = " ".join(text.split()).translate(_ESCAPES)
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)
    return re.sub(r"(?i)(https?|ftp|www)(:|\.)", lambda m: f"{m[1]}&#{ord(m[2])};", line)


def _plain(text: str) -> str:
    """A name in a heading or a caption."""
    return escaped(text).rstrip(".")
