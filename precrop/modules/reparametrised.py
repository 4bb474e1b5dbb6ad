"""Handles weights that PyTorch's own tools compute from other tensors, when those are sliced.

``torch.nn.utils`` has two forms of each tool. The old one keeps the computed weight in an attribute
that a hook refreshes in every forward pass; the new one (parametrizations) computes it on access.
"""

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from precrop.modules.names import modules_of

POWER_ITERATIONS = 15


def refresh(model: nn.Module) -> None:
    """Recompute the weights that hooks keep in attributes, after their tensors have changed."""
    with torch.no_grad():
        for module in model.modules():
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, WeightNorm):
                    setattr(module, hook.name, hook.compute_weight(module))
                elif isinstance(hook, SpectralNorm):
                    value = hook.compute_weight(module, do_power_iteration=False)
                    setattr(module, hook.name, value)
                elif isinstance(hook, BasePruningMethod):
                    masked: Any = hook
                    setattr(module, masked._tensor_name, masked.apply_mask(module))


def fold(model: nn.Module, names: Collection[str]) -> None:
    """Replace computed weights of these names by plain parameters with their values.

    The network must be a copy, so that the original keeps its hooks and its class.
    """
    removing: Any = {
        BasePruningMethod: prune.remove,
        SpectralNorm: torch.nn.utils.remove_spectral_norm,
        WeightNorm: torch.nn.utils.remove_weight_norm,
    }
    for path, module in modules_of(model).items():
        prefix = f"{path}." if path else ""
        for hook in [*module._forward_pre_hooks.values()]:
            name = getattr(hook, "name", getattr(hook, "_tensor_name", None))
            for kind, remove in removing.items():
                if isinstance(hook, kind) and f"{prefix}{name}" in names:
                    remove(module, name)
        steps = module._modules.get("parametrizations")
        made = [*steps] if isinstance(steps, nn.ModuleDict) and is_parametrized(module) else []
        if made and all(f"{prefix}{name}" in names for name in made):
            values = {name: getattr(module, name).detach() for name in made}
            # PyTorch would delete the weights' properties in the class, which copies share.
            module.__class__ = type(module).__bases__[0]
            del module._modules["parametrizations"]
            for name, value in values.items():
                module.register_parameter(name, nn.Parameter(value))


def restore(model: nn.Module, sliced: Collection[str]) -> None:
    """Restore what must hold of sliced tensors: unit singular vectors, an orthogonal basis.

    Args:
        model: the network; weights that depend on no sliced tensor stay as they are.
        sliced: names of the tensors that were sliced.
    """
    with torch.no_grad():
        for path, module in modules_of(model).items():
            prefix = f"{path}." if path else ""
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, SpectralNorm) and f"{prefix}{hook.name}_orig" in sliced:
                    _restore_vectors(module, hook)
            if isinstance(module, ParametrizationList) and f"{prefix}original" in sliced:
                _restore_parametrised(module)
    refresh(model)


def _restore_vectors(module: nn.Module, hook: SpectralNorm) -> None:
    for end in "uv":
        vector = module.get_buffer(f"{hook.name}_{end}")
        vector.copy_(normalize(vector, dim=0, eps=hook.eps))
    for _ in range(POWER_ITERATIONS):
        hook.compute_weight(module, do_power_iteration=True)


def _restore_parametrised(tensors: ParametrizationList) -> None:
    value: Tensor = tensors.original
    for step in tensors:
        if isinstance(step, parametrizations._SpectralNorm) and value.dim() > 1:
            matrix = step._reshape_weight_to_matrix(value)
            step._u.copy_(normalize(step._u, dim=0, eps=step.eps))
            step._v.copy_(normalize(step._v, dim=0, eps=step.eps))
            step._power_method(matrix, POWER_ITERATIONS)
        elif isinstance(step, parametrizations._Orthogonal):
            _restore_orthogonal(step, value)
        value = step(value)


def _restore_orthogonal(step: Any, value: Tensor) -> None:
    """Orthogonalize a basis; for Householder reflections, make the diagonal's entries signs."""
    if hasattr(step, "base"):
        basis, rest = torch.linalg.qr(step.base)
        # QR leaves signs open: choose those that keep the columns' directions.
        signs = torch.where(rest.diagonal(dim1=-2, dim2=-1) < 0, -1, 1)
        step.base.copy_(basis * signs.unsqueeze(-2))
    if step.orthogonal_map == parametrizations._OrthMaps.householder:
        signs = value.diagonal(dim1=-2, dim2=-1)
        signs.copy_(torch.where(signs < 0, -1, 1))


def lengths(model: nn.Module) -> Iterator[tuple[str, str, int]]:
    """Yield, for weight norms of both forms, the names of lengths and directions, and the axis."""
    for path, module in modules_of(model).items():
        prefix = f"{path}." if path else ""
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                yield f"{prefix}{hook.name}_g", f"{prefix}{hook.name}_v", hook.dim
        if isinstance(module, ParametrizationList):
            step = module[0]
            if isinstance(step, parametrizations._WeightNorm):
                yield f"{prefix}original0", f"{prefix}original1", step.dim
