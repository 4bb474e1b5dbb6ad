"""Checks by sampling that E[R] depends on densities alone: tables for the documentation.

Run from the repository's root: ``python -m scripts.synexp_invariance``. With ``--markdown FILE``
the tables also replace what is in that file between ``<!-- invariance -->`` and
``<!-- /invariance -->``.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torchvision.models import DenseNet

from precrop.files import write_text
from precrop.linear.expected import expected_output
from precrop.models import resnet20
from precrop.pruning.masking import GRANULARITIES
from precrop.read.inputs import Inputs
from precrop.read.network import read_network
from scripts.sampled_synexp import Drawing, SampledMean, sampled_crop, sampled_output

DENSITY = 0.5
"""Of every layer but the stem, whose three input channels can't be halved."""
SHARE = 0.25
"""Of the channels of every width, where whole channels go."""
DRAWINGS: dict[Drawing, str] = {"normal": "drawn anew", "shuffle": "shuffled"}
START, END = "<!-- invariance -->", "<!-- /invariance -->"


@dataclass(frozen=True)
class Subject:
    """A network to sample."""

    name: str  # in the tables
    model: nn.Module  # with weights as it is initialised
    shape: tuple[int, ...]  # of its input
    samples: int  # per row; about as many as bring the interval to one per cent on either side
    chain: bool = False  # whether there is one way through its layers


def subjects() -> list[Subject]:
    """Make a chain, a residual network and a concatenating one, always with the same weights."""
    torch.manual_seed(0)
    dense = DenseNet(16, (2, 2), num_init_features=32, bn_size=2, num_classes=10)
    return [
        Subject("chain of 5", chain([16, 16, 32, 32]), (3, 8, 8), 800, chain=True),
        Subject("ResNet-20", resnet20(), (3, 8, 8), 300),
        Subject("DenseNet of 11", dense, (3, 16, 16), 600),
    ]


def chain(widths: list[int]) -> nn.Module:
    """Build a chain: 3x3 convolutions with norms, a max-pool among them, then a linear layer."""
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(zip([3, *widths], widths, strict=False)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
        layers += [nn.ReLU()] if index != 1 else [nn.ReLU(), nn.MaxPool2d(2)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10)]
    return nn.Sequential(*layers, *head)


def main() -> None:
    """Print the tables; write them to a page if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--markdown", type=Path, help="page whose tables are replaced")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = subjects()
    lines = []
    for line in [*independent(chosen), "", *shared(chosen)]:
        print(line, flush=True)
        lines.append(line)
    if options.markdown is not None:
        replace(options.markdown, lines)


def independent(chosen: list[Subject]) -> Iterator[str]:
    """Draw masks for every layer independently, at every granularity."""
    yield (
        "| network | granularity | weights | ln E[R] | ln mean R, 95% interval "
        "| mean R against E[R] | in standard errors |"
    )
    yield "|---|---|---|---:|---:|---:|---:|"
    for subject in chosen:
        layers = [layer.name for layer in read_network(subject.model, Inputs(subject.shape)).layers]
        densities = dict.fromkeys(layers[1:], DENSITY)
        for granularity in GRANULARITIES:
            for weights, words in DRAWINGS.items():
                found = sampled_output(
                    subject.model,
                    subject.shape,
                    densities,
                    granularity=granularity,
                    samples=subject.samples,
                    weights=weights,
                )
                expected = expected_output(subject.model, subject.shape, found.densities)
                yield _row(subject.name, f"{granularity}s", words, expected, found)


def shared(chosen: list[Subject]) -> Iterator[str]:
    """Remove whole channels from all layers that have them."""
    yield (
        "| network | ln E[R] at the layers' densities | ln E[R], dense, plus sum of ln r "
        "| ln mean R, 95% interval |"
    )
    yield "|---|---:|---:|---:|"
    for subject in chosen:
        found = sampled_crop(subject.model, subject.shape, SHARE, samples=subject.samples)
        twice = expected_output(subject.model, subject.shape, found.densities)
        once = expected_output(subject.model, subject.shape) + sum(
            map(math.log, found.shares.values())
        )
        formula = f"{once:.3f}" if subject.chain else "–"
        yield f"| {subject.name} | {twice:.3f} | {formula} | {_interval(found)} |"


def _row(name: str, units: str, weights: str, expected: float, found: SampledMean) -> str:
    off = math.expm1(found.log_mean - expected)
    return (
        f"| {name} | {units} | {weights} | {expected:.3f} | {_interval(found)} "
        f"| {off:+.2%} | {found.deviation(expected):+.1f} |"
    )


def _interval(found: SampledMean) -> str:
    low, high = found.interval
    return f"{found.log_mean:.3f} ({low:.3f} to {high:.3f})"


def replace(page: Path, lines: list[str]) -> None:
    """Put lines between the markers of a page.

    Raises:
        SystemExit: the page lacks a marker.
    """
    before, start, rest = page.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise SystemExit(f"{page} has no {START} and {END}")
    write_text(page, "\n".join([before + START, *lines, END + after]))


if __name__ == "__main__":
    main()
