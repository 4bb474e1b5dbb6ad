"""Comparison of plans with published widths: AutoSlim, AMC, MetaPruning, TAS, timm and more.

Each configuration is planned anew at its own parameters and MACs, from the network that its authors
started from. Published and planned widths, and uniform ones, are compared as log ratios to that
network's widths.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from scipy.stats import spearmanr
from torch import nn

import precrop
from precrop.errors import MALFORMED, PrecropError
from precrop.evidence.candidates import UNIFORM, Candidate
from precrop.evidence.nats import Floats
from precrop.files import read_json
from precrop.models.resnet import BasicBlock
from precrop.models.vgg import cifar_vgg16_bn
from precrop.zoo import load_model

FILE = "published-widths.json"
IMAGENET, CIFAR = (3, 224, 224), (3, 32, 32)


@dataclass(frozen=True)
class Configuration:
    """Published widths of one network."""

    family: str  # configurations of one family start from one network
    name: str  # its name in tables
    method: str  # the method that found the widths
    make: Callable[[], nn.Module]  # builds the network that its authors started from
    input_shape: tuple[int, int, int]  # of one image
    widths: Mapping[str, int]  # output channels by layer name, a layer for each chosen width
    budgets: Mapping[str, int]  # parameters and MACs of the published network, as far as known
    top1: float | None  # its published accuracy in percent, if known


def load_published(path: Path) -> list[Configuration]:
    """Load all configurations whose topology can be built.

    Args:
        path: the JSON file, or the folder that holds it.

    Raises:
        PrecropError: there is no such file, or it is not a list of configurations.
    """
    found = path / FILE if path.is_dir() else path
    if not found.is_file():
        raise PrecropError(f"{path} holds no {FILE}: give its folder with --data")
    rows = read_json(found)
    try:
        return [configuration for row in rows for configuration in _read(row)]
    except MALFORMED as error:
        raise PrecropError(f"{found} is not a list of published widths: {error!r}") from error


def _read(row: Mapping[str, Any]) -> Iterator[Configuration]:
    family = row["family"].split()[0]
    reader = READERS.get(family)
    if reader is None or row["method"] == "uniform":
        return
    read = reader(row)
    if read is None:
        return
    make, shape, widths = read
    budgets = {name: row[name] for name in ("params", "macs") if row.get(name)}
    if "mflops_published" in row:
        budgets = {"macs": round(row["mflops_published"] * 1e6)}
    if "macs_published" in row:
        budgets = {"macs": int(row["macs_published"].removesuffix("M")) * 10**6}
    if "results" in row:
        budgets = precrop.count(load_model(f"timm:{row['name']}", {}), shape).costs
    if not budgets:
        plan = precrop.plan(make(), shape, widths=dict(widths))
        budgets = {"params": plan.params, "macs": plan.macs}
    label = row["name"].replace(" (raw lists)", "")
    method = row["method"].split()[0]
    yield Configuration(row["family"], label, method, *read, budgets, row.get("top1"))


Read = tuple[Callable[[], nn.Module], tuple[int, int, int], dict[str, int]]


def _in_order(
    make: Callable[[], nn.Module], shape: tuple[int, int, int], row: Mapping[str, Any]
) -> Read:
    """Assign a row's widths, in order, to all convolutions except the depthwise ones."""
    parts = make().named_modules()
    names = [name for name, m in parts if isinstance(m, nn.Conv2d) and m.groups == 1]
    return make, shape, dict(zip(names, row["widths"], strict=True))


mobilenet_v1 = partial(load_model, "timm:mobilenetv1_100", {})
"""Builds MobileNet with its own widths: Howard et al. 2017 (arXiv 1704.04861), table 1."""


def _mobilenet_v2(row: Mapping[str, Any]) -> Read | None:
    if "stem" not in row:  # MetaPruning's raw lists use another parametrisation
        return None
    widths = {"features.0.0": row["stem"], "features.1.conv.1": row["outs"][0]}
    for index, (hidden, out) in enumerate(zip(row["hidden"][1:], row["outs"][1:], strict=True), 2):
        widths[f"features.{index}.conv.0.0"] = hidden
        widths[f"features.{index}.conv.2"] = out
    widths["features.18.0"] = row["last"]
    return partial(load_model, "mobilenet_v2", {}), IMAGENET, widths


def _resnet50(row: Mapping[str, Any]) -> Read:
    widths = {"conv1": row["stem"]}
    for stage, blocks in enumerate(row["blocks"], 1):
        for block, outputs in enumerate(blocks):
            for conv, width in enumerate(outputs, 1):
                widths[f"layer{stage}.{block}.conv{conv}"] = width
    return partial(load_model, "resnet50", {}), IMAGENET, widths


MNASNET_DEPTHS = (3, 3, 3, 2, 4, 1)


