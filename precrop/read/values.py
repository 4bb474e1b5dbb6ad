"""The tensors that a forward pass meets, as numbers: no trace keeps a tensor to know it again."""

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
"""Where in its memory a value's elements lie: the offset, and the strides."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorValue:
    """A tensor of a pass, as it was when a call took or made it.

    Tensors are numbered in the order in which the pass meets them. One that is changed in place
    keeps its number, whatever its shape is then; a view has a number of its own.
    """

    number: int
    shape: Shape
    dtype: torch.dtype

    def dim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def numel(self) -> int:
        """The number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Values:
    """What is known of a pass's values beside their sizes, by number.

    Attributes:
        names: of parameters, buffers and plain tensors of the network.
        unregistered: parameters that are not part of the network.
        data: tensors with numbers that no call made and that are not part of the network: inputs
            and constants. A replay computes with them, so these alone are kept.
        memories: of every value, at the end of the pass; a view has that of what it is a view of.
        layouts: of those in one memory.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    unregistered: frozenset[int] = frozenset()
    data: Mapping[int, Tensor] = field(default_factory=dict)
    memories: Sequence[int] = ()
    layouts: Mapping[int, Layout] = field(default_factory=dict)


# Of most arguments: neither tensors nor lists.
_PLAIN = frozenset((NoneType, bool, int, float, str, torch.dtype, torch.device))


def run_of(tensor: Tensor) -> tuple[int, int] | None:
    """The least and one more than the largest, if a vector has all integers between in any order.

    Not of a single one, which is any number.
    """
    if tensor.is_meta or tensor.dim() != 1 or tensor.dtype not in (torch.int64, torch.int32):
        return None
    values = sorted(tensor.tolist())
    if len(values) < 2 or values[0] < 0 or values != [*range(values[0], values[-1] + 1)]:
        return None
    return values[0], values[-1] + 1


class Numbering:
    """Numbers the tensors of a pass that ran; it holds them, so that their ids are unique.

    No call makes the tensor of another class that ``as_subclass`` gives: it has the number of the
    tensor whose elements it has.

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
        """The value of a tensor, if a call took or made it."""
        known = self._known.get(id(tensor)) or self._guises.get(id(tensor))
        return None if known is None else known[1]

    def given(self, tensor: Tensor) -> TensorValue:
        """The value of a tensor that a call takes, or the network."""
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
        """The last value that has the same elements in the same memory."""
        new = islice(self._known.values(), self._placed, None)  # few tensors are looked for
        self._places |= {_place(one): value.number for one, value in new}
        self._placed = len(self._known)
        return self._places.get(_place(tensor))

    def made(self, tensor: Tensor, shape: Shape) -> TensorValue:
        """The value of a tensor that a call returned with a shape."""
        table = self._guises if id(tensor) in self._guises else self._known
        known = table.get(id(tensor))
        if known is not None and known[1].shape == shape:
            return known[1]
        number = len(self._known) if known is None else known[1].number
        value = TensorValue(number, shape, tensor.dtype)
        table[id(tensor)] = tensor, value
        return value

    def replaced(self, arguments: Iterable[Any], found: list[TensorValue]) -> list[Any]:
        """A call's arguments with values in place of tensors, which are added to those found."""
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
        """What is to be known of the values after the pass."""
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
    """What tells the memory of a tensor from others; only a dense one can share it."""
    if tensor.layout is not torch.strided:
        return -id(tensor)
    return int(tensor.untyped_storage()._cdata)


def _place(tensor: Tensor) -> Any:
    """Equal where tensors of one memory have the same elements in the same order."""
    memory, dense = memory_of(tensor), tensor.layout is torch.strided
    return memory, tensor.dtype, tensor.shape, _layout(tensor) if dense else None


def _layout(tensor: Tensor) -> Layout:
    return int(tensor.storage_offset()), tensor.stride()
