"""What modules hold by names and places: all that may be a size, and all that an edit can reach.

A plan comes from a file, perhaps a stranger's, and its edits are set in a copy of the network. So
they reach what is copied with a module, and nothing else: its own attributes (PyTorch's bookkeeping
apart) and what lies there, in lists, tuples, dicts and arrays, in the keywords of a
`functools.partial` and in the attributes of objects, such as configurations. Methods, properties,
modules of Python's, what a class holds and objects that are shared when they are copied are out of
reach, and through them everything else in the process. (A number of a class is seen, and hidden by
one of the object's own that is set.)
"""

import functools
from collections import deque
from collections.abc import Iterator, Mapping, MutableMapping, MutableSequence
from itertools import islice
from numbers import Number
from types import MemberDescriptorType, ModuleType
from typing import Any
from weakref import WeakSet

import numpy as np
from torch import Tensor, nn

from precrop.modules.copying import copied_value, held_objects
from precrop.modules.weak import Memo

_MOST_SIZES = 128
"""The longest list of numbers that may be sizes; splits of dense blocks have about 50."""
_MOST_VALUES, _DEEPEST = 4096, 6
"""Of what a module holds, so many values are looked at and so many steps from it: the nearest."""
_LEAST_FLOAT = 16
"""A whole float that may be a size; smaller ones are rather ratios."""
_BOOKKEEPING = frozenset(vars(nn.Module()))
"""What every module holds: PyTorch's own, which states no size."""
_COPYING = (
    "__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__new__",
    "__getnewargs__", "__getnewargs_ex__", "__getattr__", "__getattribute__", "__setitem__",
)  # fmt: skip
"""Methods on which it depends how an object is copied."""
_PYTHONS = ("builtins", "collections", "collections.abc", "types", "typing")
"""Whose objects Python copies entry by entry."""
_APART: WeakSet[type] = WeakSet()
"""Classes with a way of their own to be copied that were seen to share nothing with a copy."""


def is_own(name: str) -> bool:
    """Whether an attribute is its module's or configuration's, not Python's or every module's."""
    return not name.startswith("__") and name not in _BOOKKEEPING


def is_integer(value: Any) -> bool:
    """Whether it is an integer of Python's or NumPy's, not a boolean or one of an enumeration."""
    return type(value) is int or isinstance(value, np.integer)


def as_size(value: Any) -> int | None:
    """The integer that a number is, if it may be a size."""
    whole = isinstance(value, float) and value >= _LEAST_FLOAT and value.is_integer()
    return int(value) if whole or is_integer(value) else None


def sizes_within(owner: Any) -> Iterator[tuple[str, int]]:
    """What may be sizes in what an object holds, with paths; the nearest come first.

    A long list of numbers is a table of positions or of labels, not of sizes.
    """
    waiting = deque(_entries(owner))
    for _ in range(_MOST_VALUES):
        if not waiting:
            return
        path, value = waiting.popleft()
        size = as_size(value)
        if size is not None:
            yield path, size
        elif path.count(".") < _DEEPEST and not isinstance(value, nn.Module):
            entries = [*islice(_entries(value), _MOST_VALUES)]
            numbers = (isinstance(entry, Number) for _, entry in entries)
            if len(entries) <= _MOST_SIZES or not all(numbers):
                waiting.extend((f"{path}.{step}", entry) for step, entry in entries)


def slots(owner: Any, step: str) -> list[tuple[Any, Any]]:
    """Where a step of a path leads: containers, and the key in them.

    They are several where a dict has the same name as an attribute, too.

    Raises:
        KeyError: it leads nowhere that an edit may reach.
    """
    found: list[tuple[Any, Any]] = []
    for held in _containers(owner):
        if not step.isidentifier():
            found += [(held, key) for key in _keys(held) if _step(key) == step]
        elif isinstance(held, Mapping) and step in held:
            found.append((held, step))
    if not found:
        raise KeyError(step)
    return found


