"""Modules that no pass called, and whether other inputs may call them.

An unused module follows a similar one beside it that was called: an expert that the example did not
choose gets the widths of those that it did. Other unused modules keep their sizes. If values decide
what runs, or train mode could not be read, other inputs may call them, so widths that they might
meet are frozen, too.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

import torch
from torch import nn

from precrop.modules.copying import submodule
from precrop.modules.names import buffers_of, modules_of, parameters_of
from precrop.read.trace import Answer, Trace


@dataclass(frozen=True)
class Unused:
    """The modules that no pass called.

    Attributes:
        modules: their paths, each with its number of parameters.
        followers: those that get the widths of a sibling, each with the sibling's path.
        routed: whether other inputs may run the others, since values decide what runs or train mode
            was not read.
    """

    modules: Mapping[str, int] = field(default_factory=dict)
    followers: Mapping[str, str] = field(default_factory=dict)
    routed: bool = False


def unused_modules(model: nn.Module, used: Set[str]) -> dict[str, int]:
    """Return the outermost modules none of whose parameters is used, with their parameter counts.

    ``used`` are the names of the parameters that some operation read.
    """
    unused = {id(p) for name, p in parameters_of(model).items() if name not in used}
    found: dict[str, int] = {}
    for path, module in modules_of(model).items() if unused else ():
        if not path or any(path.startswith(f"{outer}.") for outer in found):
            continue
        parameters = list(parameters_of(module).values())
        if parameters and all(id(p) in unused for p in parameters):
            found[path] = sum(p.numel() for p in parameters)
    return found


def siblings(model: nn.Module, unused: Iterable[str], used: Set[str]) -> dict[str, str]:
    """Return, for unused modules, the nearest used child of the same parent that is alike.

    Alike are modules of equal class and shapes, in a list of experts or a block of two branches.
    """
    found = {}
    for path in unused:
        parent, _, name = path.rpartition(".")
        children = dict(submodule(model, parent).named_children())
        order, kind, shapes = list(children), type(children[name]), _shapes(children[name])
        for other in sorted(order, key=lambda one: abs(order.index(one) - order.index(name))):
            twin = f"{parent}.{other}" if parent else other
            alike = type(children[other]) is kind and _shapes(children[other]) == shapes
            if alike and any(f"{twin}.{inner}" in used for inner in shapes):
                found[path] = twin
                break
    return found


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Return the shapes of all parameters and buffers of a module."""
    tensors = parameters_of(module) | buffers_of(module)
    return {name: tensor.shape for name, tensor in tensors.items()}


def other_answers(answers: Sequence[Answer]) -> list[list[Answer]]:
    """Return lists of answers with which code that branches on the given ones takes other paths.

    Booleans are negated. Floats move beyond any usual threshold, above it in the first list, below
    it in the second (not far, as a loop may count up to one). Integers become 0 (1 if they were) in
    the first list, and grow by 1 in the second.
    """
    if not answers:
        return []
    ways = (1,) if all(type(answer) is bool for answer in answers) else (1, -1)
    return [[_other(answer, way) for answer in answers] for way in ways]


_BEYOND = 8.0
"""The most by which a threshold is expected to differ from the value compared with it."""


def _other(answer: Answer, way: int) -> Answer:
    if isinstance(answer, bool):
        return not answer
    if isinstance(answer, int):
        return answer + 1 if way < 0 else int(answer == 0)
    return way * (abs(answer) + _BEYOND)


def frames_that_hold(trace: Trace, path: str) -> Iterator[int]:
    """Yield the frames of the innermost module around ``path`` that ran, and of its children."""
    paths = {frame.path for frame in trace.frames} | {""}
    parent = path
    while parent and (parent == path or parent not in paths):
        parent = parent.rpartition(".")[0]
    for index, frame in enumerate(trace.frames):
        outer = trace.frames[frame.parent].path if frame.parent >= 0 else ""
        if parent in (frame.path, outer):
            yield index
    if not parent:
        yield -1


def widths_of(module: nn.Module) -> set[int]:
    """Return the numbers of input and output channels of a module's weights."""
    return {n for p in parameters_of(module).values() if p.dim() > 1 for n in p.shape[:2] if n > 1}


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def leave_out(model: nn.Module, paths: Iterable[str]) -> None:
    """Replace modules by ones without weights, as code may still read the attributes."""
    for path in sorted(paths, reverse=True):  # inner modules first
        parent, _, name = path.rpartition(".")
        modules = model.get_submodule(parent)._modules
        kind = next((k for k in _CONTAINERS if isinstance(modules[name], k)), nn.Identity)
        modules[name] = kind()
