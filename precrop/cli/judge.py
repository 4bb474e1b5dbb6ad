"""The command ``judge``. Heavy imports wait inside it, as in `precrop.cli.app`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from precrop.errors import PrecropError

if TYPE_CHECKING:
    from precrop.evidence.verdict import Evidence

Data = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="DIR",
        help="The folder of nats-sss.parquet, and of published-widths.json if it is there.",
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="A folder for evidence.json and two pictures.")
]
Budgets = Annotated[int, typer.Option(min=1, help="Pairs of budgets for the regret of a strategy.")]
Processes = Annotated[int, typer.Option(min=1, help="That work side by side.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print all that was measured as JSON.")]


def judge_command(
    data: Data,
    output: Output = None,
    budgets: Budgets = 300,
    processes: Processes = 1,
    as_json: AsJson = False,
) -> None:
    """Judge every objective, strategy and method by 98,304 trained networks (NATS-Bench).

    The table holds the accuracy of every choice of five widths on three data sets. Published widths
    of well-known networks are compared with plans at their budgets. A few
    --budgets give a first look. With -o what is finished is kept in the folder: the same command
    goes on where it was stopped.
    """
    try:
        from precrop.evidence.nats import load_tables
        from precrop.evidence.page import draw_gains, draw_order, write_picture
        from precrop.evidence.published import FILE, load_published
        from precrop.evidence.verdict import judge
        from precrop.progress import bar
    except ImportError as error:
        raise PrecropError(
            f"judging needs {error.name}, which is not installed: pip install 'precrop[report]'"
        ) from error
    tables = load_tables(data)
    published = load_published(data) if (data / FILE).is_file() else []
    parts = None if output is None else output / "parts.jsonl"
    found = judge(
        tables, published, budgets=budgets, processes=processes, progress=bar, parts=parts
    )
    if output is not None and parts is not None:
        found.save(output / "evidence.json")
        parts.unlink()
        write_picture(draw_order(tables), output / "order.png")
        write_picture(draw_gains(found), output / "gains.png")
    if as_json:
        typer.echo(json.dumps(found.to_json()))
        return
    _print(found)


def _print(found: "Evidence") -> None:
    from precrop.evidence.page import gains_table, order_table, published_table, regret_table

    tables = [
        ("Rank correlation with accuracy within bands of one size", order_table(found)),
        ("Points behind the best network within both budgets", regret_table(found)),
        ("Gain of the default over uniform width", gains_table(found)),
    ]
    if len(found.published):
        tables.append(("Rank correlation with published widths, distance", published_table(found)))
    for title, table in tables:
        typer.echo(f"{title}\n\n{table}\n")
