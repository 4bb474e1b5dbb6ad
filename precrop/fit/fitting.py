"""Fits a copy of the network to new sizes and proves it: its trace equals the predicted one.

Sizes that modules keep in attributes of their own (the width of a split, the target of a view) are
found by causal probing: on the network as it was, one stored integer is changed and the argument
that moves is what it drives. What one module teaches holds for all modules of its class.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from precrop.fit.attributes import (
    Edit,
    apply_edits,
    integers,
    stated_sizes,
)
from precrop.fit.metadata import metadata_edits
from precrop.read.axes import Axis, axis_size
from precrop.read.network import Network, Pass, Sizes, tensor_axes
from precrop.read.reader import CallReading
from precrop.read.trace import Call, Trace

# Modules around a call, from the innermost, whose attributes may hold one of its arguments.
PROBED_DEPTH = 3
Segments = dict[str, list[list[tuple[int, int]]]]
"""For every tensor that changes and each of its axes the ``(old, new)`` sizes of segments."""
RESHAPES = ("view", "_unsafe_view")
# Changes of a stored integer, in this order: code may divide it by 2, 3, 4, 6 or 8 and round.
CHANGES = (-24, -12, -8, -6, -4, -2, -1, 2)


@dataclass(frozen=True)
class Site:
    """A place in the code: the n-th call of an operation in forward of a class."""

    kind: type[nn.Module] | None
    op: str
    occurrence: int


@dataclass(frozen=True)
class Rule:
    """Attributes that drive an argument: it moves by the sum of ``slope`` times what each moves.

    The attributes belong to a module of class ``kind``, ``depth`` frames outside of the call.
    ``driver`` is the one to set; the others may have been set for other arguments.
    """

    site: Site
    literal: tuple[str, int | None]
    depth: int
    kind: type[nn.Module]
    driver: str
    slopes: Mapping[str, Fraction]


@dataclass(frozen=True)
class Mismatch:
    """The first call at which the fitted network differs from what was predicted."""

    forward: Pass
    index: int
    message: str


@dataclass(frozen=True)
class Fit:
    """What turns the original into the network of the new sizes, and the proof's outcome."""

    tensors: Segments
    edits: list[Edit]
    mismatch: Mismatch | None


