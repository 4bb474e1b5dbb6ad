"""Lets the layers at a residual stream have widths of their own (``residual="crop"``).

If blocks add to a common tensor, the *stream*, all layers that write to it or read from it would
have to share one width. Here each has its own: a writer's output is padded with zero channels to
the stream's width, and a reader takes the stream's leading channels. Both happen in hooks around
the layer, so the blocks' own forward and the names in the state_dict stay as they are.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from precrop.modules.names import modules_of

End = Literal["read", "write"]
At = tuple[int | str, ...]
"""Where a tensor is: the position or name of an argument, then indices or keys into containers.

A module's output counts as one argument, at position 0.
"""
FIRST: At = (0,)
_Change = Callable[[Tensor, int, int], Tensor]
"""Changes a tensor's size along one axis."""
DEEPEST = 4
"""Tensors that are nested more deeply in an argument or output are not looked for."""


@dataclass(frozen=True)
class Stream:
    """One end of a layer, its input or output, at a residual stream.

    Attributes:
        path: the module that reads or writes.
        end: whether it reads or writes.
        dim: the channel axis of what is read or written.
        width: channels of the stream; for a reader, the most that it may take.
        sources: for a reader, the paths of the writers before it; empty if it may read others, too.
        places: where the stream's tensors are among the arguments, or in the output; if empty, the
            first argument, or the output as a whole.
    """

    path: str
    end: End
    dim: int
    width: int
    sources: tuple[str, ...] = ()
    places: tuple[At, ...] = ()


Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""The positional and keyword arguments of a module's call."""


@dataclass
class Narrow:
    """A forward pre-hook that passes the module the first ``size`` channels of what it reads.

    If ``path`` is given, it does so by an operation that has its own name in traces.
    """

    dim: int
    size: int
    places: tuple[At, ...] = (FIRST,)
    sources: tuple[str, ...] = ()
    path: str | None = None

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments:
        """Return the module's arguments, with the stream's tensors narrowed."""
        given = given_to(args, kwargs)
        for at in self.places:
            given = _changed(given, at, self.narrowed)
        return tuple(given[index] for index in range(len(args))), {k: given[k] for k in kwargs}

    def narrowed(self, x: Tensor) -> Tensor:
        """Return the leading channels of a tensor."""
        if self.path is None:
            return _narrowed(x, self.dim, self.size)
        made: Tensor = torch.ops.precrop.stream_read(x, self.dim, self.size, self.path)
        return made


@dataclass
class Pad:
    """A forward hook that pads what the module writes with zero channels, up to ``size``.

    ``path`` is as in `Narrow`.
    """

    dim: int
    size: int
    places: tuple[At, ...] = (FIRST,)
    path: str | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Return the output, with the stream's tensors padded."""
        given = [output]
        for at in self.places:
            given = _changed(given, at, self.padded)
        return given[0]

    def padded(self, x: Tensor) -> Tensor:
        """Return a tensor with zeros behind its channels."""
        if self.path is None:
            return _padded(x, self.dim, self.size)
        made: Tensor = torch.ops.precrop.stream_write(x, self.dim, self.size, self.path)
        return made


def install(model: nn.Module, streams: Iterable[Stream], *, traced: bool) -> None:
    """Put hooks around a network's layers, at the streams' full width.

    Each hook is also stored as the module's attribute ``stream_read`` or ``stream_write``. Unless
    the network is only ``traced``, they use plain operations, which can be exported and compiled.
    """
    for stream in streams:
        module = model.get_submodule(stream.path)
        places, path = stream.places or (FIRST,), stream.path if traced else None
        hook: Narrow | Pad
        hooks: dict[int, Any]
        if stream.end == "read":
            hook = Narrow(stream.dim, stream.width, places, stream.sources, path)
            hooks = module._forward_pre_hooks
        else:
            hook, hooks = Pad(stream.dim, stream.width, places, path), module._forward_hooks
        before = vars(module).get(f"stream_{stream.end}")
        known = [key for key, one in hooks.items() if one is before]
        if known:
            hooks.update(dict.fromkeys(known, hook))
        elif stream.end == "read":
            # Before the module's own hooks, which may replace the arguments.
            module.register_forward_pre_hook(hook, prepend=True, with_kwargs=True)
        else:
            module.register_forward_hook(hook)
        setattr(module, f"stream_{stream.end}", hook)


def installed(model: nn.Module) -> Iterator[Stream]:
    """Yield the ends of layers that have hooks, in a network that was built with them."""
    for path, module in modules_of(model).items():
        for end in get_args(End):
            hook = vars(module).get(f"stream_{end}")
            if isinstance(hook, Narrow | Pad):
                sources = hook.sources if isinstance(hook, Narrow) else ()
                yield Stream(path, end, hook.dim, hook.size, sources, hook.places)


def given_to(args: Iterable[Any], kwargs: Mapping[str, Any]) -> dict[int | str, Any]:
    """Return the arguments of a call, each by its position or its name."""
    return dict([*enumerate(args), *kwargs.items()])


def tensors_at(value: Any, at: At = ()) -> Iterator[tuple[At, Tensor]]:
    """Yield the tensors in plain lists, tuples and dicts, each with its place."""
    if isinstance(value, Tensor):
        yield at, value
    elif len(at) < DEEPEST and type(value) in (list, tuple, dict):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            if type(key) in (int, str):
                yield from tensors_at(part, (*at, key))


def _changed(value: Any, at: Sequence[Any], change: Callable[[Tensor], Tensor]) -> Any:
    """Return a copy of a container with the tensor at one place changed."""
    if not at:
        return change(value)
    made = {**value} if isinstance(value, dict) else [*value]
    made[at[0]] = _changed(value[at[0]], at[1:], change)
    return tuple(made) if isinstance(value, tuple) else made


def resized(x: Tensor, dim: int, size: int) -> Tensor:
    """Return an empty tensor with another size along one axis."""
    return x.new_empty([size if axis == dim else n for axis, n in enumerate(x.shape)])


def _narrowed(x: Tensor, dim: int, size: int) -> Tensor:
    return x.narrow(dim, 0, size)


def _padded(x: Tensor, dim: int, size: int) -> Tensor:
    missing = size - x.shape[dim]
    return nn.functional.pad(x, [0, 0] * (x.dim() - 1 - dim) + [0, missing])


def _add_operation(name: str, change: _Change, back: _Change) -> None:
    """Register a change of width as an operation named in traces; its gradient reverses it."""

    def compute(x: Tensor, dim: int, size: int, path: str) -> Tensor:
        return change(x, dim, size).clone()

    def shaped(x: Tensor, dim: int, size: int, path: str) -> Tensor:
        # Fail where a built network would; here, on fake tensors, only sizes are known.
        if change is _narrowed and size > x.shape[dim]:
            raise RuntimeError(f"{path} reads {size} of {x.shape[dim]} channels")
        return resized(x, dim, size)

    def note(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.dim, ctx.width = inputs[1], inputs[0].shape[inputs[1]]

    operation = torch.library.custom_op(f"precrop::{name}", compute, mutates_args=())
    operation.register_fake(shaped)
    operation.register_autograd(
        lambda ctx, grad: (back(grad, ctx.dim, ctx.width), None, None, None), setup_context=note
    )


_add_operation("stream_read", _narrowed, _padded)
_add_operation("stream_write", _padded, _narrowed)
