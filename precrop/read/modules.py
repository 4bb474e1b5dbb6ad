"""Widths that PyTorch's own layers state by one attribute, whatever their calls would allow."""

from collections.abc import Collection

from torch import Tensor, nn
from torch.nn.utils.parametrizations import _Orthogonal

from precrop.read.axes import tie, unify
from precrop.read.reader import Reader


def share_stated_widths(reader: Reader, model: nn.Module, called: Collection[str]) -> None:
    """Unite what one attribute of a layer states; ``called`` are the paths of modules that run."""
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention) and path in called:
            _share_embedding(reader, module)
        elif isinstance(module, _Orthogonal) and path in called:
            _square_basis(reader, module)


def _square_basis(reader: Reader, module: _Orthogonal) -> None:
    """A basis of all of the space has as many vectors as dimensions."""
    base = getattr(module, "base", None)  # missing without trivialisation
    if isinstance(base, Tensor):
        axes = reader.axes(base)
        unify(axes[-1], axes[-2], "an orthogonal basis")


def _share_embedding(reader: Reader, module: nn.MultiheadAttention) -> None:
    """Queries, what the heads put out and the output have the width ``embed_dim``."""
    inputs = (module.in_proj_weight, module.q_proj_weight, module.bias_k, module.bias_v)
    outputs = (
        module.in_proj_weight,
        module.q_proj_weight,
        module.k_proj_weight,
        module.v_proj_weight,
    )
    tie(
        [
            *reader.axes(module.out_proj.weight),
            *(reader.axes(tensor)[-1] for tensor in inputs if tensor is not None),
            *(reader.axes(tensor)[0] for tensor in outputs if tensor is not None),
        ]
    )
