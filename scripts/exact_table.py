"""Compares plans for the two exact objectives, SynExp and E[R], for docs/method.md.

Run from the repository's root: ``python -m scripts.exact_table``.
"""

import warnings
from typing import Any

import torch

import precrop
from precrop.zoo import default_input_shape, load_model

NETWORKS = ("resnet20", "resnet56", "cifar_mobilenet_v2", "densenet121", "resnet50")
BUDGETS: tuple[dict[str, Any], ...] = ({"params": 0.3, "macs": 0.3}, {"params": 0.1})


def main() -> None:
    """Plan every network for both objectives, and print the table in Markdown."""
    warnings.simplefilter("ignore")
    print("| network | budgets | ln SynExp: default | exact | exact-output | widths apart | most |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name in NETWORKS:
        torch.manual_seed(0)
        model = load_model(name, {})
        for budgets in BUDGETS:
            print_row(name, model, default_input_shape(name, model), budgets)


def print_row(name: str, model: torch.nn.Module, shape: Any, budgets: dict[str, Any]) -> None:
    """Print log SynExp at each plan's own densities, and how far the layers' widths differ."""
    plans = [
        precrop.plan(model, shape, objective=objective, divisor=1, **budgets)
        for objective in ("synexp", "exact", "exact-output")
    ]
    values = [precrop.synexp(model, shape, plan.densities) for plan in plans]
    pairs = list(zip(*([layer.out_channels for layer in p.layers] for p in plans[1:]), strict=True))
    apart = sum(one != other for one, other in pairs)
    most = max(abs(one - other) / min(one, other) for one, other in pairs)
    cells = [name, ", ".join(f"{cost} {share:.0%}" for cost, share in budgets.items())]
    cells += [f"{value:.3f}" for value in values]
    print("| " + " | ".join([*cells, f"{apart} of {len(pairs)}", f"{most:.1%}"]) + " |", flush=True)


if __name__ == "__main__":
    main()
