"""Compares the ways from densities to widths: a table of docs/method.md.

One network is planned at one pair of budgets in the ways that `precrop.plan` offers: objectives,
rules, residual streams, and the densities of other methods as channels.
"""

import argparse
from typing import Any

import torch

import precrop
from precrop.models import resnet20

SHAPE = (3, 32, 32)
WAYS: dict[str, dict[str, Any]] = {
    "balanced (default)": {},
    "exact": {"objective": "exact"},
    "exact, of the output": {"objective": "exact-output"},
    "sqrt-min": {"rule": "sqrt-min"},
    "sqrt-max": {"rule": "sqrt-max"},
    "geometric-mean": {"rule": "geometric-mean"},
    "balanced, streams cropped": {"residual": "crop"},
    "exact, streams cropped": {"objective": "exact", "residual": "crop"},
}
METHODS = {"synflow": "SynFlow as channels", "erk": "ERK as channels"}
SHOWN = ("layer1.0.conv1", "layer1.0.conv2", "layer2.1.conv1", "layer2.1.conv2", "layer3.2.conv1")


def main() -> None:
    """Plan the network once per way, and print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="0.1", help="budget of parameters, or none")
    parser.add_argument("--macs", default="none", help="budget of MACs, or none")
    options = parser.parse_args()
    asked = {"params": options.params, "macs": options.macs}
    budgets: dict[str, Any] = {name: value for name, value in asked.items() if value != "none"}
    torch.manual_seed(0)
    model = resnet20(shortcut="projection")
    print("| way | params | MACs | log SynExp | " + " | ".join(SHOWN) + " |")
    print("|---|---:|---:|---:|" + "---:|" * len(SHOWN))
    for title, way in WAYS.items():
        print_row(title, model, precrop.plan(model, SHAPE, divisor=1, **budgets, **way))
    for method, title in METHODS.items():
        densities = precrop.densities(model, SHAPE, method=method, **budgets)
        plan = precrop.plan(model, SHAPE, divisor=1, **budgets, densities=densities)
        print_row(title, model, plan)


def print_row(title: str, model: torch.nn.Module, plan: precrop.Plan) -> None:
    """Print totals, log SynExp at the plan's own densities, and the widths of some layers."""
    value = precrop.synexp(model, SHAPE, plan.densities)
    cells = [f"{plan.params / plan.base_params:.1%}", f"{plan.macs / plan.base_macs:.1%}"]
    cells.append(f"{value:.2f}")
    cells += ["{} → {}".format(*plan.widths[name]) for name in SHOWN]
    print(f"| {title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
