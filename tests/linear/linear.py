"""SynFlow's R by its definition: a copy of the network that is linear, run by PyTorch itself."""

import copy

import torch
from torch import Tensor, nn

IDENTITIES = (
    *(nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU, nn.LeakyReLU, nn.Sigmoid, nn.Softmax),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm),
)
"""Modules that are a factor of one, with their subclasses."""
GATES = {
    *("SqueezeExcite", "SqueezeExcitation", "SEModule", "SqueezeExciteCl", "EffectiveSEModule"),
    *("EcaModule", "GhostGate"),
}
"""Names of classes that do nothing but scale their input."""


def linear_copy(model: nn.Module, *, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A copy with absolute weights, in which nothing but weights does anything."""
    made = copy.deepcopy(model).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.dim() < 2 or "layer_scale" in name:
                parameter.fill_(1)
            else:
                parameter.abs_()
    for module in list(made.modules()):
        for name, child in list(module.named_children()):
            norm = type(child).__name__.startswith(("BatchNormAct", "LayerNorm", "GroupNormAct"))
            if norm or isinstance(child, IDENTITIES) or type(child).__name__ in GATES:
                setattr(module, name, nn.Identity())
    return made


def ones(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    return torch.ones(1, *shape, dtype=next(model.parameters()).dtype)


def layer_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights of convolutions and linear layers, by parameter name."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
    return {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    }


def scored(linear: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    """R and ``|w| dR/d|w|`` of a network that is linear, by parameter name."""
    weights = layer_weights(linear)
    total = linear(ones(linear, shape)).sum()
    gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    pairs = zip(weights.items(), gradients, strict=True)
    return total.detach(), {
        name: torch.zeros_like(weight) if gradient is None else (weight * gradient).detach()
        for (name, weight), gradient in pairs
    }
