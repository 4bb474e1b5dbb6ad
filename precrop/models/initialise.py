"""Weight initialisation for the networks of this package."""

import math
from typing import Literal

from torch import nn

Init = Literal["fan_out", "fan_in"]


def kaiming(network: nn.Module, init: Init = "fan_out") -> None:
    """Initialise a network in place; batch norms start with weight 1, and biases at 0.

    He et al. 2015, "Delving Deep into Rectifiers" (arXiv 1502.01852), in two forms that differ most
    in how large a classifier's weights are compared with those of the convolutions.

    Args:
        network: its convolutions, batch norms and linear layers are initialised.
        init: ``fan_out`` draws convolutions from the normal distribution that keeps the variance of
            gradients, and linear layers uniformly up to ``1/sqrt(fan in)``, as PyTorch does.
            ``fan_in`` draws both from the normal distribution that keeps the variance of
            activations, as the code of SynFlow (Tanaka et al. 2020) and of Frankle et al. 2021
            does. With it, magnitude pruning keeps far more of a classifier.
    """
    if init not in ("fan_out", "fan_in"):
        raise ValueError(f"init must be 'fan_out' or 'fan_in', not {init!r}")
    for module in network.modules():
        if isinstance(module, nn.Linear) and init == "fan_out":
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode=init, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
