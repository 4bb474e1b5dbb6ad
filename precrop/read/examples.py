"""Example inputs of a network: tensors in containers of any kind, and records of them."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from precrop.errors import MALFORMED, PrecropError, brief

_STORED = 64
"""The largest integer tensor whose values are all recorded; of a larger one it is one value."""
LARGEST = 2**62
"""Most elements of one input."""
_FLOATS = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
_WHOLE = ("bool", "uint8", "int8", "int16", "int32", "int64")
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in (*_FLOATS, *_WHOLE)}


@dataclass(frozen=True)
class Example:
    """A tensor that the network takes.

    Attributes:
        shape: the shape of the tensor as it was given.
        dtype: its type; None stands for the network's own floating type.
        batch: its batch axis; None if it has none.
        values: the tensor itself, on the CPU, or the number that it is filled with.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    batch: int | None
    values: Tensor | complex

    @classmethod
    def of(cls, tensor: Tensor) -> "Example":
        """Make an example of a tensor; its batch axis is found later."""
        values: Tensor | complex = 1
        if tensor.layout == torch.strided and not tensor.is_meta:
            values = tensor.detach().to("cpu", copy=True)
        return cls(tuple(tensor.shape), tensor.dtype, None, values)

    def make(self, batch: int, device: str, dtype: torch.dtype) -> Tensor:
        """Return a tensor of ``batch`` inputs, repeating those of the example.

        ``dtype`` is the network's own floating type.
        """
        tensor = self.values
        if not isinstance(tensor, Tensor):
            tensor = torch.full(self.shape, tensor, dtype=self.dtype or dtype, device=device)
        if self.batch is not None:
            rows = torch.arange(batch) % self.shape[self.batch]
            tensor = tensor.index_select(self.batch, rows.to(tensor.device))
        return tensor.to(device, copy=True)

    @property
    def spec(self) -> dict[str, Any]:
        """Shape, type and batch axis; all values of a small integer tensor, else one value."""
        name = str(self.dtype).removeprefix("torch.")
        return {"shape": self.shape, "dtype": name, "batch": self.batch, "values": self._stored()}

    def _stored(self) -> Any:
        """Return values to run the network with again: of many, the least id or any set flag."""
        values = self.values
        if not isinstance(values, Tensor):
            return values
        if values.is_floating_point() or values.is_complex() or not values.numel():
            return 1
        if values.numel() <= _STORED:
            return tuple(values.flatten().tolist())
        return bool(values.any()) if values.dtype == torch.bool else int(values.min())

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> "Example":
        """Make an example of its `spec`.

        Raises:
            PrecropError: this is not such a record.
        """
        try:
            dtype, batch, values = DTYPES[spec["dtype"]], spec["batch"], spec["values"]
            shape = tuple(int(n) for n in spec["shape"])
            if isinstance(values, tuple | list):
                values = torch.tensor(values, dtype=dtype).reshape(shape)
            elif not isinstance(values, bool | int | float):
                raise TypeError(values)
            if min(shape, default=0) < 0 or prod(shape) > LARGEST:
                raise ValueError(shape)
            if batch is not None and not (0 <= batch < len(shape) and shape[batch]):
                raise ValueError(batch)
            return cls(shape, dtype, batch, values)
        except MALFORMED as error:
            raise PrecropError(f"this is not a record of an input: {brief(spec)}") from error


def _is_fields(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type | Example)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return ``value`` with the leaves of its lists, tuples, mappings and dataclasses changed."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(one, change) for one in value))
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        changed = [mapped(one, change) for one in value]
        return tuple(changed) if isinstance(value, tuple) else changed
    if isinstance(value, Mapping):
        entries = {name: mapped(one, change) for name, one in value.items()}
        return entries if type(value) is dict else _like(value, entries)
    if _is_fields(value):
        made = copy.copy(value)
        for name, one in vars(value).items():
            object.__setattr__(made, name, mapped(one, change))
        return made
    return change(value)


def _like(mapping: Mapping[Any, Any], entries: dict[Any, Any]) -> Any:
    """Return a mapping of the same class (a tokenizer's batch), or a dict if that is impossible."""
    try:
        made: Any = copy.copy(mapping)
        for name, one in entries.items():
            made[name] = one
    except Exception:  # the mapping's class may raise anything
        return entries
    return made


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in arguments, in order."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]


def leaves(value: Any) -> Iterator[Any]:
    """Yield the leaves that `mapped` changes, in order."""
    found: list[Any] = []
    mapped(value, found.append)
    yield from found


class Record(dict[str, Any]):
    """A mapping read from a file; its entries are attributes, too, as its class is not recorded."""

    def __getattr__(self, name: str) -> Any:
        """Return an entry."""
        if name.startswith("__") or name not in self:
            raise AttributeError(name)
        return self[name]


def recorded(value: Any) -> Any:
    """Return the record of an argument in a plan file: pairs of a kind and its content."""
    if isinstance(value, Example):
        return ("tensor", value.spec)
    if _is_fields(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return ("dict", tuple((str(name), recorded(one)) for name, one in value.items()))
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return (kind, tuple(map(recorded, value)))
    if value is None or isinstance(value, bool | int | float | str):
        return ("value", value)
    return ("unknown", type(value).__qualname__)


def unrecorded(record: Any) -> Any:
    """Make an argument of its record (the inverse of `recorded`)."""
    kind, content = record
    if kind == "tensor":
        return Example.from_spec(content)
    if kind == "dict":
        return Record({name: unrecorded(one) for name, one in content})
    if kind in ("tuple", "list"):
        parts = [unrecorded(one) for one in content]
        return tuple(parts) if kind == "tuple" else parts
    if kind == "value" and (content is None or isinstance(content, bool | int | float | str)):
        return content
    raise PrecropError(
        f"the plan does not record an input of type {brief(content)}: give the inputs again"
    )
