"""What is known of each operation of PyTorch's, found once."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class OfOperations(Generic[T]):
    """A value for every operation, computed when it is first asked for.

    An operation computes its hash in Python, which takes longer than all else here: it is told from
    others by its identity.
    """

    def __init__(self, find: Callable[[Any], T]) -> None:
        self._find = find
        self._known: dict[int, tuple[T, Any]] = {}

    def get(self, op: Any) -> T:
        """The operation's value."""
        known = self._known.get(id(op))
        if known is None:
            known = self._known[id(op)] = self._find(op), op  # kept, or its id would be another's
        return known[0]
