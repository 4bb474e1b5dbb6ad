"""Densities of every method, and masks at every granularity, of four small networks.

Networks and data are float64 with `exact_weights`. Densities that are shares of kept weights change
with the last digits of the scores only where two scores are almost equal just at the threshold, and
so do masks of summed scores. Processors differ in those digits (AVX2 and AVX-512 sum in another
order). So: masks are kept as digests where they are drawn, or where scores are compared as they
are; of the others the shares of the scores that they keep, to four digits. And `check_steady`
refuses a record that weights otherwise by 1e-11 change, far more than processors do.
"""

import hashlib
import warnings
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import precrop
from precrop import models
from tests.golden.networks import Entry

NETWORKS: dict[str, Entry] = {
    "nats_sss": Entry(partial(models.nats_sss, (8, 16, 24, 16, 32), 10), (3, 32, 32)),
    "resnet20": Entry(models.resnet20, (3, 32, 32)),
    "mobilenet_v3_small": Entry(
        partial(torchvision.models.mobilenet_v3_small, num_classes=10), (3, 32, 32)
    ),
    "squeezenet1_1": Entry(partial(torchvision.models.squeezenet1_1, num_classes=10), (3, 32, 32)),
}

RULES = ("synexp", "erk", "uniform", "uniform_plus", "igq")
BUDGETS: dict[str, dict[str, Any]] = {
    "params": {"params": 0.2},
    "macs": {"macs": 0.3},
    "both": {"params": 0.2, "macs": 0.3},
}
SCORES: dict[str, dict[str, Any]] = {
    "magnitude": {},
    "random": {"seed": 3},
    "synflow": {"rounds": 5},
    "snip": {"batch_norm": "batch"},
    "snip, stored": {"batch_norm": "stored"},
    "grasp": {"batch_norm": "batch"},
    "grasp, stored": {"batch_norm": "stored"},
}
"""Methods that rank weights, with options; the network keeps half of its weights."""

MASKED_BY = ("magnitude", "synflow", "snip")

Shape = tuple[int, ...]

GRANULARITIES = ("weight", "kernel", "filter", "channel")


def recorded(name: str, noise: float = 0.0) -> dict[str, dict[str, str]]:
    """All that is recorded of a network, in lines."""
    model = NETWORKS[name].model(torch.float64, noise)
    shape = NETWORKS[name].shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of layers that collapse
        return {part: function(model, shape) for part, function in PARTS.items()}


def check_steady(name: str) -> None:
    """Refuse a record that the last digits of the weights decide."""
    if recorded(name) != recorded(name, noise=1e-11):
        raise SystemExit(f"{name}: the last digits of the weights decide; choose others")


def batch() -> tuple[Tensor, Tensor]:
    """Images that are the same anywhere, and their classes."""
    pixels = torch.arange(8 * 3 * 32 * 32).mul(2654435761).remainder(2**16)
    return (pixels.double() / 2**15 - 1).view(8, 3, 32, 32), torch.arange(8)


def _rules(model: nn.Module, shape: Shape) -> dict[str, str]:
    return {
        f"{method}, {name}": _line(precrop.densities(model, shape, method=method, **budgets))
        for method in RULES
        for name, budgets in BUDGETS.items()
    }


def _scores(model: nn.Module, shape: Shape) -> dict[str, str]:
    return {
        name: _line(precrop.densities(model, shape, params=0.5, **_method(name))) for name in SCORES
    }


def _method(name: str) -> dict[str, Any]:
    """A method that ranks weights, with what it needs."""
    data = {"data": [batch()]} if "batch_norm" in SCORES[name] else {}
    return {"method": name.partition(",")[0], **SCORES[name], **data}


def _masks(model: nn.Module, shape: Shape) -> dict[str, str]:
    """Numbers of kept weights and digests of masks that are drawn or of single weights; shares of
    the scores that other masks keep.
    """
    densities = precrop.densities(model, shape, method="erk", params=0.2)
    found = {}
    for granularity in GRANULARITIES:
        drawn = precrop.masks(model, densities, granularity, seed=1)
        found[f"{granularity}, drawn"] = f"{_digest(drawn)}: {_kept(drawn)}"
    for name in MASKED_BY:
        scores = precrop.scores(model, shape, params=0.5, **_method(name))
        for granularity in GRANULARITIES:
            ranked = precrop.masks(model, densities, granularity, scores=scores)
            found[f"{granularity}, {name}"] = _shares(ranked, scores)
            if (name, granularity) == ("magnitude", "weight"):
                found["weight, magnitude, mask"] = f"{_digest(ranked)}: {_kept(ranked)}"
    return found


def _expected(model: nn.Module, shape: Shape) -> dict[str, str]:
    """log SynExp and log E[R], dense and at the densities of a method."""
    densities = precrop.densities(model, shape, method="erk", params=0.2)
    found = {}
    for name, shares in {"dense": None, "erk": densities}.items():
        found[f"SynExp, {name}"] = f"{precrop.synexp(model, shape, shares):.6f}"
        found[f"E[R], {name}"] = f"{precrop.expected_output(model, shape, shares):.6f}"
    return found


PARTS = {"rules": _rules, "scores": _scores, "masks": _masks, "expected": _expected}


def _line(densities: dict[str, float]) -> str:
    return " ".join(f"{round(density, 6):g}" for density in densities.values())


def _digest(masks: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, mask in masks.items():
        digest.update(name.encode())
        digest.update(mask.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _kept(masks: dict[str, Tensor]) -> str:
    return " ".join(str(int(mask.sum())) for mask in masks.values())


def _shares(masks: dict[str, Tensor], scores: dict[str, Tensor]) -> str:
    """The share of each layer's summed scores that a mask keeps; 0 of nothing."""
    sums = [(scores[name] * mask).sum() / scores[name].sum() for name, mask in masks.items()]
    return " ".join(f"{float(share.nan_to_num(0)):.4f}" for share in sums)
