"""The networks of the paper: budgets met, independent groups, rounding near the optimum."""

import pytest

import precrop
from precrop.zoo import load_model

# Independent groups: one a residual stream, one a hidden width.
NETWORKS = {
    "resnet50": ((3, 224, 224), 37),
    "mobilenet_v2": ((3, 224, 224), 25),
    "efficientnet_b0": ((3, 224, 224), 40),
    "resnet20": ((3, 32, 32), 12),
    "cifar_vgg16_bn": ((3, 32, 32), 13),
    "cifar_mobilenet_v2": ((3, 32, 32), 25),
    "cifar_efficientnet_b0": ((3, 32, 32), 40),
}


@pytest.mark.parametrize("share", [0.5, 0.3])
@pytest.mark.parametrize("name", NETWORKS)
def test_rounding_is_within_a_per_cent_of_the_optimum(name: str, share: float) -> None:
    shape, groups = NETWORKS[name]
    plan = precrop.plan(load_model(name, {}), shape, params=share, macs=share, divisor=1)
    assert len({layer.group for layer in plan.layers if layer.group}) == groups
    optimum, rounded = plan.solver["objective"], plan.solver["rounded"]
    assert rounded <= optimum + 1e-6
    assert optimum - rounded <= 0.01 * abs(optimum)
    assert max(plan.params / plan.base_params, plan.macs / plan.base_macs) > 0.97 * share
    assert not plan.frozen
