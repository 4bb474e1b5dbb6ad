"""The networks of the golden record, at small inputs, with weights that are the same anywhere."""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from torch import nn

import precrop.models


@dataclass(frozen=True)
class Entry:
    """A network: how it is made, the shape of an input, and whether a plan takes a second."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    slow: bool = False

    def model(self, dtype: torch.dtype = torch.float32, noise: float = 0.0) -> nn.Module:
        """A new instance with `exact_weights`, each off by up to a share of ``noise``."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries, about their own defaults
            torch.manual_seed(0)
            return exact_weights(self.make().to(dtype), noise)


def exact_weights(model: nn.Module, noise: float) -> nn.Module:
    """Weights that do not depend on the machine, in place.

    PyTorch's normal numbers go through logarithms and cosines, whose last digit differs between
    processors. Random integers, products and square roots are exact everywhere.
    """
    numbers, off = np.random.default_rng(0), np.random.default_rng(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                continue  # scales of norms and biases: ones and zeros, mostly
            values = numbers.integers(1, 2**52, parameter.numel()) / 2**51 - 1
            if noise:
                values *= 1 + noise * (off.random(parameter.numel()) - 0.5)
            bound = 1 / math.sqrt(parameter[0].numel())
            parameter.copy_(torch.from_numpy(values * bound).view(parameter.shape))
    return model


OWN = "resnet20 resnet56 cifar_vgg16_bn cifar_mobilenet_v2 cifar_efficientnet_b0"

TORCHVISION = """
    alexnet vgg11_bn squeezenet1_1 resnet18 resnet50 resnext50_32x4d wide_resnet50_2 densenet121
    googlenet:96 inception_v3:96 mobilenet_v2 mobilenet_v3_small mnasnet0_5 shufflenet_v2_x1_0
    efficientnet_b0 efficientnet_v2_s regnet_x_400mf regnet_y_400mf convnext_tiny
    deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large ssdlite320_mobilenet_v3_large:320
    vit_b_32 swin_t
"""

TIMM = """
    res2next50 resnest14d skresnet18 ghostnet_050 rexnet_100 fasternet_t0 convnext_atto tf_mixnet_s
    cs3darknet_focus_s dpn48b dla46x_c hgnetv2_b0 repvgg_a0 ese_vovnet19b_slim_dw hrnet_w18_small
    nf_resnet26 eca_nfnet_l0 botnet26t_256:256 mobilevit_xxs vit_tiny_patch16_224:224
    levit_128s:224 poolformerv2_s12 gmlp_ti16_224:224 selecsls42 inception_next_atto starnet_s050
    legacy_seresnet18 coatnet_nano_rw_224:224 repvit_m1
"""

ARGUMENTS: dict[str, dict[str, Any]] = {
    "vit_b_32": {"image_size": 64},
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
    "deeplabv3_mobilenet_v3_large": {"weights_backbone": None},
    "lraspp_mobilenet_v3_large": {"weights_backbone": None},
    "ssdlite320_mobilenet_v3_large": {"weights_backbone": None},
}

SLOW = {"vit_b_32", "swin_t", "ssdlite320_mobilenet_v3_large", "timm:levit_128s"}


def _sized(text: str) -> Iterator[tuple[str, int]]:
    """Names and the pixels of a side, 64 where nothing is said."""
    for word in text.split():
        name, _, side = word.partition(":")
        yield name, int(side or 64)


def _entries() -> Iterator[tuple[str, Entry]]:
    for name in OWN.split():
        yield name, Entry(getattr(precrop.models, name), (3, 32, 32))
    for name, side in _sized(TORCHVISION):
        arguments = {"weights": None, **ARGUMENTS.get(name, {})}
        make = partial(torchvision.models.get_model, name, **arguments)
        yield name, Entry(make, (3, side, side), name in SLOW)
    yield "r3d_18", Entry(partial(torchvision.models.get_model, "r3d_18"), (3, 8, 32, 32))
    for name, side in _sized(TIMM):
        named = f"timm:{name}"
        make = partial(timm.create_model, name)
        yield named, Entry(make, (3, side, side), named in SLOW)


NETWORKS: dict[str, Entry] = dict(_entries())
