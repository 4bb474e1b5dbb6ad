"""Writing a report's files: the text, the page and the pictures."""

from collections.abc import Iterable
from pathlib import Path

from precrop.errors import PrecropError, errors_as
from precrop.files import refuse_link, write_text
from precrop.report.claims import read_claims
from precrop.report.figures import figures
from precrop.report.grouping import frame_of
from precrop.report.markdown import markdown
from precrop.report.page import page
from precrop.report.verdicts import MARGIN, verdicts
from precrop.report.words import PICTURES, Report
from precrop.study.rows import Row

TEXT, PAGE = "report.md", "index.html"


def write_report(
    rows: Iterable[Row], folder: Path, margin: float = MARGIN, studies: Iterable[Path] = ()
) -> Report:
    """Write the report on a store's rows, and return its content.

    Args:
        rows: the rows of the store.
        folder: gets ``report.md``, ``index.html`` and ``figures``; it is created if missing.
        margin: percentage points of accuracy that count as no difference.
        studies: study files, or folders of them, which give the claims and the variants' roles in
            them; without any, no claim is judged.

    Raises:
        PrecropError: no run is finished, a library is missing, or a file cannot be written.
    """
    if not 0 < margin <= 100:
        where = "at most 100" if margin > 100 else "above 0"
        raise PrecropError(f"margin={margin:g} is not {where}: it is in percentage points, as 0.5")
    rows = list(rows)
    claims = read_claims(studies, {row.study for row in rows})
    frame = frame_of(rows, claims.parts)
    found, drawn = verdicts(frame, claims, margin), tuple(figures(frame, margin))
    report = Report(folder, frame, found, drawn, margin)
    refuse_link(folder / PICTURES)
    with errors_as(f"cannot make the folder {folder}", OSError):
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    for figure in drawn:
        figure.write(folder / PICTURES)
    write_text(folder / TEXT, markdown(report))
    write_text(folder / PAGE, page(report))
    return report
