"""Numbers in place of the tensors of a forward pass, so that a trace need not keep the tensors."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]
Layout = tuple[int, tuple[int, ...]]
"""A tensor's storage offset and strides."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorValue:
    """A tensor of a pass, as it was when a call took or returned it.

    Tensors are numbered in the order in which the pass meets them. A tensor that is changed in
    place keeps its number, even if its shape changes; a view has a number of its own.
    """

    number: int
    shape: Shape
    dtype: torch.dtype

    def dim(self) -> int:
        """Return the number of axes."""
        return len(self.shape)

    def numel(self) -> int:
        """Return the number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Values:
    """What is known of a pass's values besides their sizes, by number.

    Attributes:
        names: names of the network's parameters, buffers and plain tensors.
        unregistered: parameters that are not part of the network.
        data: inputs and constants: tensors with data that no call made and that are not part of the
            network. A replay computes with them, so they are kept.
        memories: the storage of every value at the end of the pass; views share it with their base.
        layouts: offset and strides of values that share a storage.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    unregistered: frozenset[int] = frozenset()
    data: Mapping[int, Tensor] = field(default_factory=dict)
    memories: Sequence[int] = ()
    layouts: Mapping[int, Layout] = field(default_factory=dict)


# Types of most arguments; they hold no tensors.
_PLAIN = frozenset((NoneType, bool, int, float, str, torch.dtype, torch.device))


def run_of(tensor: Tensor) -> tuple[int, int] | None:
    """Return ``(first, last + 1)`` if a vector holds successive integers in any order, else None.

    At least two are needed: a single one may be any number.
    """
    if tensor.is_meta or tensor.dim() != 1 or tensor.dtype not in (torch.int64, torch.int32):
        return None
    values = sorted(tensor.tolist())
    if len(values) < 2 or values[0] < 0 or values != [*range(values[0], values[-1] + 1)]:
        return None
    return values[0], values[-1] + 1


class Numbering:
    """Numbers the tensors of a recorded pass; it holds them, so that their ids stay unique.

    A tensor that no call makes but that shares all elements with one (as ``as_subclass`` returns)
    has that one's number.

    Args:
        named: the network's parameters, buffers and plain tensors.
    """

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        self._named = {id(tensor): name for name, tensor in named.items()}
        self._known: dict[int, tuple[Tensor, TensorValue]] = {}
        self._guises: dict[int, tuple[Tensor, TensorValue]] = {}
        self._outside: list[int] = []
        self._places: dict[Any, int] = {}
        self._placed = 0

    def met(self, tensor: Tensor) -> TensorValue | None:
        """Return the value of a tensor, or None if no call took or made it."""
        known = self._known.get(id(tensor)) or self._guises.get(id(tensor))
        return None if known is None else known[1]

    def given(self, tensor: Tensor) -> TensorValue:
        """Return the value of a tensor that a call or the network takes, numbering a new one."""
        known = self.met(tensor)
        if known is not None:
            return known
        parameter = id(tensor) in self._named or isinstance(tensor, nn.Parameter)
        number = None if parameter else self._at_its_place(tensor)
        if number is not None:
            value = TensorValue(number, tuple(tensor.shape), tensor.dtype)
            self._guises[id(tensor)] = tensor, value
            return value
        self._outside.append(len(self._known))
        return self.made(tensor, tuple(tensor.shape))

    def _at_its_place(self, tensor: Tensor) -> int | None:
        """Return the number of the last value with the same storage, layout and type, if any."""
        new = islice(self._known.values(), self._placed, None)  # only now, as it is rarely needed
        self._places |= {_place(one): value.number for one, value in new}
        self._placed = len(self._known)
        return self._places.get(_place(tensor))

    def made(self, tensor: Tensor, shape: Shape) -> TensorValue:
        """Return the value of a tensor that a call returned with a shape."""
        table = self._guises if id(tensor) in self._guises else self._known
        known = table.get(id(tensor))
        if known is not None and known[1].shape == shape:
            return known[1]
        number = len(self._known) if known is None else known[1].number
        value = TensorValue(number, shape, tensor.dtype)
        table[id(tensor)] = tensor, value
        return value

    def replaced(self, arguments: Iterable[Any], found: list[TensorValue]) -> list[Any]:
        """Return arguments with values in place of tensors; append these values to ``found``."""
        made = []
        for argument in arguments:
            if type(argument) not in _PLAIN:
                if isinstance(argument, Tensor):
                    argument = self.given(argument)
                    found.append(argument)
                elif isinstance(argument, (list, tuple)):
                    argument = type(argument)(self.replaced(argument, found))
            made.append(argument)
        return made

    def values(self) -> Values:
        """Return what is known of all values after the pass."""
        tensors = [tensor for tensor, _ in self._known.values()]
        numbers = {id(tensor): number for number, tensor in enumerate(tensors)}
        names = {numbers[at]: name for at, name in self._named.items() if at in numbers}
        others = (number for number, tensor in enumerate(tensors) if type(tensor) is not Tensor)
        parameters = {number for number in others if isinstance(tensors[number], nn.Parameter)}
        constants = {*self._outside} - names.keys() - parameters
        data = {n: tensors[n] for n in constants if not tensors[n].is_meta}
        memories = [memory_of(tensor) for tensor in tensors]
        uses = Counter(memories)
        layouts = {n: _layout(tensors[n]) for n, one in enumerate(memories) if uses[one] > 1}
        return Values(names, frozenset(parameters - names.keys()), data, memories, layouts)


def memory_of(tensor: Tensor) -> int:
    """Return a key of a tensor's storage; tensors without one (sparse) have a key of their own."""
    if tensor.layout is not torch.strided:
        return -id(tensor)
    return int(tensor.untyped_storage()._cdata)


def _place(tensor: Tensor) -> Any:
    """Return a key that is equal for tensors with the same elements of one storage in one order."""
    memory, dense = memory_of(tensor), tensor.layout is torch.strided
    return memory, tensor.dtype, tensor.shape, _layout(tensor) if dense else None


def _layout(tensor: Tensor) -> Layout:
    return int(tensor.storage_offset()), tensor.stride()
