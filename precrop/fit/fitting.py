"""Fits a copy of the network to new sizes and checks that its trace equals the predicted one.

Where the traces differ, probing finds the attributes in which modules keep sizes (the width of a
split, the target of a view). What is learnt from one module holds for all of its class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from precrop.fit.arguments import Argument, arguments, differing
from precrop.fit.attributes import Edit, apply_edits
from precrop.fit.drivers import Asked, Driver, are_constants, drivers
from precrop.fit.edits import (
    followers_edits,
    layer_edits,
    metadata_edits,
    sources_edits,
    stated_edits,
)
from precrop.fit.lessons import Lessons, Place
from precrop.modules.names import named_tensors
from precrop.read.axes import Axis, roots_of
from precrop.read.corrected import Correction, Expected
from precrop.read.network import Network, Pass, Sizes, tensor_axes
from precrop.read.trace import Recording, Site, Step
from precrop.read.values import Shape

Segments = dict[str, list[list[tuple[int, int]]]]
"""For every tensor that changes, the ``(old, new)`` sizes of the segments of each axis."""


@dataclass(frozen=True)
class Mismatch:
    """A call at which the fitted network differs from what was predicted.

    Attributes:
        forward: the pass.
        index: the index of the call.
        message: what happened.
        drivers: widths that the arguments follow in place of the predicted ones.
        constant: whether the arguments follow no width and no attribute.
        stopped: whether the network's own code raised before the call was reached.
        asked: the values of the call's arguments that state sizes.
        single: whether some width is down to one unit. Code may behave differently for an axis of
            size 1: it needs no copy to be contiguous, and it may be squeezed or broadcast.
    """

    forward: Pass
    index: int
    message: str
    drivers: tuple[Driver, ...] = ()
    constant: bool = False
    stopped: bool = False
    asked: Asked = field(default_factory=dict)
    single: bool = False

    @property
    def site(self) -> Site:
        """The place of the call in the code."""
        return self.forward.trace.sites[self.index]


@dataclass(frozen=True)
class Fit:
    """The changes that give the network its new sizes, and the first mismatch if there is one."""

    tensors: Segments
    edits: list[Edit]
    mismatch: Mismatch | None
    lookalikes: tuple[str, ...] = ()
    """Numbers that stay although they equal a power of a width that changes (`Roots`)."""


def changed_axes(fit: Fit) -> dict[str, tuple[Any, ...]]:
    """Return the axes of tensors that change as a plan states them: a size or segments each."""
    return {
        name: tuple(
            sum(old for old, _ in row) if all(old == new for old, new in row) else tuple(row)
            for row in rows
        )
        for name, rows in fit.tensors.items()
    }


@dataclass(frozen=True)
class Fitter:
    """Fits one network to any number of choices of sizes."""

    network: Network
    lessons: Lessons

    def fit(self, sizes: Sizes) -> Fit:
        """Resize a skeleton, set its size attributes and compare its forward passes.

        If no size changes, nothing is run.
        """
        if all(kept == units for kept, units in sizes.kept.values()):
            return Fit({}, [], None)
        tensors = self._resized(sizes)
        described = list(metadata_edits(self.network, sizes))
        fit = self._fit(tensors, sizes, described)
        if fit.mismatch is None or not described:
            return fit
        # An attribute that looked like a mere statement of a size may mean something else.
        other = self._fit(tensors, sizes, [])
        return max(other, fit, key=self._reached)

    def _fit(self, tensors: Segments, sizes: Sizes, described: list[Edit]) -> Fit:
        corrected: dict[Place, int] = {}
        while True:
            candidate, edits = self._candidate(tensors, sizes, described, corrected)
            mismatch = self._compare(candidate, sizes)
            edited = {(path, attribute): value for path, attribute, value in edits}
            if mismatch is None:
                found = self.lessons.roots.lookalikes(self.network, sizes, edited.keys())
                return Fit(tensors, edits, None, tuple(found))
            where = mismatch.forward, mismatch.index
            if self.lessons.learn(*where, sizes):
                continue
            if mismatch.stopped and self.lessons.checks.learn(self.network, *where, sizes):
                continue
            wrong = self.lessons.corrections(mismatch.asked, sizes, edited)
            if not wrong or not corrected.keys().isdisjoint(wrong):
                return Fit(tensors, edits, mismatch)
            corrected |= wrong

    def _reached(self, fit: Fit) -> tuple[int, int]:
        """Return the pass and the call up to which the forward passes are as predicted."""
        if fit.mismatch is None:
            return len(self.network.passes), 0
        return self.network.passes.index(fit.mismatch.forward), fit.mismatch.index

    def further(self, fit: Fit, sizes: Sizes) -> list[Mismatch]:
        """Return the other mismatches of the pass that differed, one for every site.

        After each differing call the pass goes on with the predicted shapes.
        """
        if fit.mismatch is None or self.network.tracer.real:
            return []
        forward = fit.mismatch.forward
        candidate, _ = self._candidate(fit.tensors, sizes, [], {})
        expected = [
            Expected(
                call.op,
                tuple(tuple(map(sizes.size, axes)) for axes in reading.outputs),
                tuple(tensor.dtype for tensor in call.outputs),
            )
            for call, reading in forward.pairs
        ]
        correction = Correction(expected)
        trace = self.network.tracer.run_again(candidate, forward, correction=correction)
        found = {}
        for index in correction.wrong:
            site = forward.trace.sites[index]
            if index != fit.mismatch.index and site not in found:
                made = trace.calls[index] if index < len(trace.calls) else None
                asked = _given(arguments(forward, index), made)
                found[site] = self._mismatch(forward, index, "other sizes", asked, sizes)
        return list(found.values())

    def _mismatch(
        self, forward: Pass, index: int, message: str, asked: Asked, sizes: Sizes
    ) -> Mismatch:
        found = drivers(self.network, forward, index, asked, sizes)
        ruled = {rule.site for rule in self.lessons.rules}
        driven = any(argument.site in ruled for argument in asked)
        constant = not driven and are_constants(self.network, forward, index, asked, sizes)
        single = any(tie.quantum > 1 == kept for tie, (kept, _) in sizes.kept.items())
        return Mismatch(forward, index, message, found, constant, asked=asked, single=single)

    def _resized(self, sizes: Sizes) -> Segments:
        """Return the segments of the network's tensors that change."""
        changed = {}
        for name, tensor in named_tensors(self.network.model).items():
            rows = [sizes.segments(axis) for axis in tensor_axes(self.network, name, tensor)]
            if any(old != new for row in rows for old, new in row):
                changed[name] = rows
        return changed

    def _candidate(
        self,
        tensors: Segments,
        sizes: Sizes,
        described: list[Edit],
        corrected: Mapping[Place, int],
    ) -> tuple[nn.Module, list[Edit]]:
        shapes = {
            name: [sum(new for _, new in row) for row in rows] for name, rows in tensors.items()
        }
        candidate = self.network.tracer.replica(shapes)
        learnt, driving = self.lessons.edits(self.network, sizes, corrected)
        edits = [
            # The rules decide about attributes that drive an argument, even if they leave them.
            *(edit for edit in described if edit[:2] not in driving),
            *self.lessons.roots.edits(self.network, sizes),
            *self.lessons.checks.edits(self.network, sizes),
            *layer_edits(self.network, sizes),
            *learnt,
        ]
        edits += followers_edits(self.network, edits)
        edits += [*sources_edits(self.network.model, edits)]
        apply_edits(candidate, edits)
        stated = list(stated_edits(self.network.model, candidate, tensors))
        apply_edits(candidate, stated)
        # Where an attribute is edited twice, the later edit is the more certain one.
        last = {(path, attribute): value for path, attribute, value in [*edits, *stated]}
        return candidate, [(path, attribute, value) for (path, attribute), value in last.items()]

    def _compare(self, candidate: nn.Module, sizes: Sizes) -> Mismatch | None:
        for forward in self.network.passes:
            predicted = _Predicted(self.network, forward, sizes)
            trace = self.network.tracer.run_again(candidate, forward, watch=predicted.differs)
            index = predicted.difference(trace)
            if index is not None:
                asked = self._asked(candidate, forward, trace, index)
                message = str(trace.error or "other sizes")
                found = self._mismatch(forward, index, message, asked, sizes)
                stopped = trace.error is not None and index >= len(trace.calls)
                return replace(found, stopped=stopped)
        return None

    def _asked(
        self, candidate: nn.Module, forward: Pass, trace: Recording, index: int
    ) -> dict[Argument, int]:
        """Return the values of the differing call's size arguments in the fitted network."""
        made = trace.calls[index] if index < len(trace.calls) else None
        asked = [*differing(forward, index)]
        given = _given(asked, made)
        others = [a for a in asked if made is None or a.index > index or a.call.op != made.op]
        if others and trace.error is not None:
            if trace.refused is None:
                trace = self.network.tracer.run_again(candidate, forward, limit=index + 1)
            found = {argument: argument.refused(trace) for argument in others}
            given |= {argument: value for argument, value in found.items() if value is not None}
        return given


