"""Which width an argument of a call really follows, seen in a network that was fitted wrongly.

Code computes sizes of sizes: ``C // heads`` of a tensor that is at hand. Read alone, such a view
says nothing of that other tensor. A fitted network that asks for 11 in place of 12 channels tells
it: where an earlier axis went from 64 to 44, and 64 / 4 is what was asked for in the original.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from precrop.fit.arguments import Argument, Literal
from precrop.read.axes import Axis, atoms, axis_size
from precrop.read.network import Network, Pass, Sizes
from precrop.read.trace import Site

Asked = Mapping[Argument, int]
"""By argument: what the fitted network gave in place of the predicted size."""

# Modules around a call, from the innermost, whose tensors its code may have at hand.
REACH = 3


@dataclass(frozen=True)
class Driver:
    """An axis of an earlier call, by its place in the code.

    Attributes:
        behind: how many calls behind the differing one the argument is.
        literal: the argument that follows.
        site: the earlier call.
        operands: whether the axis is one of its inputs; else of its outputs.
        tensor: which of them.
        dim: which of its axes.
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
        """Whether the argument can follow the axis elsewhere; the same code may do other things."""
        before, old = axis_size(argument), axis_size(axis)
        return before == old if self.exact else old % before == 0 or before % old == 0

    def axis(self, forward: Pass, index: int) -> Axis | None:
        """The axis at one call of its site."""
        reading = forward.readings[index]
        tensors = reading.inputs if self.operands else reading.outputs
        if self.tensor < len(tensors) and self.dim < len(tensors[self.tensor]):
            return tensors[self.tensor][self.dim]
        return None


def drivers(
    network: Network, forward: Pass, index: int, asked: Asked, sizes: Sizes
) -> tuple[Driver, ...]:
    """For every argument that differs the nearest axis that did as the argument did.

    Where the argument kept its size, that is an axis which kept its own, though it need not have.
    ``index`` is that of the first call of the pass that differs, ``asked`` what its arguments are.
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
        nearest = islice(followed, 1)  # if that is held, so is what follows it
        found += [driver for axis, driver in nearest if network.varies(axis)]
    return tuple(found)


def are_constants(network: Network, forward: Pass, index: int, asked: Asked, sizes: Sizes) -> bool:
    """Whether the arguments that differ are numbers of the code's own.

    They are as in the original, and no width around that happens to be so, too, can be why.
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
    """Axes of layers' widths in earlier calls of the modules around, the nearest first.

    Each with its new size. It is told by the call's site and by whose it is: the inputs' (or
    outputs'), of which tensor.
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
