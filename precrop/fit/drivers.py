"""Finds the width that a call's argument really follows, from a network that was fitted wrongly.

Code may compute an argument from another tensor's size, as in ``C // heads``, and the trace of the
original does not show which tensor. The fitted network does: if it asks for 11 channels where 12
were predicted and the original asked for 16, an earlier axis that went from 64 to 44 explains it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from precrop.fit.arguments import Argument, Literal
from precrop.read.axes import Axis, atoms, axis_size
from precrop.read.network import Network, Pass, Sizes
from precrop.read.trace import Site

Asked = Mapping[Argument, int]
"""The value of each argument in the fitted network."""

# How many of the modules around a call, from the innermost, are searched for such tensors.
REACH = 3


@dataclass(frozen=True)
class Driver:
    """An axis of an earlier call that an argument follows, by its place in the code.

    Attributes:
        behind: how many calls after the differing one the argument's call is.
        literal: the argument that follows.
        site: the site of the earlier call.
        operands: whether the axis belongs to an input of that call; else to an output.
        tensor: the index of that input or output.
        dim: the index of the axis in it.
        exact: whether the argument is the axis' size; else it is a share or a multiple of it.
    """

    behind: int
    literal: Literal
    site: Site
    operands: bool
    tensor: int
    dim: int
    exact: bool

    def fits(self, argument: Axis, axis: Axis) -> bool:
        """Whether the sizes at another call of the same code allow the argument to follow."""
        before, old = axis_size(argument), axis_size(axis)
        return before == old if self.exact else old % before == 0 or before % old == 0

    def axis(self, forward: Pass, index: int) -> Axis | None:
        """Return the axis at one call of its site; None if that call has no such axis."""
        reading = forward.readings[index]
        tensors = reading.inputs if self.operands else reading.outputs
        if self.tensor < len(tensors) and self.dim < len(tensors[self.tensor]):
            return tensors[self.tensor][self.dim]
        return None


def drivers(
    network: Network, forward: Pass, index: int, asked: Asked, sizes: Sizes
) -> tuple[Driver, ...]:
    """Find, for every argument that differs, the nearest axis that changed as the argument did.

    For an argument that kept its value, this is an axis that kept its size although it may vary.
    ``index`` is the first call of the pass that differs, ``asked`` the values of its arguments.
    """
    found = []
    for argument, value in asked.items():
        before = axis_size(argument.axis)
        if value == sizes.size(argument.axis):
            continue  # it is as predicted
        followed = (
            (axis, Driver(argument.index - index, argument.literal, site, *place, exact))
            for exact in (True, False)
            for site, place, axis, new in _around(forward, index, sizes)
            if (axis_size(axis) == new) == (before == value)
            and _follows(before, value, axis_size(axis), new, exact=exact)
        )
        nearest = islice(followed, 1)  # if this one is fixed, none further away is looked at
        found += [driver for axis, driver in nearest if network.varies(axis)]
    return tuple(found)


def are_constants(network: Network, forward: Pass, index: int, asked: Asked, sizes: Sizes) -> bool:
    """Whether the arguments that differ are constants in the code.

    They have kept their values, and no varying width around that kept its size can explain that.
    """
    wrong = [argument for argument, value in asked.items() if sizes.size(argument.axis) != value]
    stated = {axis_size(argument.axis) for argument in wrong}
    if not wrong or any(axis_size(argument.axis) != asked[argument] for argument in wrong):
        return False
    return not any(
        axis_size(axis) == new and any(new % before == 0 or before % new == 0 for before in stated)
        for *_, axis, new in _around(forward, index, sizes)
        if network.varies(axis)
    )


def _follows(before: int, after: int, old: int, new: int, *, exact: bool) -> bool:
    """Whether ``before`` is to ``old`` as ``after`` is to ``new``: equal, a share or a multiple."""
    if exact:
        return (before, after) == (old, new)
    if old % before == 0:
        return new // (old // before) == after
    return before % old == 0 and new * (before // old) == after


def _around(
    forward: Pass, index: int, sizes: Sizes
) -> Iterator[tuple[Site, tuple[bool, int, int], Axis, int]]:
    """Yield axes with atoms in earlier calls of the modules around a call, the nearest first.

    Each comes with its call's site, its place there as in `Driver` (``operands``, ``tensor``,
    ``dim``) and its new size.
    """
    around = {-1, *forward.trace.around(index)[:REACH]}
    frames = forward.trace.frames
    for call in range(index - 1, -1, -1):
        frame = forward.trace.calls[call].frame
        if frame not in around and (frame < 0 or frames[frame].parent not in around):
            continue
        reading = forward.readings[call]
        for operands, tensors in ((False, reading.outputs), (True, reading.inputs)):
            for tensor, axes in enumerate(tensors):
                for dim, axis in enumerate(axes):
                    if atoms(axis):
                        place = operands, tensor, dim
                        yield forward.trace.sites[call], place, axis, sizes.size(axis)
