"""Records what must stay when the package is rebuilt: ``python -m tests.golden.record [PART…]``.

It rewrites the files beside it from the code as it is. `test_golden.py` compares them with what the
code gives. They were first recorded from commit fb13d2b. Where something is to come out otherwise,
it is recorded anew, and CHANGELOG.md names what changed and why.

The parts are ``plans``, ``pruning`` and ``studies``; all of them take ten minutes.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PLANS = FOLDER / "plans.json"
WIDTHS = FOLDER / "widths.json"
PRUNING = FOLDER / "pruning.json"
STUDIES = FOLDER / "studies.json"
TABLES = FOLDER / "report-tables.md"


def record_plans() -> None:
    """Every plan in brief, and the widths of a few."""
    from tests.golden import plans
    from tests.golden.networks import NETWORKS

    found = {}
    for name in NETWORKS:
        if name in plans.BY_WEIGHTS:
            plans.check_steady(name)
        found[name] = plans.recorded(name)
        print(f"{name}: {len(found[name][0])} plans", flush=True)
    write(PLANS, {name: lines for name, (lines, _) in found.items()})
    write(WIDTHS, {name: found[name][1] for name in plans.READABLE})


def record_pruning() -> None:
    """Densities of every method, masks at every granularity."""
    from tests.golden import pruning

    found = {}
    for name in pruning.NETWORKS:
        pruning.check_steady(name)
        found[name] = pruning.recorded(name)
        print(f"{name}: densities and masks", flush=True)
    write(PRUNING, found)


def record_studies() -> None:
    """Names of cells and runs, what is in the stores, a report's tables."""
    from tests.golden import studies

    with tempfile.TemporaryDirectory() as folder:
        verdicts, tables = studies.report(Path(folder))
    content = {
        "cells": studies.cells(),
        "runs": {name: studies.runs(name) for name in studies.STORES},
        "status": studies.states(),
        "rows": studies.rows(),
        "verdicts": verdicts,
    }
    write(STUDIES, content)
    TABLES.write_text(tables, encoding="utf-8")


PARTS = {"plans": record_plans, "pruning": record_pruning, "studies": record_studies}


def write(path: Path, content: Any) -> None:
    """JSON with a line for each entry, for diffs."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def read(path: Path) -> Any:
    """What `write` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
