"""The command ``study status``."""

import typer

from precrop.cli.options import LastJson, with_options
from precrop.cli.output import print_line
from precrop.cli.studies import StudyOptions, opened
from precrop.files import json_text


@with_options
def status_command(options: StudyOptions, as_json: LastJson = False) -> None:
    """How far a study is: what is done, running, failed and left."""
    study = options.read()  # nothing of it is run
    from precrop.study.cells import expand, label
    from precrop.study.locks import is_claimed
    from precrop.study.progress import duration

    cells, folder = expand(study), options.folder(study)
    rows = {row.cell: row for row in opened(folder)[1]} if folder.exists() else {}
    states: dict[str, list[str]] = {"done": [], "failed": [], "running": [], "left": []}
    for cell in cells:
        state: str = rows[cell.id].status if cell.id in rows else "left"
        if state != "done" and is_claimed(folder / "claims" / cell.id):
            state = "running"
        states[state].append(cell.id)
    trained = sum(rows[cell].seconds for cell in states["done"])
    overhead = sum(rows[cell].overhead for cell in states["done"])
    failures = {label(c): rows[c.id].error for c in cells if c.id in states["failed"]}
    counts = {state: len(found) for state, found in states.items()}
    if as_json:
        content = {"study": study.name, "store": str(folder), **counts, "seconds": trained}
        typer.echo(json_text({**content, "overhead": overhead, "failures": failures}))
        return
    print_line(f"{study.name}: {', '.join(f'{n} {state}' for state, n in counts.items())}")
    beside = f", {overhead / trained:.1%} overhead" if trained else ""
    print_line(f"{duration(trained)} of training{beside}; {folder}")
    for cell in cells:
        if cell.id in states["running"]:
            print_line(f"running: {label(cell)}")
    for name, error in failures.items():
        print_line(f"failed: {name}: {error}")
