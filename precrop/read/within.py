"""Finds the tensors in whatever a network takes or returns."""

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import islice
from types import FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

# Most objects that are searched, since an output may refer to anything.
MOST_OBJECTS = 100_000

_OPAQUE = (str, bytes, bytearray, range, nn.Module, type, ModuleType, FunctionType, MethodType)


def tensors_within(value: Any) -> list[Tensor]:
    """Return the tensors in nested containers and objects, in order.

    It searches sequences, mappings, sets, generators (which it runs) and the attributes of objects
    (dataclasses, named tuples, classes with ``__dict__`` or ``__slots__``). Modules, and what they
    hold, are no outputs.
    """
    found: list[Tensor] = []
    seen: dict[int, Any] = {}  # holds the objects, so that no id is reused
    stack: list[tuple[Any, bool]] = [(value, False)]
    while stack and len(seen) < MOST_OBJECTS:
        part, beside = stack.pop()
        if isinstance(part, Tensor):
            if not (beside and any(part is other for other in found)):
                found.append(part)
        elif id(part) not in seen and not isinstance(part, _OPAQUE):
            seen[id(part)] = part
            stack += [(one, True) for one in _attributes(part)][::-1]
            stack += [(one, beside) for one in _entries(part)][::-1]
    return found


def _entries(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from islice(value.values(), MOST_OBJECTS)
    elif isinstance(value, (Sequence, Set, GeneratorType)):
        yield from islice(value, MOST_OBJECTS)


def _attributes(value: Any) -> Iterator[Any]:
    """Yield an object's attributes; those of a container may repeat its entries."""
    if type(value).__module__ != "builtins":
        yield from getattr(value, "__dict__", {}).values()
        yield from _slots(value)


def _slots(value: Any) -> Iterator[Any]:
    for kind in type(value).__mro__:
        names = kind.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__"):
                yield getattr(value, name, None)
