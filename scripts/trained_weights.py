"""Crops one trained network and evaluates it: at once, recalibrated, and after two epochs.

ResNet-20 is trained for a few epochs on CIFAR-10 at 16x16 pixels, then planned at 70% and at 40% of
its parameters and MACs. Each plan is built with ``init="slice"`` and with channels chosen by norm;
Torch-Pruning prunes the same network by its own group norms to the plan's MACs. An epoch is
``--images`` of the training images, so that everything takes some ten minutes on one core. Run from
the repository's root: ``python -m scripts.trained_weights --data FOLDER``; it writes
results/trained-weights.json and results/trained-weights.md.
"""

import argparse
import copy
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precrop
from precrop.models import resnet20
from precrop.plans.kinds import Init
from precrop.study.torch_pruning import largest_within
from precrop.study.variants import VariantRequest
from precrop.training.augment import PLAIN, Augment
from precrop.training.batches import held_out_batches, train_batches
from precrop.training.data import ImageData, load_data
from precrop.training.module import augmentation
from precrop.training.recipes import Recipe

SIDE, BATCH, BATCHES = 16, 128, 16
SHARES = (0.7, 0.4)
INITS: tuple[Init, ...] = ("slice", "l1", "l2", "bn")
TUNED = ("slice", "l1", "torch-pruning")
TARGET = Path(__file__).parent.parent / "results" / "trained-weights"


def main() -> None:
    """Train, crop, measure, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", required=True, help="CIFAR-10's folder")
    parser.add_argument("--epochs", type=int, default=6, help="of the whole network (default: 6)")
    parser.add_argument("--images", type=int, default=12_800, help="of an epoch (default: 12800)")
    parser.add_argument("--weights", type=Path, help="where the trained network is kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    images = load_data(options.data, image_size=SIDE)
    steps = options.images // BATCH
    model = trained(images, options.epochs, steps, options.weights)
    whole = accuracy(model, images)
    print(f"whole: {whole:.1%}", flush=True)
    rows = [row for share in SHARES for row in measured(model, images, share, steps)]
    content = {
        "data": images.name,
        "side": SIDE,
        "epochs": options.epochs,
        "images": options.images,
        "whole": whole,
        "rows": rows,
        "torch": torch.__version__,
        "seconds": round(time.perf_counter() - start),
    }
    TARGET.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    TARGET.with_suffix(".md").write_text(page(content))
    print(page(content))


def trained(images: ImageData, epochs: int, steps: int, path: Path | None) -> nn.Module:
    """Return the whole network, trained or read from a file."""
    torch.manual_seed(0)
    model = resnet20()
    if path is not None and path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
    fit(model, images, epochs, steps, 0.1)
    if path is not None:
        torch.save(model.state_dict(), path)
    return model


def measured(
    model: nn.Module, images: ImageData, share: float, steps: int
) -> Iterator[dict[str, Any]]:
    """Yield a row for every way to get weights at one budget."""
    plan = precrop.plan(model, (3, SIDE, SIDE), params=share, macs=share, divisor=1)
    ways: dict[str, nn.Module] = {init: plan.build(model, init) for init in INITS}
    ways["torch-pruning"] = pruned(model, plan.macs)
    for name, network in ways.items():
        costs = precrop.count(network, (3, SIDE, SIDE)).costs
        row: dict[str, Any] = {"share": share, "way": name, **costs}
        row["before"] = accuracy(network, images)
        precrop.recalibrate(network, islice(batches(images, 0, PLAIN), BATCHES))
        row["recalibrated"] = accuracy(network, images)
        if name in TUNED:
            fit(network, images, 2, steps, 0.02)
            row["tuned"] = accuracy(network, images)
        print(row, flush=True)
        yield row


def pruned(model: nn.Module, macs: int) -> nn.Module:
    """Prune by Torch-Pruning, at the smallest ratio that leaves no more MACs than these."""
    limits = {"macs": macs}
    request = VariantRequest(model, (3, SIDE, SIDE), limits, {"importance": "magnitude"})
    found = largest_within(limits, request, ["fc"])
    return copy.deepcopy(model) if found is None else found


def batches(images: ImageData, epoch: int, augment: Augment) -> Any:
    """Return training images in an order that differs from epoch to epoch."""
    return train_batches(images, BATCH, seed=0, epoch=epoch, augment=augment)


def fit(network: nn.Module, images: ImageData, epochs: int, steps: int, lr: float) -> None:
    """Train by SGD with momentum and a cosine schedule, in the shortest form."""
    network.train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    augment = augmentation(Recipe(crop=2, flip=True))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    for epoch in range(epochs):
        for inputs, labels in islice(batches(images, epoch, augment), steps):
            loss = F.cross_entropy(network(inputs), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        print(f"  epoch {epoch + 1}: loss {float(loss.detach()):.3f}", flush=True)


def accuracy(network: nn.Module, images: ImageData) -> float:
    """Return the share of held-out images classified correctly; the network's mode is restored."""
    mode = network.training
    network.eval()
    right, count = 0, 0
    with torch.no_grad():
        found: tuple[Tensor, Tensor]
        for found in held_out_batches(images, 500):
            right += int((network(found[0]).argmax(1) == found[1]).sum())
            count += len(found[1])
    network.train(mode)
    return right / count


def page(content: dict[str, Any]) -> str:
    """Return the table."""
    lines = [
        f"ResNet-20 on CIFAR-10 at {SIDE}x{SIDE} pixels, trained for {content['epochs']} epochs of "
        f"{content['images']:,} images: {content['whole']:.1%} of the held-out images right. "
        "Written by `python -m scripts.trained_weights`; one network, one seed.",
        "",
        "| budget | weights | parameters | MACs | at once | recalibrated | after 2 epochs |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        tuned = f"{row['tuned']:.1%}" if "tuned" in row else ""
        lines.append(
            f"| {row['share']:.0%} | {row['way']} | {row['params']:,} | {row['macs']:,} | "
            f"{row['before']:.1%} | {row['recalibrated']:.1%} | {tuned} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
