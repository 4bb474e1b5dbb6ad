"""Which width an argument of a call really follows, seen in a network that was fitted wrongly.

Code computes sizes of sizes: ``C // heads`` of a tensor that is at hand. Read alone, such a view
says nothing of that other tensor. A fitted network that asks for 11 in place of 12 channels tells
it: where an earlier axis went from 64 to 44, and 64 / 4 is what was asked for in the original.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from precrop.fit.probing import Literal
from precrop.fit.sites import Site, frames_around
from precrop.read.axes import Axis, axis_size
from precrop.read.network import Network, Pass, Sizes

Asked = Mapping[tuple[int, Literal], int]
"""By call and argument: what the fitted network gave in place of the predicted size."""

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
    network: Network, forward: Pass, index: int, asked: Asked, sizes: Sizes, sites: list[Site]
) -> tuple[Driver, ...]:
    """For every argument that differs the nearest axis that changed as the argument did.

    Args:
        network: that was read.
        forward: the pass that differs.
        index: of the first call that does.
        asked: what that call's arguments are.
        sizes: that the network was fitted to.
        sites: of the pass' calls.
    """
    found = []
    for (place, literal), value in asked.items():
        axis = forward.readings[place].literals[literal]
        before = axis_size(axis)
        if value in (before, sizes.size(axis)):
            continue  # it is fixed, or as predicted
        for exact in (True, False):
            driver = next(
                (
                    Driver(place - index, literal, sites[call], operands, tensor, dim, exact)
                    for call, operands, tensor, dim, old, new in _around(
                        network, forward, index, sizes
                    )
                    if old != new and _follows(before, value, old, new, exact=exact)
                ),
                None,
            )
            if driver is not None:
                found.append(driver)
                break
    return tuple(found)


def are_constants(network: Network, forward: Pass, index: int, asked: Asked, sizes: Sizes) -> bool:
    """Whether the arguments that differ are numbers of the code's own.

    They are as in the original, and no width around that happens to be so, too, can be why.
    """
    literals = {key: forward.readings[key[0]].literals[key[1]] for key in asked}
    wrong = {key for key, axis in literals.items() if sizes.size(axis) != asked[key]}
    stated = {axis_size(literals[key]) for key in wrong}
    if not wrong or any(axis_size(literals[key]) != asked[key] for key in wrong):
        return False
    return not any(
        old == new and any(old % before == 0 or before % old == 0 for before in stated)
        for *_, old, new in _around(network, forward, index, sizes)
    )


def _follows(before: int, after: int, old: int, new: int, *, exact: bool) -> bool:
    """Whether ``before`` is to ``old`` as ``after`` is to ``new``: equal, a share or a multiple."""
    if exact:
        return (before, after) == (old, new)
    if old % before == 0:
        return new // (old // before) == after
    return before % old == 0 and new * (before // old) == after


def _around(
    network: Network, forward: Pass, index: int, sizes: Sizes
) -> Iterator[tuple[int, bool, int, int, int, int]]:
    """Varying axes of earlier calls in the modules around, the nearest first, with both sizes."""
    around = {-1, *frames_around(forward.trace, index)[:REACH]}
    frames = forward.trace.frames
    for call in range(index - 1, -1, -1):
        frame = forward.trace.calls[call].frame
        if frame not in around and (frame < 0 or frames[frame].parent not in around):
            continue
        reading = forward.readings[call]
        for operands, tensors in ((False, reading.outputs), (True, reading.inputs)):
            for tensor, axes in enumerate(tensors):
                for dim, axis in enumerate(axes):
                    old, new = axis_size(axis), sizes.size(axis)
                    if network.varies(axis):
                        yield call, operands, tensor, dim, old, new
