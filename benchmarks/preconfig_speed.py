"""Seconds that PreConfig takes on one thread of a CPU: `python -m benchmarks.preconfig_speed`.

The paper says less than one second. Networks are built outside of the timed part, a fresh one per
run. CPU seconds are those of the process; on an otherwise idle machine wall-clock time is the
same.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import torch

import precrop
from benchmarks.report import Row, Section, clocked, setting, show, spread, steps
from precrop.files import write_text
from precrop.zoo import default_input_shape, load_model

NETWORKS = ("mobilenet_v2", "efficientnet_b0", "resnet50", "efficientnet_b7")
PARAMS, MACS = 0.8, 1.0
RESULTS = Path("results/speed/preconfig.json")


def preconfig_seconds(name: str, runs: int) -> Row:
    """Time planning a network by name; the first run is not counted."""
    wall, cpu = [], []
    for _ in steps(name, runs + 1):
        model = load_model(name, {})
        shape = default_input_shape(name, model)
        work = partial(precrop.plan, model, shape, params=PARAMS, macs=MACS, expand=True)
        seconds, plan = clocked(work)
        wall.append(seconds.wall)
        cpu.append(seconds.cpu)
    found = {f"cpu {key}": value for key, value in spread(cpu[1:]).items()}
    return {
        "network": name,
        "layers": len(plan.layers),
        **found,
        "wall median": spread(wall[1:])["median"],
    }


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    where = setting("torch", "precrop")
    rows = [preconfig_seconds(name, options.runs) for name in NETWORKS]
    show([Section("PreConfig", {key: key for key in rows[0]}, rows)])
    write_text(options.json, json.dumps({"setting": where, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
