"""Prints how far PreCrop's widths are from uniform ones: a table of docs/method.md.

Networks are planned twice at the same budgets: with the defaults, and by the rule that gives all
widths one share.
"""

import math
from statistics import fmean
from typing import Any

import torch

import precrop
from precrop.zoo import load_model

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)
NETWORKS = {
    "resnet20": CIFAR,
    "cifar_vgg16_bn": CIFAR,
    "cifar_mobilenet_v2": CIFAR,
    "cifar_efficientnet_b0": CIFAR,
    "resnet50": IMAGENET,
    "mobilenet_v2": IMAGENET,
    "efficientnet_b0": IMAGENET,
}
BUDGETS: tuple[dict[str, float], ...] = (
    {"params": 0.3, "macs": 0.3},
    {"params": 0.1, "macs": 0.1},
    {"params": 0.3},
    {"macs": 0.3},
)


def main() -> None:
    """Plan every network at every budget, and print the table in Markdown."""
    heads = ("network", "budgets", "uniform has", "PreCrop has", "widths apart", "the most")
    print(f"| {' | '.join(heads)} | sum of log densities |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name, shape in NETWORKS.items():
        torch.manual_seed(0)
        model = load_model(name, {})
        for budgets in BUDGETS:
            options = {"divisor": 1, **budgets}
            ours = precrop.plan(model, shape, **options)  # type: ignore[arg-type]
            uniform = precrop.plan(model, shape, rule="uniform", **options)  # type: ignore[arg-type]
            print(row(name, budgets, ours, uniform))


def row(name: str, budgets: dict[str, Any], ours: precrop.Plan, uniform: precrop.Plan) -> str:
    """Return one line: the costs of both, how much widths differ, and what PreCrop maximises."""
    widths = {
        layer.group: math.log(layer.out_channels / other.out_channels)
        for layer, other in zip(ours.layers, uniform.layers, strict=True)
        if layer.group is not None
    }
    apart, most = fmean(map(abs, widths.values())), max(map(abs, widths.values()))
    gained = sum(
        math.log(layer.density / other.density)
        for layer, other in zip(ours.layers, uniform.layers, strict=True)
    )
    asked = ", ".join(f"{cost} {share:.0%}" for cost, share in budgets.items())
    differences = (f"{math.expm1(apart):.0%}", f"{math.expm1(most):.0%}", f"{gained:+.1f}")
    return f"| {' | '.join((name, asked, has(uniform), has(ours), *differences))} |"


def has(plan: precrop.Plan) -> str:
    """Return the plan's shares of the original's parameters and MACs."""
    return f"{plan.params / plan.base_params:.0%}, {plan.macs / plan.base_macs:.0%}"


if __name__ == "__main__":
    main()