@dataclass
class Fitter:
    """Fits one network to any number of choices of sizes; remembers what probing taught."""

    network: Network
    rules: list[Rule] = field(default_factory=list)
    _sites: dict[bool, list[Site]] = field(default_factory=dict)
    _given_up: set[tuple[Site, tuple[str, int | None]]] = field(default_factory=set)

    def fit(self, sizes: Sizes) -> Fit:
        """Resize a copy of the skeleton, set what states sizes, compare its forward passes."""
        tensors = self._resized(sizes)
        described = list(metadata_edits(self.network, sizes))
        while True:
            candidate, edits = self._candidate(tensors, sizes, described)
            mismatch = self._compare(candidate, sizes)
            if mismatch is not None and self._learn(mismatch, sizes):
                continue
            if mismatch is not None and described:
                described = []  # an attribute that looked like a description may be something else
                continue
            return Fit(tensors, edits, mismatch)

    def site(self, forward: Pass, index: int) -> Site:
        """The place in the code of a call."""
        sites = self._sites.get(forward.training)
        if sites is None:
            sites = self._sites[forward.training] = list(_sites(forward.trace))
        return sites[index]

    def _resized(self, sizes: Sizes) -> Segments:
        """Segments ``(old, new)`` of every axis of the parameters and buffers that change."""
        base = self.network.model
        changed = {}
        for name, tensor in (*base.named_parameters(), *base.named_buffers()):
            if name not in self.network.reader.tensors:
                continue
            axes = tensor_axes(self.network, name, tensor)
            rows = [sizes.segments(axis) for axis in axes]
            if any(old != new for row in rows for old, new in row):
                changed[name] = rows
        return changed

    def _candidate(
        self, tensors: Segments, sizes: Sizes, described: list[Edit]
    ) -> tuple[nn.Module, list[Edit]]:
        shapes = {
            name: [sum(new for _, new in row) for row in rows] for name, rows in tensors.items()
        }
        candidate = self.network.replica(shapes)
        edits = [
            *described,
            *self._group_edits(sizes),
            *self._norm_edits(sizes),
            *self._learnt_edits(sizes),
        ]
        apply_edits(candidate, edits)
        stated = list(_stated_edits(self.network.model, candidate, tensors))
        apply_edits(candidate, stated)
        # Later edits win over what merely looked like a description.
        last = {(path, attribute): value for path, attribute, value in [*edits, *stated]}
        return candidate, [(path, attribute, value) for (path, attribute), value in last.items()]

    def _group_edits(self, sizes: Sizes) -> Iterator[Edit]:
        """Numbers of groups that follow widths: depthwise convolutions, groups of kept width."""
        done = set()
        for forward in self.network.passes:
            for reading in forward.readings:
                axis = reading.literals.get(("groups", None))
                if axis is None or reading.weight is None or reading.weight in done:
                    continue
                done.add(reading.weight)
                path = reading.weight.rpartition(".")[0]
                stated = getattr(self.network.model.get_submodule(path), "groups", None)
                if stated == axis_size(axis) != sizes.size(axis):
                    yield path, "groups", sizes.size(axis)

    def _norm_edits(self, sizes: Sizes) -> Iterator[Edit]:
        """Normalised shapes of norms that have no parameters to tell them."""
        done = set()
        for forward in self.network.passes:
            for call, reading in zip(forward.trace.calls, forward.readings, strict=True):
                path = forward.trace.frames[call.frame].path if call.frame >= 0 else ""
                if path in done or not reading.inputs:
                    continue
                done.add(path)
                module = self.network.model.get_submodule(path)
                stated = getattr(module, "normalized_shape", None)
                if stated is None or isinstance(getattr(module, "weight", None), Tensor):
                    continue
                axes = reading.inputs[0][-len(stated) :]
                shape = tuple(map(sizes.size, axes))
                if tuple(stated) == tuple(map(axis_size, axes)) != shape:
                    yield path, "normalized_shape", shape

    def _learnt_edits(self, sizes: Sizes) -> list[Edit]:
        edits: dict[tuple[str, str], int] = {}
        for rule in self.rules:
            for forward in self.network.passes:
                for index, reading in enumerate(forward.readings):
                    axis = reading.literals.get(rule.literal)
                    if axis is not None and self.site(forward, index) == rule.site:
                        self._follow(rule, forward, index, axis, sizes, edits)
        return [(path, attribute, value) for (path, attribute), value in edits.items()]

    def _follow(
        self,
        rule: Rule,
        forward: Pass,
        index: int,
        axis: Axis,
        sizes: Sizes,
        edits: dict[tuple[str, str], int],
    ) -> None:
        """Set the driver of an argument so that it states the new size, if the rule holds here."""
        frames = _frames(forward.trace, index)
        if len(frames) <= rule.depth:
            return
        frame = forward.trace.frames[frames[rule.depth]]
        key = (frame.path, rule.driver)
        if frame.kind is not rule.kind or key in edits:
            return
        stated = dict(integers(self.network.model.get_submodule(frame.path)))
        if not rule.slopes.keys() <= stated.keys():
            return
        move = Fraction(sizes.size(axis) - axis_size(axis))
        for attribute, slope in rule.slopes.items():
            if attribute != rule.driver:
                now = edits.get((frame.path, attribute), stated[attribute])
                move -= slope * (now - stated[attribute])
        value = stated[rule.driver] + move / rule.slopes[rule.driver]
        if value.denominator == 1 and value != stated[rule.driver]:
            edits[key] = int(value)

    def _compare(self, candidate: nn.Module, sizes: Sizes) -> Mismatch | None:
        for forward in self.network.passes:
            trace = self.network.run(candidate, training=forward.training)
            index = _first_difference(forward, trace, sizes)
            if index is not None:
                return Mismatch(forward, index, str(trace.error or "other sizes"))
        return None

    def _learn(self, mismatch: Mismatch, sizes: Sizes) -> bool:
        """Probe for the attribute behind an argument of the differing call; False if none."""
        forward, index = mismatch.forward, mismatch.index
        found = False
        for place in _places(forward, index):
            site = self.site(forward, place)
            for literal, axis in forward.readings[place].literals.items():
                if sizes.size(axis) == axis_size(axis) or (site, literal) in self._given_up:
                    continue
                self._given_up.add((site, literal))
                rule = self._probe(forward, place, site, literal)
                if rule is not None:
                    self.rules.append(rule)
                    found = True
        return found

    def _probe(
        self, forward: Pass, index: int, site: Site, literal: tuple[str, int | None]
    ) -> Rule | None:
        """Change the integers that modules around a call store, one by one: what moves it?"""
        for depth, frame_index in enumerate(_frames(forward.trace, index)[:PROBED_DEPTH]):
            frame = forward.trace.frames[frame_index]
            stored = dict(integers(self.network.model.get_submodule(frame.path)))
            slopes: dict[str, Fraction] = {}
            for attribute, value in stored.items():
                slope = self._slope(forward, index, literal, (frame.path, attribute, value))
                if slope:
                    slopes[attribute] = slope
            stated = _argument(forward.trace.calls[index], literal)
            driven = {rule.driver for rule in self.rules if rule.site == site}
            drivers = [attribute for attribute, slope in slopes.items() if slope > 0]
            if drivers:
                # An attribute that is not taken, then one that the argument is a multiple of, then
                # the larger one: of heads times width it is the width that changes.
                driver = max(
                    drivers,
                    key=lambda a: (a not in driven, slopes[a] * stored[a] == stated, stored[a]),
                )
                return Rule(site, literal, depth, frame.kind, driver, slopes)
        return None

    def _slope(
        self, forward: Pass, index: int, literal: tuple[str, int | None], stored: Edit
    ) -> Fraction | None:
        """By how much an argument moves for every one that a stored integer moves."""
        stated = _argument(forward.trace.calls[index], literal)
        path, attribute, value = stored
        for change in CHANGES:
            if value + change < 1 or stated is None:
                continue
            moved = self._moved(forward, index, literal, (path, attribute, value + change))
            if moved is not None:
                return Fraction(moved - stated, change)
        return None

    def _moved(
        self,
        forward: Pass,
        index: int,
        literal: tuple[str, int | None],
        edit: Edit,
    ) -> int | None:
        """The argument after one stored integer was set; None if the call is not reached."""
        probe = self.network.replica()
        apply_edits(probe, [edit])
        trace = self.network.run(probe, training=forward.training, limit=index + 1)
        if _diverged(forward.trace, trace, index):
            return None
        call = forward.trace.calls[index]
        if len(trace.calls) > index and trace.calls[index].op == call.op:
            return _argument(trace.calls[index], literal)
        if trace.refused is not None and call.name in RESHAPES and literal[1] is not None:
            same_rank = len(trace.refused) == len(call.arg("size"))
            return trace.refused[literal[1]] if same_rank else None
        return None


