"""Lets a pass go on after a call that is not as predicted, as if it had been.

A fitted network fails at the first size that its code gets wrong. To find all such places in one
pass, the outputs of each differing call are replaced by tensors of the predicted shapes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from precrop.modules.instead import FunctionMode
from precrop.read.values import Shape


@dataclass(frozen=True)
class Expected:
    """The outputs that a call should have: their shapes and types, on meta tensors."""

    op: torch._ops.OpOverload
    shapes: tuple[Shape, ...]
    dtypes: tuple[torch.dtype, ...]


@dataclass
class Correction:
    """Compares calls, in order, with the expected ones; ``wrong`` are indices of differing ones."""

    expected: Sequence[Expected]
    wrong: list[int] = field(default_factory=list)

    def run(self, index: int, op: Any, call: Callable[[], Any]) -> Any:
        """Run a call; return its outputs, or in place of wrong ones the expected ones."""
        want = self.expected[index] if index < len(self.expected) else None
        if want is None or want.op != op or op._schema.is_mutable:
            return call()
        try:
            out = call()
        except RuntimeError:
            return self._made(index, want)
        outputs = [out] if isinstance(out, Tensor) else out
        if not isinstance(outputs, (list, tuple)):
            return out
        shapes = tuple(tuple(o.shape) for o in outputs if isinstance(o, Tensor))
        return out if shapes == want.shapes else self._made(index, want)

    def _made(self, index: int, want: Expected) -> Any:
        self.wrong.append(index)
        made = [
            torch.empty(shape, dtype=dtype, device="meta")
            for shape, dtype in zip(want.shapes, want.dtypes, strict=True)
        ]
        returns = want.op._schema.returns
        if len(returns) == 1 and isinstance(returns[0].type, torch.TensorType):
            return made[0]
        return made if len(returns) == 1 else tuple(made)


class CorrectedReshapes(FunctionMode):
    """Gives a failing reshape the shape that was expected of its view.

    ``calls`` are the calls that the trace has recorded so far.
    """

    def __init__(self, correction: Correction, calls: Sequence[Any]) -> None:
        super().__init__()
        self.correction, self.calls = correction, calls

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        start = len(self.calls)
        try:
            return function(*args, **(kwargs or {}))
        except RuntimeError:
            following = self.correction.expected[start : start + 2]  # a view may follow a copy
            view = next((want for want in following if want.op in _VIEWS), None)
            if view is None or function not in _RESHAPING or len(self.calls) > start:
                raise
            self.correction.wrong.append(start)
            return args[0].reshape(view.shapes[0])


_RESHAPING = (
    Tensor.reshape, torch.reshape, Tensor.unflatten, torch.unflatten, Tensor.view,
)  # fmt: skip
_VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
