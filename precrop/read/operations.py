"""A cache for functions of PyTorch's operations."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

T = TypeVar("T")


def per_operation(find: Callable[[Any], T]) -> Callable[[Any], T]:
    """Cache a function of an operation, by the operation's identity.

    An operation computes its hash in Python, which would take longer than all else here.
    """
    known: dict[int, tuple[T, Any]] = {}

    @wraps(find)
    def found(op: Any) -> T:
        entry = known.get(id(op))
        if entry is None:
            entry = known[id(op)] = find(op), op  # holding the operation keeps its id unique
        return entry[0]

    return found
