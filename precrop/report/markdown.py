"""The report as Markdown, for a repository: verdicts, tables, and links to the pictures."""

import re
from collections.abc import Iterable, Mapping, Sequence

from precrop.report import words
from precrop.report.comparisons import Judged
from precrop.report.figures import Figure
from precrop.report.frames import ResultFrame
from precrop.report.verdicts import OUTCOMES, Verdict
from precrop.report.words import Cells, Marked, Report


def markdown(report: Report) -> str:
    """Return the report's text."""
    frame, found = report.frame, report.verdicts
    blocks = [f"# {words.TITLE}", words.summary(frame), "## Accuracy by variant"]
    for setting in frame.settings:
        groups = frame.within(setting)
        rows = [{**words.group_cells(group), "runs": _codes(group.runs)} for group in groups]
        blocks += [f"### {_plain(str(setting))}", _table(rows)]
    blocks += ["## Verdicts", *_verdicts(found)]
    for setting in frame.settings:
        own = [figure for figure in report.figures if figure.setting == setting]
        blocks += [f"## {_plain(str(setting))}"] if own else []
        blocks += map(_picture, own)
    blocks += _rest(frame)
    blocks += ["## How to read this", *words.METHOD, *map(escaped, words.describe(report))]
    return "\n\n".join(blocks) + "\n"


def _verdicts(found: Mapping[str, Verdict]) -> list[str]:
    """Show verdicts with comparisons as a table and one by one; the others take one line."""
    asked = [verdict for verdict in found.values() if verdict.judged]
    rows: list[Cells] = [
        {
            "claim": verdict.claim,
            "whose": verdict.source,
            "verdict": Marked(f"**{verdict.answer}**"),
            "why": verdict.text,
        }
        for verdict in asked
    ]
    line = words.untouched(found)
    blocks = ([_table(rows)] if rows else []) + ([escaped(line)] if line else [])
    for verdict in asked:
        text = f"**{verdict.answer}** {escaped(verdict.text)}"
        table = _table([_comparison(judged) for judged in verdict.judged])
        blocks += [f"### {_plain(verdict.claim)}", text, table]
    return blocks


def _comparison(judged: Judged) -> Cells:
    compared = judged.comparison
    return {
        **words.compared_cells(judged),
        "points": f"{compared.difference:+.2f}",
        "95% interval": _interval(compared.pooled.interval()),
        "of its pairs alone": _interval(compared.paired.interval()),
        "n": str(len(compared.seeds)),
        "p": "" if judged.p is None else f"{judged.p:.2g}",
        "params": f"{compared.params:.1%}",
        "MACs": f"{compared.macs:.1%}",
        "outcome": OUTCOMES[judged.outcome],
        "runs": _codes(compared.runs),
    }


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:+.2f} to {ends[1]:+.2f}"


def _picture(figure: Figure) -> str:
    path = f"{words.PICTURES}/{figure.stem}"
    caption = _plain(figure.caption)
    return f"![{caption}]({path}.png)\n\n*{caption}* [SVG]({path}.svg)"


def _rest(frame: ResultFrame) -> list[str]:
    blocks = []
    if frame.failed:
        rows = [{"cell": _codes([row.cell]), **words.failure_cells(row)} for row in frame.failed]
        blocks += ["## Failed", _table(rows)]
    if frame.replaced:
        cells = _codes(row.cell for row in frame.replaced)
        blocks += ["## Left out", words.REPLACED + cells]
    return blocks


def _table(rows: Sequence[Cells]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return text if isinstance(text, Marked) else escaped(text)


def _codes(names: Iterable[str]) -> Marked:
    """Return ids of runs and cells as code; characters that do not occur in ids become ``?``."""
    return Marked(" ".join(f"`{re.sub(r'[^0-9A-Za-z._-]', '?', name)}`" for name in names))


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
    """Escape a name, or a sentence with names: nothing in it is HTML, link, code or emphasis.

    Underscores within words, common in networks' names, have no meaning in Markdown and stay.
    """
    line = " ".join(text.split()).translate(_ESCAPES)
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)
    return re.sub(r"(?i)(https?|ftp|www)(:|\.)", lambda m: f"{m[1]}&#{ord(m[2])};", line)


def _plain(text: str) -> str:
    """Escape a name for a heading or a caption, without a full stop at its end."""
    return escaped(text).rstrip(".")
