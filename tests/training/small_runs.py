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


class Signed(nn.Linear):
    """Version 1 had its weights with the other sign; weights of no version are refused."""

    _version = 2

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any
    ) -> None:
        version = local_metadata.get("version")
        if version is None:
            raise KeyError(f"no version of {prefix}")
        if version < 2:
            state_dict[f"{prefix}weight"] = -state_dict[f"{prefix}weight"]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def signed_net(num_classes: int = 10) -> nn.Module:
    """With a layer that looks at the version of its weights."""
    return nn.Sequential(*list(batch_net().children())[:-1], Signed(16, num_classes))


def single_net(num_classes: int = 10) -> nn.Module:
    """Whose batch norm sees one value of a channel per image: it cannot train on one image."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


class Overflow(nn.Module):
    """No number in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Map a tensor to one like it."""
        return x if self.training else x * float("nan")


def diverging_net(num_classes: int = 10) -> nn.Module:
    """Whose loss is a number in training alone."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, num_classes), Overflow()
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
