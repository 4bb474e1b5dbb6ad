"""Writes docs/evidence.md: the text of scripts/evidence.md with measured tables in its places.

A place is ``{{name}}``. Tables come from what `precrop judge` and scripts/objective_search.py
left in results/evidence; nothing is measured here.
"""

import argparse
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from precrop.evidence.page import (
    NAMES,
    experts_table,
    gains_table,
    order_table,
    published_table,
    regret_table,
    shares_table,
)
from precrop.evidence.verdict import Evidence
from precrop.files import write_text

TEXT = Path("scripts/evidence.md")
FOLDER = Path("results/evidence")
PICTURES = ("order.png", "gains.png")


def objectives_table(found: dict[str, Any]) -> str:
    """Candidates of the search, each judged on the data set that it was not chosen on."""
    lines = [
        "| held out | candidate | budgets | SynExp | candidate | difference |",
        "|---|---|---|---:|---:|---:|",
    ]
    for name, split in found["splits"].items():
        numbers = ", ".join(f"{key} {value:.2g}" for key, value in split["candidate"].items())
        head = f"{NAMES[name]} | {numbers}"
        for kind, row in split.items():
            if not isinstance(row, dict) or "difference" not in row:
                continue
            low, high = row["difference low"], row["difference high"]
            difference = f"{row['difference']:+.2f} ({low:+.2f} to {high:+.2f})"
            cells = f"{kind} | {row['synexp']:.2f} | {row['candidate']:.2f} | {difference}"
            lines.append(f"| {head} | {cells} |")
            head = " | "
    return "\n".join(lines)


def page(text: str, found: Evidence, objectives: dict[str, Any]) -> str:
    """The text with every place filled.

    Raises:
        KeyError: a place that has no table.
    """
    tables: dict[str, Callable[[], str]] = {
        "order": lambda: order_table(found),
        "regret": lambda: regret_table(found),
        "gains": lambda: gains_table(found),
        "shares": lambda: shares_table(found),
        "published": lambda: published_table(found),
        "experts": lambda: experts_table(found),
        "objectives": lambda: objectives_table(objectives),
        "noise": lambda: ", ".join(f"{found.noise[n]:.2f} ({NAMES[n]})" for n in found.noise),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: tables[match[1]](), text)


def main() -> None:
    """Write the page and copy its pictures beside the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", type=Path, default=Path("docs/evidence.md"))
    options = parser.parse_args()
    found = Evidence.load(FOLDER / "evidence.json")
    objectives = json.loads((FOLDER / "objectives.json").read_text())
    write_text(options.markdown, page(TEXT.read_text(), found, objectives))
    images = options.markdown.parent / "images"
    images.mkdir(exist_ok=True)
    for picture in PICTURES:
        shutil.copyfile(FOLDER / picture, images / f"evidence_{picture}")


if __name__ == "__main__":
    main()