def _entries(owner: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds, by the steps that lead there."""
    found = set()
    for held in _containers(owner):
        for key in _keys(held):
            step = _step(key)
            if step is None or step in found:
                continue
            try:
                value = held[key]
            except Exception:  # what a configuration does not have yet, whatever it says
                continue
            found.add(step)
            yield step, value


def _step(key: Any) -> str | None:
    """A key as a step of a path, which has no dot: a name as it is, any other as Python writes it.

    None if a text can't tell it.
    """
    if type(key) is str and key.isidentifier():
        return key
    parts = key if type(key) is tuple else (key,)
    plain = all(type(part) in (str, int) for part in parts)
    return repr(key).replace(".", "\\x2e") if plain else None


def _keys(held: Any) -> list[Any]:
    try:
        keys = held if isinstance(held, Mapping) else range(len(held))
        return [*islice(keys, _MOST_VALUES)]
    except Exception:  # a configuration that says that it has no value
        return []


def _containers(value: Any) -> list[Any]:
    """Where an object keeps what it holds, as far as it is copied with the object."""
    kind = type(value)
    if isinstance(value, nn.Module):
        return [_Attributes(value)]
    if kind in (list, tuple, dict):
        return [value]
    if isinstance(value, functools.partial):
        return [value.keywords]
    if kind is np.ndarray:
        return [value.flat] if value.dtype.kind in "iu" else []
    shared = kind.__module__ in ("builtins", "weakref", "_thread") or isinstance(
        value, (Tensor, type, ModuleType, np.generic)
    )
    if shared or not _is_copied(value):
        return []
    listed = isinstance(value, (tuple, MutableMapping, MutableSequence))
    held = [value] if listed else []
    if not listed or isinstance(value, (dict, list)):  # others keep their entries in attributes
        held.append(_Attributes(value))
    return held


class _Attributes(Mapping[str, Any]):
    """Attributes of an object, those in slots too; numbers of its class, which it may hide."""

    def __init__(self, owner: Any) -> None:
        self._owner, self._own = owner, getattr(owner, "__dict__", {})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[str]:
        kinds = filter(_is_users, type(self._owner).__mro__)
        names = [*self._own, *(name for kind in kinds for name in vars(kind))]
        yield from (name for name in dict.fromkeys(names) if name in self)

    def __contains__(self, name: object) -> bool:
        return (
            isinstance(name, str)
            and is_own(name)
            and (name in self._own or self._of_class(name) is not None)
        )

    def __getitem__(self, name: str) -> Any:
        if name in self._own:
            return self._own[name]
        of_class = self._of_class(name)
        slot = isinstance(of_class, MemberDescriptorType)
        return of_class.__get__(self._owner) if slot else of_class

    def __setitem__(self, name: str, value: Any) -> None:
        of_class = None if name in self._own else self._of_class(name)
        if isinstance(of_class, MemberDescriptorType):
            of_class.__set__(self._owner, value)
        else:
            self._own[name] = value

    def _of_class(self, name: str) -> Any:
        """A slot of the object, or a number that its class states; nothing of PyTorch's classes."""
        kinds = (kind for kind in type(self._owner).__mro__ if name in vars(kind))
        kind = next(kinds, None)
        if kind is None or not _is_users(kind):
            return None
        value = vars(kind)[name]
        slot = isinstance(value, MemberDescriptorType)
        hidden = hasattr(self._owner, "__dict__") and as_size(value) is not None
        return value if slot or hidden else None


def _is_users(kind: type) -> bool:
    """Whether a class is neither Python's nor PyTorch's."""
    return kind.__module__ not in _PYTHONS and kind.__module__.partition(".")[0] != "torch"


def _is_copied(value: Any) -> bool:
    """Whether an object's copy is another one, which shares nothing that an edit may change.

    Python's own way of copying is known; what a class does in place of it is tried.
    """
    kind = type(value)
    plain = not any(name in vars(k) for k in filter(_is_users, kind.__mro__) for name in _COPYING)
    if plain or kind in _APART:
        return True
    # What is large is not copied: modules and tensors are out of reach here.
    parts = [part for part in held_objects(value) if isinstance(part, (nn.Module, Tensor))]
    try:
        twin = copied_value(value, kind.__name__, Memo({id(part): part for part in parts}))
    except Exception:  # whatever its own way of copying raises
        return False
    _APART.add(kind)
    if _share(value, twin, 3):
        _APART.discard(kind)
    return kind in _APART


def _share(one: Any, twin: Any, depth: int) -> bool:
    """Whether an object and its copy are one, or hold one that an edit may change."""
    if one is twin and not isinstance(one, tuple):
        return any(True for _ in _entries(one))
    pairs = zip(_entries(one), _entries(twin), strict=False) if depth else ()
    return any(_share(mine, other, depth - 1) for (_, mine), (_, other) in pairs)
