"""Plans of many networks with many options, each as a line: totals and three digests."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

import precrop
from tests.golden.networks import NETWORKS, Entry

Options = dict[str, Any]
Case = Options | Callable[[nn.Module, Entry], Options]
"""Options of `precrop.plan`, or a function that finds them for a network."""
Lines = dict[str, str]

HALF: Options = {"params": 0.5, "macs": 0.5}
ONE: Options = {"divisor": 1}
BOTH: Options = HALF | ONE
WIDER: Options = {"params": 0.8, "macs": 1.0, "expand": True} | ONE
CUDA: Options = {"latency": 0.8, "params": 0.5, "batch_size": 1024, "device_profile": "cuda"}
CROP: Options = {"residual": "crop"}
SCALE: Options = {"groups": "scale"}
EIGHT: Options = {"divisor": 8}


def _densities(method: str, **options: Any) -> Case:
    """The densities of a method that keeps a third of the weights, as channels."""
    return lambda model, entry: {
        "densities": precrop.densities(model, entry.shape, method=method, params=0.3),
        **ONE,
        **options,
    }


def _given(model: nn.Module, entry: Entry) -> Options:
    """The widths of a plan, as if another had chosen them."""
    plan = precrop.plan(model, entry.shape, params=0.4, divisor=4)
    return {"widths": {name: widths[1] for name, widths in plan.widths.items()}}


def _ignored(model: nn.Module, entry: Entry) -> Options:
    """Every third layer keeps its width."""
    names = list(precrop.plan(model, entry.shape, params=1.0).widths)
    return {"ignore": names[1::3], "params": 0.7} | ONE


SHORT: dict[str, Case] = {
    "both": BOTH,
    "params": {"params": 0.5} | ONE,
    "macs": {"macs": "40%"} | ONE,
    "tight": {"params": 0.3, "macs": 0.2} | ONE,
    "default": HALF,
    "default, tight": {"params": 0.3, "macs": 0.2},
    "divisor 8": BOTH | EIGHT,
    "expand": WIDER,
    "groups scale": BOTH | SCALE,
    "residual crop": BOTH | CROP,
    "latency": {"latency": 0.6},
    "memory": {"memory": 0.7} | ONE,
    "inner-layers": BOTH | {"objective": "inner-layers"},
    "uniform": BOTH | {"rule": "uniform"},
    "densities erk": _densities("erk"),
    "widths": _given,
}
"""What is planned of every network."""

LONG: dict[str, Case] = {
    "latency and params, cuda": CUDA,
    "latency, divisor 4": {"latency": 0.6, "divisor": 4},
    "memory and macs, batch 4": {"memory": 0.7, "macs": 0.5, "batch_size": 4} | ONE,
    "all budgets": HALF | {"latency": 0.7, "memory": 0.8},
    "divisor auto": HALF | {"divisor": "auto", "device_profile": "cuda"},
    "default, expand": {"params": 0.8, "macs": 1.0, "expand": True},
    "default, residual crop": HALF | CROP,
    "default, uniform": HALF | {"rule": "uniform"},
    "divisor 8, expand": WIDER | EIGHT,
    "divisor 8, groups scale": BOTH | SCALE | EIGHT,
    "divisor 8, residual crop": BOTH | CROP | EIGHT,
    "residual crop, expand": WIDER | CROP,
    "residual crop, groups scale": BOTH | CROP | SCALE,
    "residual crop, latency": {"latency": 0.6} | CROP,
    "residual crop, memory": {"memory": 0.95} | CROP | ONE,
    "residual crop, uniform": BOTH | CROP | {"rule": "uniform"},
    "dense-layers": BOTH | {"objective": "dense-layers"},
    "sqrt-min": {"params": 0.5, "rule": "sqrt-min"} | ONE,
    "sqrt-max": BOTH | {"rule": "sqrt-max"},
    "geometric-mean": BOTH | {"rule": "geometric-mean"},
    "uniform, divisor 8": BOTH | EIGHT | {"rule": "uniform"},
    "uniform, expand": WIDER | {"rule": "uniform"},
    "densities synexp, params": _densities("synexp", params=0.3),
    "densities igq, residual crop": _densities("igq", **CROP),
    "densities uniform_plus, divisor 8": _densities("uniform_plus", **EIGHT),
    "ignore": _ignored,
    "min_width 16": {"params": 0.4, "min_width": 16} | ONE,
    "balance 0.1": BOTH | {"balance": 0.1},
    "drop_unused": BOTH | {"drop_unused": True},
}
"""What is planned besides of networks that take a fraction of a second."""

EXACT: dict[str, Case] = {
    "exact": BOTH | {"objective": "exact"},
    "exact-output": BOTH | {"objective": "exact-output"},
}
"""What is planned by the weights themselves, of small networks."""

BY_WEIGHTS = (
    "resnet20", "cifar_vgg16_bn", "cifar_mobilenet_v2", "squeezenet1_1", "resnet18", "googlenet",
    "timm:dla46x_c", "timm:cs3darknet_focus_s",
)  # fmt: skip

QUICK = {
    "resnet20": (*SHORT, *LONG, *EXACT),
    "cifar_mobilenet_v2": (*SHORT, "divisor auto", "residual crop, groups scale"),
    "squeezenet1_1": tuple(SHORT),
    "resnext50_32x4d": (
        "both",
        "default",
        "groups scale",
        "divisor 8, groups scale",
        "residual crop",
    ),
    "shufflenet_v2_x1_0": ("both", "divisor 8", "memory"),
    "timm:skresnet18": ("both", "default", "expand"),
    "timm:vit_tiny_patch16_224": ("both", "latency"),
    "ssdlite320_mobilenet_v3_large": ("both",),
}
"""What is planned anew by every run of the tests; the rest by those of the matrix."""

READABLE = {
    "resnet20": ("both", "residual crop", "densities erk"),
    "cifar_mobilenet_v2": ("both", "divisor 8", "expand"),
    "squeezenet1_1": ("both", "latency"),
    "timm:dla46x_c": ("both", "groups scale"),
}
"""Of these the widths themselves are kept, to be read."""


def cases(name: str) -> dict[str, Case]:
    """All that is planned of a network."""
    if NETWORKS[name].slow:
        return SHORT
    return SHORT | LONG | (EXACT if name in BY_WEIGHTS else {})


def check_steady(name: str) -> None:
    """Refuse plans by weights that the last digits of the weights decide, for processors differ."""
    entry = NETWORKS[name]
    models = entry.model(torch.float64), entry.model(torch.float64, noise=1e-11)
    for case, options in EXACT.items():
        if len({brief(planned(model, entry, options)) for model in models}) > 1:
            raise SystemExit(f"{name}, {case}: the last digits of the weights decide")


def planned(model: nn.Module, entry: Entry, case: Case) -> precrop.Plan | str:
    """The plan, or the kind of error where there is none; messages may be said better one day."""
    try:
        options = case(model, entry) if callable(case) else case
        return precrop.plan(model, entry.shape, **options)
    except precrop.PrecropError as error:
        return type(error).__name__


def brief(plan: precrop.Plan | str) -> str:
    """A plan as one line: params, macs, and digests of its widths, its building, its record."""
    if isinstance(plan, str):
        return plan
    widths = {name: list(pair) for name, pair in plan.widths.items()}
    digests = map(digest, (widths, *parts(plan)))
    return " ".join([str(plan.params), str(plan.macs), *digests])


def parts(plan: precrop.Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    """How a plan is built, and what it says of itself, from its file.

    Left out is what may differ between machines (the solver's figures, seconds, versions), and what
    may be worded or named better (reasons, the module of a network's class).
    """
    content = json.loads(plan.to_json())
    built = {
        "tensors": content["tensors"],
        "shapes": content["shapes"],
        "attributes": sorted(content["attributes"], key=repr),
        "streams": sorted(content["streams"], key=repr),
        "followers": content.get("followers", {}),
        "left_out": content.get("left_out", []),
    }
    budgets = {
        cost: {field: budget[field] for field in ("asked", "limit", "used", "base")}
        for cost, budget in content["budgets"].items()
    }
    said = {
        "totals": [content[field] for field in ("params", "macs", "base_params", "base_macs")],
        "input_shape": content["input_shape"],
        "budgets": budgets,
        "layers": [{**layer, "frozen": layer["frozen"] is not None} for layer in content["layers"]],
        "frozen": sorted(content["frozen"]),
        "options": content["options"],
    }
    return built, said


def digest(value: Any) -> str:
    """Eight hexadecimal digits of plain values, whatever the last digits of their floats."""
    text = json.dumps(rounded(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def rounded(value: Any) -> Any:
    """Plain values with floats to six digits: sums in another order differ in the sixteenth."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def recorded(name: str, chosen: Iterable[str] | None = None) -> tuple[Lines, dict[str, list[str]]]:
    """Plans of a network in brief, all or those chosen; and the readable widths of some."""
    entry, options = NETWORKS[name], cases(name)
    model = entry.model()
    lines, widths = {}, {}
    for case in options if chosen is None else chosen:
        plan = planned(model, entry, options[case])
        lines[case] = brief(plan)
        if case in READABLE.get(name, ()):
            assert not isinstance(plan, str), f"{name}, {case}: {plan}"
            pairs = plan.widths.items()
            widths[case] = [f"{inputs} {outputs} {layer}" for layer, (inputs, outputs) in pairs]
    return lines, widths
