"""Prints the widths of VGG-16 at several weights of the balance term: a table of docs/method.md."""

import precrop
from precrop.models import cifar_vgg16_bn

SHARE = 0.3
BALANCES = (0.0, 0.1, 1.0, 10.0)


def main() -> None:
    """Plan the network once per balance, and print the table in Markdown."""
    model = cifar_vgg16_bn()
    plans = [
        precrop.plan(model, (3, 32, 32), params=SHARE, macs=SHARE, balance=balance, divisor=1)
        for balance in BALANCES
    ]
    print("| layer | original | " + " | ".join(f"balance {b:g}" for b in BALANCES) + " |")
    print("|---|---:|" + "---:|" * len(BALANCES))
    for layers in zip(*(plan.layers for plan in plans), strict=True):
        base = layers[0].base_out
        cells = [f"{layer.out_channels} ({layer.out_channels / base:.2f})" for layer in layers]
        if layers[0].group is not None:
            print(f"| {layers[0].name} | {base} | " + " | ".join(cells) + " |")
    for name in ("params", "macs"):
        cells = [f"{plan.budgets[name].used / plan.budgets[name].base:.1%}" for plan in plans]
        base = plans[0].budgets[name].base
        print(f"| {name} | {base:,} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
