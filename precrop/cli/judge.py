"""The command ``judge``."""

from pathlib import Path
from typing import Annotated

import typer

from precrop.cli.options import with_options
from precrop.errors import needs
from precrop.files import json_text, save_picture


@with_options
def judge_command(
    data: Annotated[
        Path, "The folder of nats-sss.parquet, and of published-widths.json if it is there.", "DIR"
    ],
    output: Annotated[Path | None, "A folder for evidence.json and two pictures."] = None,
    budgets: Annotated[
        int, typer.Option(min=1, help="Pairs of budgets for the regret of a strategy.")
    ] = 300,
    processes: Annotated[int, typer.Option(min=1, help="Processes that work side by side.")] = 1,
    as_json: Annotated[bool, "Print all that was measured as JSON."] = False,
) -> None:
    """Judge every objective, strategy and method by 98,304 trained networks (NATS-Bench).

    NATS-Bench has the accuracy of every choice of five widths on three data sets. Published widths
    of well-known networks are compared with plans at their budgets. Few --budgets give a quick
    first look. With -o, finished parts are kept in the folder, and the same command resumes where
    it was stopped.
    """
    with needs("judging needs", "precrop[report]"):
        from precrop.evidence import page
        from precrop.evidence.nats import load_tables
        from precrop.evidence.published import FILE, load_published
        from precrop.evidence.verdict import judge
        from precrop.progress import bar

    tables = load_tables(data)
    published = load_published(data) if (data / FILE).is_file() else []
    parts = None if output is None else output / "parts.jsonl"
    found = judge(
        tables, published, budgets=budgets, processes=processes, progress=bar, parts=parts
    )
    if output is not None and parts is not None:
        found.save(output / "evidence.json")
        save_picture(page.draw_order(tables), output / "order.png", dpi=120)
        save_picture(page.draw_gains(found), output / "gains.png", dpi=120)
        parts.unlink()
    if as_json:
        typer.echo(json_text(found.to_json()))
        return
    shown = {
        "Rank correlation with accuracy within bands of one size": page.order_table(found),
        "Points behind the best network within both budgets": page.regret_table(found),
        "Gain of the default over uniform width": page.gains_table(found),
    }
    if len(found.published):
        shown["Rank correlation with published widths, distance"] = page.published_table(found)
    for title, table in shown.items():
        typer.echo(f"{title}\n\n{table}\n")