def _mnasnet(row: Mapping[str, Any]) -> Read:
    raw = list(row["raw"])
    widths = {"layers.0": raw[0], "layers.6": raw[1]}
    pairs = iter(zip(raw[2:-2:2], raw[3:-2:2], strict=True))
    for stage, depth in enumerate(MNASNET_DEPTHS, 8):
        for block in range(depth):
            hidden, out = next(pairs)
            widths[f"layers.{stage}.{block}.layers.0"] = hidden
            widths[f"layers.{stage}.{block}.layers.6"] = out
    widths["layers.14"] = raw[-2]
    return partial(load_model, "mnasnet1_0", {}), IMAGENET, widths


def _tas(row: Mapping[str, Any]) -> Read | None:
    channels, depths = row["xchannels"][1:], row["xblocks"]
    if len(depths) != 3 or len(channels) != 1 + 2 * sum(depths):
        return None  # networks for ImageNet, and ResNet-164 with its bottlenecks
    classes = 100 if "C100" in row["name"] else 10
    names = ["0"]
    for block in range(sum(depths)):
        names += [f"{block + 3}.conv1", f"{block + 3}.conv2"]
    return partial(cifar_resnet, depths, classes), CIFAR, dict(zip(names, channels, strict=True))


def cifar_resnet(depths: Sequence[int], num_classes: int) -> nn.Module:
    """Build a ResNet for CIFAR with any number of blocks in each of its three stages."""
    blocks: list[nn.Module] = []
    inputs = 16
    for stage, depth in enumerate(depths):
        for block in range(depth):
            outputs, stride = 16 * 2**stage, 1 if block or not stage else 2
            blocks.append(BasicBlock(inputs, outputs, stride, "projection"))
            inputs = outputs
    stem = (nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes))
    return nn.Sequential(*stem, *blocks, *head)


def _timm(row: Mapping[str, Any]) -> Read:
    base = row["family"].split()[1]
    widths = {name: shape[0] for name, shape in row["layers"].items() if len(shape) == 4}
    return partial(load_model, f"timm:{base}", {}), IMAGENET, widths


READERS: dict[str, Callable[[Mapping[str, Any]], Read | None]] = {
    "mobilenet_v1": partial(_in_order, mobilenet_v1, IMAGENET),
    "mobilenet_v2": _mobilenet_v2,
    "resnet50": _resnet50,
    "mnasnet": _mnasnet,
    "tas": _tas,
    "timm": _timm,
    "cifar_vgg16_bn": partial(_in_order, cifar_vgg16_bn, CIFAR),
}


def log_ratios(configuration: Configuration, plan: precrop.Plan) -> tuple[Floats, Floats]:
    """Return published and planned log ratios to the original widths, one per group of layers."""
    published: dict[str, list[float]] = {}
    planned: dict[str, float] = {}
    for layer in plan.layers:
        width = configuration.widths.get(layer.name)
        if width is None or layer.group is None:
            continue
        published.setdefault(layer.group, []).append(np.log(width / layer.base_out))
        planned.setdefault(layer.group, float(np.log(layer.out_channels / layer.base_out)))
    ours = np.array(list(planned.values()))
    return np.array([np.mean(values) for values in published.values()]), ours


def compare(
    configuration: Configuration, strategies: Sequence[Candidate]
) -> Iterator[dict[str, Any]]:
    """Yield how close each strategy comes to the published widths, one row per strategy."""
    model, budgets = configuration.make(), dict(configuration.budgets)
    for strategy in strategies:
        asked: dict[str, Any] = {**budgets, **strategy.options, "expand": True, "divisor": 1}
        plan = precrop.plan(model, configuration.input_shape, **asked)
        theirs, ours = log_ratios(configuration, plan)
        yield {
            "family": configuration.family,
            "configuration": configuration.name,
            "method": configuration.method,
            "top1": configuration.top1,
            "widths": len(theirs),
            "chosen by": strategy.name,
            "rho": np.nan if strategy.name == UNIFORM else correlation(theirs, ours),
            "distance": distance(theirs, ours),
            "log ratios": theirs.tolist(),
        }


def correlation(a: Floats, b: Floats) -> float:
    """Return Spearman's rank correlation; NaN if one side does not vary."""
    varies = len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0
    return float(spearmanr(a, b).statistic) if varies else np.nan


def distance(a: Floats, b: Floats) -> float:
    """Return the root mean square difference of log ratios: 0.1 is about 10% of a width."""
    return float(np.sqrt(((a - b) ** 2).mean()))


def disagreement(compared: pd.DataFrame) -> pd.DataFrame:
    """Return how well published networks of one family agree with each other, pair by pair."""
    rows = []
    for family, group in compared.drop_duplicates("configuration").groupby("family", sort=False):
        for (_, one), (_, other) in combinations(group.iterrows(), 2):
            a, b = np.array(one["log ratios"]), np.array(other["log ratios"])
            if len(a) == len(b):
                row = {"family": family, "one": one["configuration"]}
                row |= {"other": other["configuration"]}
                row |= {"same method": one["method"] == other["method"]}
                rows.append({**row, "rho": correlation(a, b), "distance": distance(a, b)})
    return pd.DataFrame(rows)
