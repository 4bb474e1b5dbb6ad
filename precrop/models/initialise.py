"""The initialisation that every network of this package starts from."""

import math

from torch import nn


def kaiming(network: nn.Module) -> None:
    """Initialise in place: He normal convolutions (fan out), unit norms, uniform linear layers.

    Source: He et al. 2015, "Delving Deep into Rectifiers" (arXiv 1502.01852), and, for the linear
    layers, the ``1/sqrt(fan in)`` uniform of the reference networks.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.zeros_(module.bias)
