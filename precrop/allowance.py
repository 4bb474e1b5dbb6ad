"""Bounds on the memory and time of building a network that a file names.

A builder's arguments multiply in many ways: widths, repeats, tables of all pairs of pixels. So the
builder's operations are counted instead of guessing what its arguments mean.
"""

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from types import FrameType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_TOO_LARGE = "it is far larger than the network that the file is of, or than this machine's memory"
_SPARE, _BELIEVED, _NUMBER = 2**26, 2**30, 4
"""Bytes allowed from the start for any network, at most for the shapes that a file states, and per
number. Some networks are run or pruned while they are built, before most of their tensors exist.
"""
_TIMES = 4
"""How many numbers are allowed for each number in the network."""
_ANY_CALLS, _SPARE_CALLS, _TENSOR_CALLS = 2**25, 2**24, 2**14
"""Function calls allowed without stated shapes, with them, and more per tensor of such a shape."""
_COUNTED = {"c_call": 1, "call": 3}
"""What a call of a C function and of a Python one counts as, by the time that they take."""
_OPERATION = 2**8
"""What an operation counts as besides, for the time that its run on meta tensors takes."""
_SMALLEST = 2**10
"""How many times smaller than the original a cropped network may be."""


class _Held(NamedTuple):
    """Memory that was allocated while the network is built, perhaps only temporarily."""

    storage: StorageWeakRef
    numbers: int
    bytes: int


class Allowance(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises `MemoryError` in the building of a network before it takes too much memory or time.

    Args:
        like: the shapes that the network's tensors should have. Each allows for more only while
            there is a tensor of its size, so a file gains little by stating a large network.
        weights: size in bytes of the file of weights for the network, or for a cropped one.
    """

    def __init__(
        self, like: Mapping[str, Sequence[int]] | None = None, weights: int | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._like = Counter(map(prod, (like or {}).values()))
        self._unseen = self._like.copy()
        self._most = _half_memory()
        if weights is not None:
            self._most = min(self._most, _SPARE + _SMALLEST * weights)
        said = _TIMES * _NUMBER * sum(size * often for size, often in self._like.items())
        self._spare = self._most if like is None else _SPARE + min(said, _BELIEVED)
        self._calls = _ANY_CALLS if like is None else _SPARE_CALLS
        self._counts = False
        self._held: list[_Held] = []
        self._begin()

    def _begin(self) -> None:
        """Count anew the memory that is still held."""
        self._due, self._taken, self._allowed = self._like.copy(), 0, self._spare
        held, self._held = self._held, []
        for each in held:
            if not each.storage.expired():  # type: ignore[no-untyped-call]
                self._hold(each)

    def _hold(self, held: _Held) -> None:
        self._held.append(held)
        self._taken += held.bytes
        self._allowed += self._earned(held.numbers)
        self._due[held.numbers] -= 1

    def _earned(self, numbers: int) -> int:
        """Return the bytes allowed for a tensor of so many numbers: none unless one is expected."""
        return _TIMES * _NUMBER * numbers if self._due[numbers] > 0 else 0

    def __enter__(self) -> Self:
        """Start counting, calls only if no other profiler is running."""
        self._counts = sys.getprofile() is None
        if self._counts:
            sys.setprofile(self._call)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        """Stop counting."""
        if self._counts:
            sys.setprofile(None)
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _call(self, frame: FrameType, event: str, argument: object) -> None:
        self._count(_COUNTED.get(event, 0))

    def _count(self, calls: int) -> None:
        self._calls -= calls
        if self._calls < 0:  # every operation raises it again, in case a builder catches it
            raise MemoryError(_TOO_LARGE)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the bytes of an operation's outputs by running it on meta tensors first."""
        kwargs = kwargs or {}
        if func.is_view or func._schema.is_mutable or _is_on_meta(args, kwargs):
            return func(*args, **kwargs)
        self._count(_OPERATION)
        made = None
        try:
            seen = _on_meta(func, args, kwargs)
        except Exception:  # any kind, where the result depends on values
            made = seen = func(*args, **kwargs)
        needed = [(each.numel(), each.numel() * each.element_size()) for each in _tensors(seen)]
        if not self._has_room(needed):
            self._begin()
            if not self._has_room(needed):
                raise MemoryError(_TOO_LARGE)
        if made is None:
            made = func(*args, **kwargs)
        for tensor, sizes in zip(_tensors(made), needed, strict=True):
            if self._unseen[sizes[0]] > 0:
                self._unseen[sizes[0]] -= 1
                self._calls += _TENSOR_CALLS
            self._hold(_Held(StorageWeakRef(tensor.untyped_storage()), *sizes))  # type: ignore[no-untyped-call]
        return made

    def _has_room(self, needed: Sequence[tuple[int, int]]) -> bool:
        taken = self._taken + sum(size for _, size in needed)
        return taken <= min(
            self._most, self._allowed + sum(self._earned(numbers) for numbers, _ in needed)
        )


def _tensors(made: Any) -> list[Tensor]:
    """Return the strided tensors among an operation's outputs."""
    leaves = tree_leaves(made)
    return [x for x in leaves if isinstance(x, Tensor) and x.layout == torch.strided]


def _is_on_meta(args: Any, kwargs: Any) -> bool:
    """Return whether an operation runs on the meta device, where it takes no memory."""
    given = tree_leaves((args, kwargs))
    return any(isinstance(each, Tensor) and each.is_meta for each in given) or (
        getattr(kwargs.get("device"), "type", "") == "meta"
    )


def _on_meta(func: Any, args: Any, kwargs: Any) -> Any:
    """Return an operation's outputs on the meta device, without values."""

    def empty(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    args, kwargs = tree_map_only(Tensor, empty, (args, kwargs))
    if any(argument.name == "device" for argument in func._schema.arguments):
        kwargs = {**kwargs, "device": "meta"}
    return func(*args, **kwargs)


def _half_memory() -> int:
    """Return half of this machine's memory in bytes, which no network may exceed."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # unknown on this system
        return sys.maxsize
