"""What layers state of their sizes, and what goes with that in other modules and in copies."""

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from precrop.fit.attributes import Edit, get_attribute, integers, set_attribute, stated_sizes
from precrop.fit.held import is_integer
from precrop.modules.copying import copies_plainly, meta_copy, submodule
from precrop.modules.names import modules_of
from precrop.read.axes import Axis, axis_size
from precrop.read.network import Network, Sizes


def layer_edits(network: Network, sizes: Sizes) -> Iterator[Edit]:
    """What layers state that their parameters do not tell."""
    yield from _group_edits(network, sizes)
    yield from _norm_edits(network, sizes)
    for path, axis in network.known.read_widths.items():
        yield path, "stream_read.size", sizes.size(axis)


def _group_edits(network: Network, sizes: Sizes) -> Iterator[Edit]:
    """Numbers of groups that follow widths: depthwise convolutions, groups of kept width."""
    grouped: dict[str, Axis] = {}
    for reading in (reading for forward in network.passes for reading in forward.readings):
        if reading.weight is not None and ("groups", None) in reading.literals:
            grouped.setdefault(reading.weight, reading.literals["groups", None])
    for weight, axis in grouped.items():
        path = weight.rpartition(".")[0]
        stated = getattr(submodule(network.model, path), "groups", None)
        if stated == axis_size(axis) != sizes.size(axis):
            yield path, "groups", sizes.size(axis)


def _norm_edits(network: Network, sizes: Sizes) -> Iterator[Edit]:
    """What norms state that have no parameters to tell it."""
    left = {**network.tracer.modules}  # without what forward itself makes
    for forward in network.passes:
        for call, reading in forward.pairs:
            path = forward.trace.path(call)
            module = left.pop(path, None) if reading.inputs else None
            if module is None:
                continue
            own, x = vars(module), reading.inputs[0]
            if "weight" in dict(module.named_parameters(recurse=False)):
                continue
            for name in ("num_channels", "num_features"):
                channels = x[1] if len(x) > 1 else ()
                if own.get(name) == axis_size(channels) != sizes.size(channels):
                    yield path, name, sizes.size(channels)
            stated = own.get("normalized_shape", ())
            axes = x[len(x) - len(stated) :]
            shape = tuple(map(sizes.size, axes))
            if tuple(stated) == tuple(map(axis_size, axes)) != shape:
                yield path, "normalized_shape", shape


def followers_edits(network: Network, edits: Iterable[Edit]) -> list[Edit]:
    """What is set in a module, for those that no pass called and that follow it."""
    return [
        (path + where[len(twin) :], attribute, value)
        for path, twin in network.unused.followers.items()
        for where, attribute, value in edits
        if where == twin or where.startswith(f"{twin}.")
    ]


def sources_edits(model: nn.Module, edits: Iterable[Edit]) -> Iterator[Edit]:
    """The attributes from which a copy of a module makes anew what was set, so that it lasts.

    Layers of einops keep a size twice, and are copied and saved as the one that they don't use.
    """
    for path, attribute, value in edits:
        module = submodule(model, path)
        held = {} if copies_plainly(type(module)) else dict(integers(module))
        for name, stated in held.items():
            if stated == held.get(attribute) != value and name != attribute:
                changed = meta_copy(module)
                set_attribute(changed, name, value)
                if get_attribute(copy.deepcopy(changed), attribute) == value:
                    yield path, name, value


def stated_edits(base: nn.Module, candidate: nn.Module, tensors: Iterable[str]) -> Iterator[Edit]:
    """What PyTorch's own layers state of the sizes of tensors that changed."""
    owners = (name.rpartition(".")[0] for name in tensors)
    known, made = map(modules_of, (base, candidate))
    for path in dict.fromkeys([*owners, *made]):
        module = known[path] if path in known else submodule(base, path)
        if isinstance(module, torch.jit.ScriptModule):
            continue  # its sizes are part of its code
        before = stated_sizes(module)
        twin = made[path] if path in made else submodule(candidate, path)
        after = stated_sizes(twin) if before else {}
        for attribute, value in before.items():
            if vars(module).get(attribute) == value != after.get(attribute, value):
                size = after[attribute]
                yield path, attribute, int(size) if is_integer(size) else size
