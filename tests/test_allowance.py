"""Networks that a file asks for: what they take is bounded while they are built."""

import cProfile
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from precrop.errors import PrecropError
from precrop.model_spec import ModelSpec
from precrop.modules.copying import tensor_shapes

LIE = {"more": (2**40,)}
"""What a file says that wants to have much built."""


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return tensor_shapes(ModelSpec(name, {}).build())


@pytest.mark.parametrize(
    ("name", "args"),
    [
        pytest.param(
            "mobilenet_v2",
            {"inverted_residual_setting": [[1, 8, 16384, 1]] * 60},
            marks=pytest.mark.matrix,
        ),
        ("timm:densenet121", {"block_config": [16384] * 60, "growth_rate": 1, "bn_size": 1}),
        ("resnet50", {"width_per_group": 4096}),
        ("resnet18", {"num_classes": 2**20}),
        ("timm:swin_tiny_patch4_window7_224", {"window_size": 130, "img_size": 520}),
        ("timm:beit_base_patch16_224", {"img_size": 2400}),
        ("timm:vit_tiny_patch16_224", {"img_size": 2**20}),
        ("timm:levit_128s", {"img_size": 2**14}),
        pytest.param(
            "timm:tiny_vit_5m_224", {"window_sizes": [64, 64, 64, 64]}, marks=pytest.mark.matrix
        ),
    ],
)
def test_what_asks_for_far_more_than_it_should(name: str, args: dict[str, Any]) -> None:
    """In numbers, tables, repeats or loops; however large the file says that the network is."""
    pytest.importorskip("timm" if name.startswith("timm") else "torchvision")
    spec, like = ModelSpec(name, args), {**shapes_of("resnet20"), **LIE}
    spec.check(False, "")
    begun = time.process_time()
    with pytest.raises(PrecropError, match="far larger than the network that the file is of"):
        spec.build(like)
    assert time.process_time() - begun < 30
    assert torch.is_grad_enabled()
    assert torch.zeros(1) + 1 == 1


@pytest.mark.parametrize(
    "name",
    [
        "resnet20",
        "googlenet",
        "swin_v2_t",
        pytest.param("timm:beit_base_patch16_224", marks=pytest.mark.matrix),  # 87 million numbers
        "timm:levit_128s",
        "timm:tiny_vit_5m_224",
        pytest.param("timm:tiny_vit_21m_512", marks=pytest.mark.matrix),  # 19 million calls
        "timm:regnety_002",
        "timm:ecaresnet50d_pruned",
    ],
)
def test_networks_are_built_to_the_bit(name: str) -> None:
    pytest.importorskip("timm" if name.startswith("timm") else "torchvision")
    spec, shapes, states = ModelSpec(name, {}), None, []
    for _ in range(2):
        torch.manual_seed(0)
        model = spec.build(shapes)
        shapes = tensor_shapes(model)
        states.append(model.state_dict())
    assert all(map(torch.equal, *(state.values() for state in states)))
    assert sys.getprofile() is None


def test_the_weights_file_bounds_the_network(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(2**10))
    like = shapes_of("resnet50")  # 102 MB
    with pytest.raises(PrecropError, match="far larger than"):
        ModelSpec("resnet50", {}).build(like, weights)
    weights.write_bytes(bytes(2**20))
    assert ModelSpec("resnet50", {}).build(like, weights)
    with pytest.raises(PrecropError, match="cannot read"):
        ModelSpec("resnet50", {}).build(like, tmp_path / "other")


def test_a_profiler_keeps_its_place() -> None:
    profile = cProfile.Profile()
    with profile:
        assert isinstance(ModelSpec("resnet20", {}).build(shapes_of("resnet20")), nn.Module)
    assert any(entry.callcount for entry in profile.getstats())
