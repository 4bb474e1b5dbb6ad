"""Residual streams whose layers have widths of their own (``residual="crop"``).

Where blocks add to a common tensor, the *stream*, all layers that write to it or read from it would
share one width. Here each keeps its own: a writer's output is padded with zero channels to the
stream's width, a reader takes the stream's leading channels. Both happen in hooks around the
layer, so that the blocks' own forward and the names in the state_dict stay as they are.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

End = Literal["read", "write"]


@dataclass(frozen=True)
class Stream:
    """One end of a layer at a residual stream.

    Attributes:
        path: the module that reads or writes.
        end: which of both.
        dim: the channel axis of what is read or written.
        width: channels of the stream.
        sources: of a reader the writers before it, by path; none where it may read more than those.
    """

    path: str
    end: End
    dim: int
    width: int
    sources: tuple[str, ...] = ()


@dataclass
class Narrow:
    """A forward pre-hook: the module gets the first ``size`` channels of its input."""

    dim: int
    size: int

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The module's arguments with the first one narrowed."""
        return (args[0].narrow(self.dim, 0, self.size), *args[1:])


@dataclass
class Pad:
    """A forward hook: the module's output gets zero channels behind its own, up to ``size``."""

    dim: int
    size: int

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The output with zeros behind its channels."""
        return _padded(output, self.dim, self.size)


@dataclass
class TracedNarrow(Narrow):
    """As `Narrow`, by an operation that a trace shows under its own name."""

    path: str

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, the first one's leading channels as a tensor of their own."""
        x, *others = args
        return (torch.ops.precrop.stream_read(x, self.dim, self.size, self.path), *others)


@dataclass
class TracedPad(Pad):
    """As `Pad`, by an operation that a trace shows under its own name."""

    path: str

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The output with zeros behind its channels."""
        made: Tensor = torch.ops.precrop.stream_write(output, self.dim, self.size, self.path)
        return made


def install(model: nn.Module, streams: Iterable[Stream], *, traced: bool) -> None:
    """Put hooks around a network's layers, at the streams' full width.

    Each hook is also the module's attribute ``stream_read`` or ``stream_write``. Those of a network
    that is not only ``traced`` are plain operations, which export and compile.
    """
    for stream in streams:
        module, dim, width = model.get_submodule(stream.path), stream.dim, stream.width
        hook: Narrow | Pad
        if stream.end == "read":
            hook = TracedNarrow(dim, width, stream.path) if traced else Narrow(dim, width)
            module.register_forward_pre_hook(hook)
        else:
            hook = TracedPad(dim, width, stream.path) if traced else Pad(dim, width)
            module.register_forward_hook(hook)
        setattr(module, f"stream_{stream.end}", hook)


def _padded(x: Tensor, dim: int, size: int) -> Tensor:
    missing = size - x.shape[dim]
    return nn.functional.pad(x, [0, 0] * (x.dim() - 1 - dim) + [0, missing])


@torch.library.custom_op("precrop::stream_read", mutates_args=())
def _stream_read(x: Tensor, dim: int, size: int, path: str) -> Tensor:
    return x.narrow(dim, 0, size).clone()


@torch.library.custom_op("precrop::stream_write", mutates_args=())
def _stream_write(x: Tensor, dim: int, size: int, path: str) -> Tensor:
    return _padded(x, dim, size).clone()


def resized(x: Tensor, dim: int, size: int) -> Tensor:
    """An empty tensor with another size along one axis."""
    return x.new_empty([size if axis == dim else n for axis, n in enumerate(x.shape)])


@_stream_read.register_fake
def _narrowed(x: Tensor, dim: int, size: int, path: str) -> Tensor:
    # What a built network would fail on must fail here, where only sizes are known.
    if size > x.shape[dim]:
        raise RuntimeError(f"{path} reads {size} of {x.shape[dim]} channels")
    return resized(x, dim, size)


@_stream_write.register_fake
def _widened(x: Tensor, dim: int, size: int, path: str) -> Tensor:
    return resized(x, dim, size)
