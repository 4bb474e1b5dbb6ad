"""Unifies widths that one attribute of a PyTorch layer states, even if no call demands it."""

from collections.abc import Callable, Collection

from torch import Tensor, nn
from torch.nn.utils.parametrizations import _Orthogonal

from precrop.modules.names import modules_of, named_tensors
from precrop.read.axes import axis_size, tie, unify
from precrop.read.known import Axes, Known, constants, fresh_axes


def share_stated_widths(known: Known, model: nn.Module, called: Collection[str]) -> None:
    """Unify widths that one attribute states, in the modules that run (``called``, by path)."""
    names: dict[int, str] = {}

    def axes_of(tensor: Tensor) -> Axes:
        """Return the axes of a tensor that a module holds; constants for one that it computes."""
        if not names:  # most networks have no such layer
            names.update((id(held), name) for name, held in named_tensors(model).items())
        name, shape = names.get(id(tensor)), tuple(tensor.shape)
        return constants(shape) if name is None else known.axes(name, shape)

    for module in (module for path, module in modules_of(model).items() if path in called):
        if isinstance(module, nn.MultiheadAttention):
            _share_embedding(axes_of, module)
        elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            _share_state(axes_of, module)
        elif isinstance(module, _Orthogonal):
            _square_basis(axes_of, module)


AxesOf = Callable[[Tensor], Axes]


def _share_state(axes_of: AxesOf, module: nn.RNNBase | nn.RNNCellBase) -> None:
    """Unify the state that gates make and that they read, since a pass of one step does not."""
    size, reason = module.hidden_size, "a recurrent layer's state"
    hidden, state = fresh_axes((size, getattr(module, "proj_size", 0) or size), reason)
    if axis_size(state) == size:
        state = hidden
    for name, weight in module.named_parameters():
        gates = hidden * (weight.shape[0] // size)
        ends = (state, hidden) if "weight_hr" in name else (gates, state)
        if "weight_h" in name and weight.shape == tuple(map(axis_size, ends)):
            for axis, end in zip(axes_of(weight), ends, strict=True):
                unify(axis, end, reason)


def _square_basis(axes_of: AxesOf, module: _Orthogonal) -> None:
    """Unify the sides of an orthogonal parametrisation's square basis."""
    base = getattr(module, "base", None)  # missing without trivialisation
    if isinstance(base, Tensor):
        axes = axes_of(base)
        unify(axes[-1], axes[-2], "an orthogonal basis")


def _share_embedding(axes_of: AxesOf, module: nn.MultiheadAttention) -> None:
    """Tie queries, the heads' outputs and the block's output: ``embed_dim`` states them all."""
    queries = (module.in_proj_weight, module.q_proj_weight)
    inputs = (*queries, module.bias_k, module.bias_v)
    outputs = (*queries, module.k_proj_weight, module.v_proj_weight)
    ends = [*axes_of(module.out_proj.weight)]
    ends += [axes_of(tensor)[-1] for tensor in inputs if tensor is not None]
    ends += [axes_of(tensor)[0] for tensor in outputs if tensor is not None]
    tie(ends)
