"""What each ATen operation means for the sizes of its operands: one small handler an operation.

A handler receives the reader and a call and returns the axes of the call's outputs. On the way it
unites axes that must agree, ties those that must stay proportional and freezes what it cannot
follow. An operation that is in no table is treated as elementwise when ATen tags it so; any other
keeps the widths that reach it fixed.
"""

from precrop.read.ops import elementwise, layers, lookups, norms, rows, shapes, space, weights
from precrop.read.ops.elementwise import fallback
from precrop.read.ops.registry import HANDLERS, handles

__all__ = ["HANDLERS", "fallback", "handles"]
__all__ += ["elementwise", "layers", "lookups", "norms", "rows", "shapes", "space", "weights"]
