"""The values in a module that may be sizes and that an edit can reach, by attribute path.

A plan may come from a stranger's file, and its edits are set in a copy of the network. So an edit
reaches only what is copied with the module: its attributes (except those that every module has) and
what lies in them, in lists, tuples, dicts, arrays, the keywords of a `functools.partial` and the
attributes of objects such as configurations. Out of reach are methods, properties, Python modules,
classes and objects that copies share, and with them everything else in the process. (A number in a
class can be read; setting it gives the object an attribute of its own that hides it.)
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
"""The longest list of numbers that is searched for sizes; dense blocks' splits have about 50."""
_MOST_VALUES, _DEEPEST = 4096, 6
"""How many values of a module are searched at most, the nearest first, and how many steps deep."""
_LEAST_FLOAT = 16
"""The least whole float that may be a size; smaller ones are more likely ratios."""
_BOOKKEEPING = frozenset(vars(nn.Module()))
"""Attributes that PyTorch gives every module; none is a size."""
_COPYING = (
    "__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__new__",
    "__getnewargs__", "__getnewargs_ex__", "__getattr__", "__getattribute__", "__setitem__",
)  # fmt: skip
"""Methods by which a class can change how its objects are copied."""
_PYTHONS = ("builtins", "collections", "collections.abc", "types", "typing")
"""Python's own modules whose classes are copied entry by entry."""
_APART: WeakSet[type] = WeakSet()
"""Classes with copying of their own whose copies were seen to share nothing with the original."""


def is_own(name: str) -> bool:
    """Whether an attribute is specific to its owner: no dunder, and not one of every module."""
    return not name.startswith("__") and name not in _BOOKKEEPING


def is_integer(value: Any) -> bool:
    """Whether a value is a Python or NumPy integer, but no boolean and no enumeration member."""
    return type(value) is int or isinstance(value, np.integer)


def as_size(value: Any) -> int | None:
    """Return a number as an integer if it may be a size, else None."""
    whole = isinstance(value, float) and value >= _LEAST_FLOAT and value.is_integer()
    return int(value) if whole or is_integer(value) else None


def sizes_within(owner: Any) -> Iterator[tuple[str, int]]:
    """Yield the numbers in an object that may be sizes, with their paths, the nearest first.

    Long lists of numbers are skipped: they are tables of positions or labels.
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
    """Return the containers in which an owner holds a step of a path, each with its key there.

    There may be several, since an owner can have an entry and an attribute of one name.

    Raises:
        KeyError: there is nothing that an edit may reach.
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
    """Yield the values that an object holds, each with the path step that leads to it."""
    found = set()
    for held in _containers(owner):
        for key in _keys(held):
            step = _step(key)
            if step is None or step in found:
                continue
            try:
                value = held[key]
            except Exception:  # configurations raise anything for a value that is not set yet
                continue
            found.add(step)
            yield step, value


def _step(key: Any) -> str | None:
    """Return a key as a step of a path: an identifier as it is, others by ``repr`` without dots.

    None if the key is not made of strings and integers.
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
    except Exception:  # configurations raise anything if they have no value
        return []


def _containers(value: Any) -> list[Any]:
    """Return the containers of an object's values, if they are copied with the object."""
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
    if not listed or isinstance(value, (dict, list)):  # in others attributes hold the entries
        held.append(_Attributes(value))
    return held


class _Attributes(Mapping[str, Any]):
    """An object's attributes, including slots and numbers in its class, as a mapping."""

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
        """Return a slot or a number of the object's class, unless that is Python's or PyTorch's."""
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
    """Whether a copy of an object shares nothing with it that an edit may change.

    This is known of Python's default copying. A class that overrides it is tried out.
    """
    kind = type(value)
    plain = not any(name in vars(k) for k in filter(_is_users, kind.__mro__) for name in _COPYING)
    if plain or kind in _APART:
        return True
    # Modules and tensors, which edits cannot reach here, are shared so that no memory is copied.
    parts = [part for part in held_objects(value) if isinstance(part, (nn.Module, Tensor))]
    try:
        twin = copied_value(value, kind.__name__, Memo({id(part): part for part in parts}))
    except Exception:  # the class' own copying may raise anything
        return False
    _APART.add(kind)
    if _share(value, twin, 3):
        _APART.discard(kind)
    return kind in _APART


def _share(one: Any, twin: Any, depth: int) -> bool:
    """Whether an object and its copy are, or both hold, one object that an edit may change."""
    if one is twin and not isinstance(one, tuple):
        return any(True for _ in _entries(one))
    pairs = zip(_entries(one), _entries(twin), strict=False) if depth else ()
    return any(_share(mine, other, depth - 1) for (_, mine), (_, other) in pairs)
