"""The tensors in whatever a network takes or returns."""

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import islice
from types import FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

# Objects that are looked into at most: an output may lead to anything.
MOST_OBJECTS = 100_000

_OPAQUE = (str, bytes, bytearray, range, nn.Module, type, ModuleType, FunctionType, MethodType)


def tensors_within(value: Any) -> list[Tensor]:
    """The tensors in nested containers and objects, in order.

    Looked into are sequences, mappings, sets, generators (which are thereby run) and the attributes
    of objects: dataclasses, named tuples, classes with ``__dict__`` or ``__slots__``. Modules are
    no outputs, nor is what they hold.
    """
    found: list[Tensor] = []
    seen: dict[int, Any] = {}  # with the objects, so that no id is used twice
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
    """Attributes of an object; a container's may be its entries once more."""
    if type(value).__module__ != "builtins":
        yield from getattr(value, "__dict__", {}).values()
        yield from _slots(value)


def _slots(value: Any) -> Iterator[Any]:
    for kind in type(value).__mro__:
        names = kind.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__"):
                yield getattr(value, name, None)
