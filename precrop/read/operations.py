"""What is known of each operation of PyTorch's, found once."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

T = TypeVar("T")


def per_operation(find: Callable[[Any], T]) -> Callable[[Any], T]:
    """Decorates a function of an operation, which is then computed once for each.

    An operation computes its hash in Python, which takes longer than all else here: it is told from
    others by its identity.
    """
    known: dict[int, tuple[T, Any]] = {}

    @wraps(find)
    def found(op: Any) -> T:
        entry = known.get(id(op))
        if entry is None:
            entry = known[id(op)] = find(op), op  # kept, or its id would be another's
        return entry[0]

    return found
