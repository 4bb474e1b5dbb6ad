"""Counts for how many widths of convolutional networks the largest channels can be kept.

Every convolutional network of the coverage matrix is planned at 40% of its parameters with uniform
widths, so that all of its widths shrink, and ``init="l1"`` chooses channels. Run from the
repository's root: ``python -m scripts.trained_groups --cache groups.jsonl``; an interrupted run
resumes. Networks with more parameters than ``--largest`` are left out and named.
"""

import argparse
import json
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import precrop
from precrop.trained.channels import choose
from precrop.zoo import load_model
from tests.matrix.networks import Entry, entries

SHARE = 0.4


def main() -> None:
    """Measure what the cache lacks and print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cache", type=Path, required=True, help="JSON-lines file of results")
    parser.add_argument("--largest", type=float, default=100e6, help="parameters at most")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = options.cache.read_text().splitlines() if options.cache.exists() else []
    known = {row["name"]: row for row in map(json.loads, lines)}
    networks = [entry for entry in entries() if entry.kind == "convolutional"]
    warnings.simplefilter("ignore")  # networks' own
    for entry in networks:
        if entry.name not in known:
            known[entry.name] = measure(entry, options.largest)
            with options.cache.open("a") as file:
                file.write(json.dumps(known[entry.name]) + "\n")
    show([known[entry.name] for entry in networks])


def measure(entry: Entry, largest: float) -> dict[str, Any]:
    """Return how many widths of a network are chosen by norm, and why others are not."""
    torch.manual_seed(0)
    model = load_model(entry.name, {})
    row: dict[str, Any] = {"name": entry.name, "chosen": 0, "sliced": {}, "note": ""}
    if sum(parameter.numel() for parameter in model.parameters()) > largest:
        return row | {"note": f"more than {largest:,.0f} parameters"}
    shape = entry.run_shape
    plan = precrop.plan(model, shape, params=SHARE, rule="uniform", divisor=1)
    start = time.perf_counter()
    kept = choose(plan, model, "l1")
    seconds = round(time.perf_counter() - start, 1)
    return row | {"chosen": len(kept.chosen), "sliced": dict(kept.sliced), "seconds": seconds}


def show(rows: list[dict[str, Any]]) -> None:
    """Print the networks with widths that keep their leading channels, then the totals."""
    for row in rows:
        if row["note"]:
            print(f"{row['name']}: left out, {row['note']}")
        elif row["sliced"]:
            total = row["chosen"] + len(row["sliced"])
            reasons = Counter(row["sliced"].values())
            text = "; ".join(f"{count} {reason}" for reason, count in reasons.items())
            print(f"{row['name']}: {len(row['sliced'])} of {total} widths sliced ({text})")
    measured = [row for row in rows if not row["note"]]
    chosen = sum(row["chosen"] for row in measured)
    total = chosen + sum(len(row["sliced"]) for row in measured)
    whole = sum(not row["sliced"] for row in measured)
    slowest = max(measured, key=lambda row: float(row["seconds"]))
    print(
        f"{chosen:,} of {total:,} widths ({chosen / total:.1%}) in {len(measured)} networks keep "
        f"their largest channels, all of them in {whole} networks; longest choice "
        f"{slowest['seconds']:.1f} s ({slowest['name']})"
    )


if __name__ == "__main__":
    main()
