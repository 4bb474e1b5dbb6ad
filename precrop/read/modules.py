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
    if isinstance(module.base, Tensor):
        axes = reader.axes(module.base)
        unify(axes[-1], axes[-2], "an orthogonal basis")


def _share_embedding(reader: Reader, module: nn.MultiheadAttention) -> None:
    """Queries, what the heads put out and the output have the width ``embed_dim``."""
    reason = "the width of an attention layer"

    outputs, embedding = reader.axes(module.out_proj.weight)
    unify(embedding, outputs, reason)
    if module.in_proj_weight is not None:
        joint, inputs = reader.axes(module.in_proj_weight)
        unify(embedding, inputs, reason)
        tie([embedding, joint])
    for projection in (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight):
        if projection is not None:
            unify(embedding, reader.axes(projection)[0], reason)
    for tensor in (module.q_proj_weight, module.bias_k, module.bias_v):
        if tensor is not None:
            unify(embedding, reader.axes(tensor)[-1], reason)
