"""Lets a computation draw random numbers from generators of its own, not from the process'."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from precrop.forking import WithinAny

aten = torch.ops.aten

# By overload of a random operation, the overload that takes a generator.
_VARIANTS = {
    "default": "generator",
    "low": "low_generator",
    "Tensor": "Tensor_generator",
    "low_dtype": "low_generator_dtype",
}


@functools.cache
def drawing(op: Any) -> Any:
    """Return the form of a random operation that takes a generator; None if there is none."""
    if op is aten.native_dropout.default:
        return _dropped
    if torch.Tag.nondeterministic_seeded not in op.tags:
        return None
    if any(argument.name == "generator" for argument in op._schema.arguments):
        return op
    return getattr(op.overloadpacket, _VARIANTS.get(op._overloadname, ""), None)


def drawn(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any], generator: Generator) -> Any:
    """Run an operation, with random numbers from ``generator`` unless the call names another."""
    own = drawing(op)
    if own is None or kwargs.get("generator") is not None:
        return op(*args, **kwargs)
    return own(*args, **{**kwargs, "generator": generator})


def _dropped(x: Tensor, p: float, train: bool | None, *, generator: Generator) -> Any:
    """Compute dropout and its mask; PyTorch's own operation takes no generator."""
    if train is False or p == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    mask = torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - p, generator=generator)
    return x * mask * (1 / (1 - p) if p < 1 else 0.0), mask


def _own_generator() -> Generator | None:
    """Return this thread's own generator, if any: ``random`` of the innermost mode with one."""
    modes = reversed(_get_current_dispatch_mode_stack())
    found = (getattr(mode, "random", None) for mode in modes)
    return next((one for one in found if isinstance(one, Generator)), None)


class _Generator:
    """The generator that PyTorch's functions seed and save: the process', or a thread's own."""

    def __getattr__(self, name: str) -> Any:
        own = _own_generator()
        if own is None:
            return getattr(torch.default_generator, name)
        return getattr(own, "initial_seed" if name == "seed" else name)  # must be repeatable


def _unless_apart(seed: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function that seeds another device to do nothing in threads with own generators."""

    @functools.wraps(seed)
    def seeded(*args: Any, **kwargs: Any) -> Any:
        return seed(*args, **kwargs) if _own_generator() is None else None

    return seeded


def _others() -> Iterator[tuple[Any, str, Any]]:
    """Yield what seeds PyTorch's generators, as modules and attributes, and its replacements."""
    yield torch.random, "default_generator", _Generator()
    for device in (torch.cuda, torch.mps, torch.xpu, torch.mtia):
        for name in ("manual_seed", "manual_seed_all", "seed", "seed_all"):
            if hasattr(device, name):
                yield device, name, _unless_apart(getattr(device, name))


@WithinAny
@contextmanager
def own_seeds() -> Iterator[None]:
    """Within the context, seeding PyTorch only seeds the thread's own generator, if it has one.

    For threads that draw from the process' generators nothing changes. Restoring those afterwards
    instead would make other threads, which draw from them meanwhile, repeat numbers.
    """
    with ExitStack() as back:
        for owner, name, other in _others():
            back.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, other)
        yield


class OwnNumbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Draws all random numbers from generators of its own, one for each device."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generators: dict[torch.device, Generator] = {}
        self.seed = seed

    def restart(self) -> None:
        """Draw the same numbers again."""
        self.generators.clear()

    @property
    def random(self) -> Generator:
        """The CPU's generator, which a network may seed."""
        return self.generator(torch.device("cpu"))

    def generator(self, device: torch.device) -> Generator:
        """Return the generator of a device."""
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
