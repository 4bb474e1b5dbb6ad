"""Handlers, one small function per ATen operation: what it means for the sizes of its operands.

A handler takes the reader and a call and returns the axes of the call's outputs. On the way it
unifies axes that must be equal, ties those that must stay proportional and freezes those that it
cannot follow. An operation without a handler is elementwise if ATen tags it as pointwise; otherwise
the axes of its operands are frozen.
"""

from precrop.read.ops import elementwise, layers, lookups, norms, rows, shapes, space, weights
from precrop.read.ops.elementwise import fallback
from precrop.read.ops.registry import HANDLERS, handles

__all__ = ["HANDLERS", "fallback", "handles"]
__all__ += ["elementwise", "layers", "lookups", "norms", "rows", "shapes", "space", "weights"]
