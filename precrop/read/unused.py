"""What no pass called: modules whose weights no operation read, and what may call them after all.

A module that no pass called follows a sibling that one did: an expert that the example did not
choose has the widths of the experts that it did. Others keep their sizes. Where a value decides
what runs, or train mode could not be read, other inputs may run them, so that the widths that meet
there keep their sizes too.
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
    """What no pass called.

    Attributes:
        modules: with weights, by path, and how many numbers each holds.
        followers: those whose widths are those of a sibling, and which.
        routed: whether other inputs may run the others, since values decide what runs, or since
            train mode was not read.
    """

    modules: Mapping[str, int] = field(default_factory=dict)
    followers: Mapping[str, str] = field(default_factory=dict)
    routed: bool = False


def unused_modules(model: nn.Module, used: Set[str]) -> dict[str, int]:
    """The outermost modules with weights of which none is used, and how many numbers they hold.

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
    """Per unused module the nearest one in the same place of equal class and shapes that is used.

    A place is what holds both of them: a list of experts, a block with two branches.
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
    """Shapes of everything that a module holds."""
    tensors = parameters_of(module) | buffers_of(module)
    return {name: tensor.shape for name, tensor in tensors.items()}


def other_answers(answers: Sequence[Answer]) -> list[list[Answer]]:
    """Answers for which code that branches on the given ones takes other ways.

    Every truth value is the other one; every fraction lies beyond any usual threshold, first above
    and then below it. (They are no larger than that: a loop may count up to one.) Every whole
    number is 0, or 1 for 0, and then one more.
    """
    if not answers:
        return []
    ways = (1,) if all(type(answer) is bool for answer in answers) else (1, -1)
    return [[_other(answer, way) for answer in answers] for way in ways]


_BEYOND = 8.0
"""How far a threshold is at most from what is compared with it."""


def _other(answer: Answer, way: int) -> Answer:
    if isinstance(answer, bool):
        return not answer
    if isinstance(answer, int):
        return answer + 1 if way < 0 else int(answer == 0)
    return way * (abs(answer) + _BEYOND)


def frames_that_hold(trace: Trace, path: str) -> Iterator[int]:
    """Frames of the innermost module around ``path`` that ran, and of its children."""
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
    """Numbers of channels that a module's weights have at either end."""
    return {n for p in parameters_of(module).values() if p.dim() > 1 for n in p.shape[:2] if n > 1}


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def leave_out(model: nn.Module, paths: Iterable[str]) -> None:
    """Put modules without weights in the place of some of the model's: what looks at them may."""
    for path in sorted(paths, reverse=True):  # what is inside another one first
        parent, _, name = path.rpartition(".")
        modules = model.get_submodule(parent)._modules
        kind = next((k for k in _CONTAINERS if isinstance(modules[name], k)), nn.Identity)
        modules[name] = kind()