def _diverged(base: Trace, trace: Trace, index: int) -> bool:
    """Whether a trace differs before a call: what was changed drives an earlier one."""
    before = zip(base.calls[:index], trace.calls[:index], strict=False)
    return any(call.op != other.op or call.shapes != other.shapes for call, other in before)


def _stated_edits(base: nn.Module, candidate: nn.Module, tensors: dict[str, Any]) -> Iterator[Edit]:
    """What PyTorch's own layers state of sizes that changed."""
    for path in dict.fromkeys(name.rpartition(".")[0] for name in tensors):
        module = base.get_submodule(path)
        before, after = stated_sizes(module), stated_sizes(candidate.get_submodule(path))
        for attribute, value in before.items():
            if getattr(module, attribute, None) == value != after[attribute]:
                yield path, attribute, after[attribute]


def _places(forward: Pass, index: int) -> range:
    """A differing call, with the view behind it if it is the copy that a reshape begins with."""
    calls = forward.trace.calls
    after = index + 1 < len(calls) and calls[index].name == "clone"
    last = index + 2 if after and calls[index + 1].name in RESHAPES else index + 1
    return range(index, min(last, len(calls)))


def _sites(trace: Trace) -> Iterator[Site]:
    counts: dict[tuple[int, str], int] = {}
    for call in trace.calls:
        key = (call.frame, call.name)
        occurrence = counts[key] = counts.get(key, -1) + 1
        kind = trace.frames[call.frame].kind if call.frame >= 0 else None
        yield Site(kind, call.name, occurrence)


def _frames(trace: Trace, index: int) -> list[int]:
    """Module frames around a call, from the innermost."""
    frames = []
    frame = trace.calls[index].frame
    while frame >= 0:
        frames.append(frame)
        frame = trace.frames[frame].parent
    return frames


def _argument(call: Call, literal: tuple[str, int | None]) -> int | None:
    name, position = literal
    value = call.arg(name)
    if position is not None:
        value = (
            value[position] if isinstance(value, (list, tuple)) and position < len(value) else None
        )
    if type(value) is not int:
        return None
    # A bound counted from the end is negative; its axis is what lies behind it.
    return abs(value) if name in ("start", "end") else value


def _agrees(reading: CallReading, call: Call, sizes: Sizes) -> bool:
    if not call.returned:
        return False
    for axes, shape in zip(reading.outputs, call.shapes, strict=False):
        for axis, size in zip(axes, shape, strict=True):
            first = axis[0]
            if first[0] is None and len(axis) == 1:
                if first[1] != size:
                    return False
            elif sizes.size(axis) != size:
                return False
    return True


def _first_difference(forward: Pass, trace: Trace, sizes: Sizes) -> int | None:
    """Index of the first call that is not as predicted; None if the whole trace is."""
    calls = forward.trace.calls
    for index, (call, reading) in enumerate(zip(calls, forward.readings, strict=True)):
        if index >= len(trace.calls):
            return index
        made = trace.calls[index]
        if made.op != call.op or not _agrees(reading, made, sizes):
            return index
    if trace.error is not None or len(trace.calls) != len(calls):
        return len(calls) - 1
    return None
