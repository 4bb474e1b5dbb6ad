"""Random numbers of one's own: a computation that draws none from the generators of the process."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

# Operations with a variant, by its name, that takes a generator.
_VARIANTS = {
    "default": "generator",
    "low": "low_generator",
    "Tensor": "Tensor_generator",
    "low_dtype": "low_generator_dtype",
}


@functools.cache
def drawing(op: Any) -> Any:
    """What draws the numbers of an operation from a generator that it is given; None if none."""
    if op is aten.native_dropout.default:
        return _dropped
    if torch.Tag.nondeterministic_seeded not in op.tags:
        return None
    if any(argument.name == "generator" for argument in op._schema.arguments):
        return op
    return getattr(op.overloadpacket, _VARIANTS.get(op._overloadname, ""), None)


def drawn(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any], generator: Generator) -> Any:
    """The operation's result; random numbers come from ``generator`` if the call names no other."""
    own = drawing(op)
    if own is None or kwargs.get("generator") is not None:
        return op(*args, **kwargs)
    return own(*args, **{**kwargs, "generator": generator})


def _dropped(x: Tensor, p: float, train: bool | None, *, generator: Generator) -> Any:
    """Dropout and its mask; PyTorch's own operation takes no generator."""
    if train is False or p == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    mask = torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - p, generator=generator)
    return x * mask * (1 / (1 - p) if p < 1 else 0.0), mask


class OwnNumbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Draws all random numbers from generators of its own, one for each kind of device."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generators: dict[torch.device, Generator] = {}
        self.seed = seed

    def restart(self) -> None:
        """Draw the same numbers again."""
        self.generators.clear()

    def generator(self, device: torch.device) -> Generator:
        """The numbers of a device."""
        if device not in self.generators:
            self.generators[device] = Generator(device).manual_seed(self.seed)
        return self.generators[device]

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if drawing(op) is None:
            return op(*args, **kwargs)
        device = kwargs.get("device")
        if device is None:
            device = next((a.device for a in args if isinstance(a, Tensor)), torch.device("cpu"))
        return drawn(op, args, kwargs, self.generator(torch.device(device)))
