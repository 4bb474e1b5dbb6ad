"""Is SynExp the same whatever is shuffled, drawn anew or removed? By enumeration, not by sampling.

A network of three layers is small enough to enumerate every arrangement of its weights (shuffling)
or every draw from a distribution of two values with the same mean (re-initialisation), and every
mask that keeps half of every layer's weights, kernels, filters or input channels, independently
per layer. The mean over all of them of the sum of SynFlow's scores is compared with
`precrop.synexp`, which only knows densities. The last row removes hidden channels from both layers
that have them, as cropping does: these masks are not independent, and the mean differs.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import precrop
from precrop.files import write_text

RESULTS = Path("results/evidence/invariance.json")
LOW, HIGH = 0.5, 1.5
"""The two magnitudes of all weights, half of a layer's each."""
SHAPES = ((2, 2, 1, 2), (2, 2, 1, 1), (2, 2))
Units = Callable[[tuple[int, ...]], list[Tensor]]


def network() -> nn.Sequential:
    """Return a network of eight, four and four weights; images have 2 channels, 1x2 pixels."""
    layers = nn.Sequential(
        nn.Conv2d(2, 2, (1, 2), bias=False),
        nn.ReLU(),
        nn.Conv2d(2, 2, 1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2, 2, bias=False),
    )
    with torch.no_grad():
        for weight in layers.parameters():
            half = weight.numel() // 2
            weight.copy_(torch.tensor([LOW, HIGH]).repeat_interleave(half).view_as(weight))
    return layers


def _units(shape: tuple[int, ...], index: Callable[[tuple[int, ...]], Any]) -> list[Tensor]:
    """Return a mask for every unit: weights with the same index form a unit."""
    places = list(product(*map(range, shape)))
    names = sorted({index(place) for place in places})
    masks = [torch.tensor([float(index(p) == name) for p in places]) for name in names]
    return [mask.view(shape).double() for mask in masks]


UNITS: dict[str, Units] = {
    "weights": lambda shape: _units(shape, lambda place: place),
    "kernels": lambda shape: _units(shape, lambda place: place[:2]),
    "filters": lambda shape: _units(shape, lambda place: place[0]),
    "channels": lambda shape: _units(shape, lambda place: place[1]),
}


def masks(shape: tuple[int, ...], units: Units) -> Iterator[Tensor]:
    """Yield every mask that keeps half of the units."""
    every = units(shape)
    for kept in combinations(every, len(every) // 2):
        yield torch.stack(kept).sum(0)


def shuffled(shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield every arrangement of the layer's weights; equal ones count once."""
    count = math.prod(shape)
    for low in combinations(range(count), count // 2):
        values = torch.full((count,), HIGH, dtype=torch.float64)
        values[list(low)] = LOW
        yield values.view(shape)


def redrawn(shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield every outcome of drawing each weight from the two values, equally likely."""
    for values in product((LOW, HIGH), repeat=math.prod(shape)):
        yield torch.tensor(values, dtype=torch.float64).view(shape)


def mean_of_scores(chosen: Sequence[Tensor]) -> tuple[float, int]:
    """Return the mean sum of SynFlow's scores over all combinations, and their number.

    Args:
        chosen: a layer's weights times its masks, stacked: (choices, *shape).
    """
    leaves = [layer.clone().requires_grad_() for layer in chosen]
    first, second, last = leaves
    hidden = first.sum((2, 3, 4))  # images are ones
    total = torch.einsum("ai,boi,cko->abc", hidden, second.sum((3, 4)), last)
    slopes = torch.autograd.grad(total.sum(), leaves)
    parts = [(leaf * slope).sum() for leaf, slope in zip(leaves, slopes, strict=True)]
    scores = torch.stack(parts).sum()
    return float(scores.detach()) / total.numel(), total.numel()


def independent(weights: Callable[[tuple[int, ...]], Iterator[Tensor]], units: Units) -> Any:
    """Return all weights times all masks, for each layer independently."""
    return [
        torch.stack([w * m for w in weights(shape) for m in masks(shape, units)])
        for shape in SHAPES
    ]


def cropped() -> tuple[float, int]:
    """Average over keeping one of two channels of both hidden widths, in all layers with it."""
    found, count = 0.0, 0
    for kept in product(range(2), repeat=2):
        arranged = [torch.stack(list(shuffled(shape))) for shape in SHAPES]
        keep = [torch.eye(2, dtype=torch.float64)[unit] for unit in kept]
        first = arranged[0] * keep[0].view(1, 2, 1, 1, 1)
        second = arranged[1] * keep[0].view(1, 1, 2, 1, 1) * keep[1].view(1, 2, 1, 1, 1)
        mean, number = mean_of_scores([first, second, arranged[2] * keep[1]])
        found, count = found + mean * number, count + number
    return found / count, count


def measured() -> list[dict[str, Any]]:
    """Return one row per way to draw weights and granularity."""
    model, shape = network(), (2, 1, 2)
    names = [name for name, layer in model.named_modules() if hasattr(layer, "weight")]
    expected = precrop.synexp(model, shape, dict.fromkeys(names, 0.5))
    rows = []
    for drawing, weights in (("shuffled", shuffled), ("drawn anew", redrawn)):
        for granularity, units in UNITS.items():
            mean, count = mean_of_scores(independent(weights, units))
            rows.append(_row(f"{drawing}, {granularity}", mean, count, expected))
    half = precrop.synexp(model, shape, dict(zip(names, (0.5, 0.25, 0.5), strict=True)))
    return [*rows, _row("shuffled, hidden channels of both layers", *cropped(), half)]


def _row(name: str, mean: float, count: int, expected: float) -> dict[str, Any]:
    return {"what": name, "networks": count, "mean": mean, "over synexp": mean / math.exp(expected)}


def main() -> None:
    """Enumerate, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = measured()
    for row in rows:
        print(f"{row['what']}: {row['networks']:,} networks, {row['over synexp']:.12f} of SynExp")
    write_text(options.json, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
