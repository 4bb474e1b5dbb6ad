"""A plan made by hand: what its tests need and no network has to be read for."""

import dataclasses

from precrop.model_spec import ModelSpec
from precrop.modules.streams import Stream
from precrop.plans.layers import LayerPlan
from precrop.plans.plan import BudgetPlan, Plan

LAYERS = (
    LayerPlan("conv1", "conv1.weight", "conv", 3, 16, 3, 9, 432, 243, 442_368, 248_832, "conv1"),
    LayerPlan(
        "layer1.0.conv1",
        "layer1.0.conv1.weight",
        "conv",
        16,
        16,
        9,
        5,
        2304,
        405,
        90_000,
        15_820,
        "layer1.0.conv1",
    ),
    LayerPlan(
        "layer1.0.conv2",
        "layer1.0.conv2.weight",
        "conv",
        16,
        16,
        5,
        9,
        2304,
        405,
        90_000,
        15_820,
        "conv1",
    ),
    LayerPlan(
        "fc",
        "fc.weight",
        "linear",
        16,
        10,
        9,
        10,
        160,
        90,
        160,
        90,
        None,
        "a size that no op explains",
    ),
)

PLAN = Plan(
    network="precrop.models.resnet:CifarResNet",
    source=ModelSpec("resnet20", {"num_classes": 10}),
    input_shape=(3, 32, 32),
    budgets={
        "params": BudgetPlan("0.5", 2600, 1143, 5200, 0.0),
        "macs": BudgetPlan(0.5, 311_264, 280_562, 622_528, 0.0123),
    },
    params=1143,
    macs=280_562,
    base_params=5200,
    base_macs=622_528,
    layers=LAYERS,
    frozen={"fc": "a size that no op explains"},
    options={"divisor": 1, "expand": False, "balance": 1.0, "ignore": ("layer4.*", "fc")},
    shapes={"conv1.weight": (16, 3, 3, 3), "bn1.num_batches_tracked": ()},
    tensors={"conv1.weight": (((16, 9),), 3, 3, 3), "cat.weight": (64, ((16, 9), (32, 20)))},
    streams=(Stream("layer1.0.conv1", "read", 1, 16, ("conv1",)),),
    attributes=(("conv1", "out_channels", 9), ("layer1.0", "splits", [4, (2, 3)])),
    solver={"status": "solved", "iterations": 11, "objective": -3.25, "gap": 1e-9},
    versions={"precrop": "0.1.0", "torch": "2.15.0"},
    seconds=0.1234,
)

WIDENED = dataclasses.replace(
    PLAN, layers=(dataclasses.replace(LAYERS[0], out_channels=24), *LAYERS[1:]), frozen={}
)