def _given(asked: Sequence[Argument], made: Step | None) -> dict[Argument, int]:
    """Return the values of arguments in a fitted network's call, if it is of the same operation."""
    values = {a: a.value(made) for a in asked if made is not None and a.call.op == made.op}
    return {argument: value for argument, value in values.items() if value is not None}


class _Predicted:
    """Compares a fitted network's calls, as it runs, with the predicted ones of a pass."""

    def __init__(self, network: Network, forward: Pass, sizes: Sizes) -> None:
        self.network, self.forward, self.sizes = network, forward, sizes
        self.calls, self.readings = forward.trace.calls, forward.readings
        self._first: int | None = None
        self._shapes: dict[int, list[tuple[int, ...]]] = {}

    def differs(self, index: int, made: Step) -> bool:
        """Whether a call that has returned is not as predicted; remember the first such call."""
        same = index < len(self.calls) and made.op == self.calls[index].op
        different = not (same and self._agrees(index, made))
        if different and self._first is None:
            self._first = index
        return different

    def difference(self, trace: Recording) -> int | None:
        """Return the index of the first call that was not as predicted; None if all calls were."""
        raised = (index for index, call in enumerate(trace.calls) if not call.returned)
        found = [index for index in (self._first, next(raised, None)) if index is not None]
        if len(trace.calls) < len(self.calls) or trace.error is not None:
            found.append(len(trace.calls))
        return min(*found, len(self.calls) - 1) if found else None

    def _agrees(self, index: int, made: Step) -> bool:
        reading = self.readings[index]
        for argument in arguments(self.forward, index) if reading.literals else ():
            if argument.is_hidden and argument.value(made) != self.sizes.size(argument.axis):
                return False
        shapes = self._shapes.get(id(reading))
        if shapes is None:
            shapes = [tuple(map(self.sizes.size, axes)) for axes in reading.outputs]
            self._shapes[id(reading)] = shapes
        return all(
            got == shape or self._may_be(axes, shape, got)
            for axes, shape, got in zip(reading.outputs, shapes, made.shapes, strict=False)
        )

    def _may_be(self, axes: Sequence[Axis], shape: Shape, got: Shape) -> bool:
        return len(got) == len(shape) and all(
            size == expected or self._meets_nothing(axis)
            for axis, expected, size in zip(axes, shape, got, strict=True)
        )

    def _meets_nothing(self, axis: Axis) -> bool:
        """Whether an axis varies but is in no group and not fixed: no layer uses the tensor."""
        known = self.sizes.kept.keys() | self.network.fixed.keys()
        return all(root.varies and root not in known for root in roots_of([axis]))
