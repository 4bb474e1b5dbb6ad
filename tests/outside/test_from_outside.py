"""Networks built like those of other packages: half of them, with all that a built one promises."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from tests.outside import outside_networks as networks
from tests.outside.sequences import cropped

IMAGE = (3, 16, 16)

NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any, float]] = {
    "diffusion U-Net": (networks.Diffusion, [(3, 8, 8), (1,)], 0.97),
    "variational autoencoder": (networks.LatentCode, IMAGE, 0.97),
    "codebook": (networks.quantised, IMAGE, 0.97),
    "speech encoder": (networks.Waveform, (400,), 0.97),
    "conformer with lengths": (networks.Conformer, (10, 12), 0.97),
    "separation of sources": (networks.Separator, (256,), 0.97),
    "detector": (networks.Detector, IMAGE, 0.97),
    "kernels merged in eval": (networks.restorer, (4, 12, 12), 0.97),
    "attention of channels": (networks.Shuffled, IMAGE, 0.97),
    "octave convolution": (networks.Octaves, IMAGE, 0.97),
    "patches of series": (networks.Patches, (32, 3), 0.97),
    "residual forecasts": (networks.Residuals, (24,), 0.97),
    "causal convolutions": (networks.Causal, (4, 20), 0.97),
    "moved windows": (networks.Windowed, (3, 32, 32), 0.97),
    "heads that share keys": (networks.decoder, (7, 6), 0.97),
    "pyramid of segmentation": (networks.RecallAndAdd, IMAGE, 0.97),
    "experts of low rank": (networks.Experts, (3, 8, 8), 0.97),
    "decoder of speech": (networks.Speaking, [(5, 8), (4, 6)], 0.97),
    "volumes": (networks.Residual3d, (1, 8, 8, 8), 0.9),
}
"""Each with its input and the least share of the binding budget that its steps allow."""

BOUND = {"residual forecasts": 0.4}
"""Shares of the parameters in layers of fixed width: what is subtracted from the input."""


@pytest.mark.parametrize("name", NETWORKS)
def test_network_is_cropped_to_half(name: str) -> None:
    make, shape, used = NETWORKS[name]
    plan, _ = cropped(make, shape, used=used)
    kept = sum(layer.base_weights for layer in plan.layers if layer.frozen)
    assert kept <= BOUND.get(name, 0.05) * plan.base_params, plan.frozen
