"""Networks and runs that train in a second."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from precrop.model_spec import ModelSpec
from precrop.plans.weights import load_tensors
from precrop.training.data import ImageData, load_data
from precrop.training.recipes import RECIPES
from precrop.training.runs import Run

APP = """
import sys
import torch
from precrop.cli.app import main

torch.set_num_threads(1)
sys.exit(main())
"""
"""The command line on one thread."""


def batch_net(num_classes: int = 10) -> nn.Module:
    """With everything that has a state of its own: batch norms and dropout."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, num_classes),
    )


def group_net(num_classes: int = 10) -> nn.Module:
    """Every image for itself: how a batch is shared out makes no difference.

    And smooth: at the kink of a ReLU, which all of a digit's empty background can cross at once,
    differences of 1e-8 become some of 1e-3.
    """
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.GELU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.GroupNorm(2, 16),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, num_classes),
    )


@cache
def digits() -> ImageData:
    return load_data("digits")


def small_run(
    network: str = "batch_net",
    settings: Mapping[str, Any] | None = None,
    args: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Run:
    data = digits()
    recipe = RECIPES["digits"].changed({"epochs": 3, **(settings or {})})
    given: dict[str, Any] = {
        "model": ModelSpec(f"tests.training.small_runs:{network}", args or {"num_classes": 10}),
        "data": "digits",
        "data_name": data.name,
        "data_digest": data.digest,
        "classes": data.classes,
        "input_shape": data.shape,
        "recipe": recipe,
        **fields,
    }
    return Run(**given)


def tensors(checkpoint: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint."""
    weights = load_tensors(checkpoint / "model.safetensors")
    state = load_tensors(checkpoint / "state.safetensors")
    return {**weights, **{f"state/{name}": value for name, value in state.items()}}


def assert_same(one: Path, other: Path) -> None:
    """Two checkpoints hold the same numbers, bit for bit."""
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        assert value.equal(second[name]), name
