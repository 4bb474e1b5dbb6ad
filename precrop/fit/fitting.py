"""Fits a copy of the network to new sizes and proves it: its trace equals the predicted one.

Sizes that modules keep in attributes of their own (the width of a split, the target of a view) are
found by probing where the traces differ; what one module teaches holds for all of its class.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import torch
from torch import nn

from precrop.fit.attributes import (
    Edit,
    apply_edits,
    holder,
    integers,
    stated_integers,
    stated_sizes,
)
from precrop.fit.checks import Checks
from precrop.fit.drivers import Asked, Driver, are_constants, drivers
from precrop.fit.metadata import metadata_edits
from precrop.fit.probing import (
    PROBED_DEPTH,
    RESHAPES,
    Literal,
    Prober,
    Rule,
    argument,
    refused,
)
from precrop.fit.roots import Roots
from precrop.fit.sites import Site, frames_around, sites
from precrop.modules.copying import submodule
from precrop.modules.names import named_tensors
from precrop.read.axes import Axis, axis_size, roots_of
from precrop.read.corrected import Correction, Expected
from precrop.read.known import CallReading
from precrop.read.network import Network, Pass, Sizes, tensor_axes
from precrop.read.trace import Recording, Step
from precrop.read.values import Shape

Place = tuple[str, str]
"""Module path and attribute path."""
Segments = dict[str, list[list[tuple[int, int]]]]
"""For every tensor that changes and each of its axes the ``(old, new)`` sizes of segments."""


@dataclass(frozen=True)
class Mismatch:
    """A call at which the fitted network differs from what was predicted.

    Attributes:
        forward: the pass.
        index: of the call.
        message: what happened.
        drivers: widths that its arguments follow in place of those that they should.
        constant: whether its arguments follow no width and no attribute.
        stopped: whether it was not reached: the network's own code raised before.
        asked: what the call gives for its arguments that state sizes.
    """

    forward: Pass
    index: int
    message: str
    drivers: tuple[Driver, ...] = ()
    constant: bool = False
    stopped: bool = False
    asked: Asked = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """What turns the original into the network of the new sizes, and the proof's outcome."""

    tensors: Segments
    edits: list[Edit]
    mismatch: Mismatch | None
    lookalikes: tuple[str, ...] = ()
    """Floats that stay though they equal a root of a width that changes (`Roots`)."""


@dataclass
class Lessons:
    """What probing one network taught, however its widths are held: it is only ever added to.

    Attributes:
        network: as it was read.
        rules: which attributes drive which arguments.
        prober: finds rules.
        roots: attributes that are roots of widths.
        checks: attributes that code compares with widths.
        given_up: arguments that were looked at, with the number of rules known then.
    """

    network: Network
    rules: list[Rule] = field(default_factory=list)
    prober: Prober = field(init=False)
    roots: Roots = field(init=False)
    checks: Checks = field(init=False)
    given_up: set[tuple[Site, Literal, int]] = field(default_factory=set)
    _sites: dict[int, list[Site]] = field(default_factory=dict)
    _places: dict[int, dict[Site, list[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Probing needs nothing but what runs the network."""
        self.prober = Prober(self.network.tracer)
        self.roots, self.checks = Roots(self.prober), Checks(self.prober)

    def site(self, forward: Pass, index: int) -> Site:
        """The place in the code of a call."""
        return self.sites(forward)[index]

    def sites(self, forward: Pass) -> list[Site]:
        """The places in the code of all calls of a pass."""
        known = self._sites.get(id(forward.trace))
        if known is None:
            known = self._sites[id(forward.trace)] = list(sites(forward.trace))
        return known

    def places(self, forward: Pass) -> dict[Site, list[int]]:
        """The calls of every place in the code."""
        key = id(forward.trace)
        if key not in self._places:
            found = self._places[key] = {}
            for index, site in enumerate(self.sites(forward)):
                found.setdefault(site, []).append(index)
        return self._places[key]


@dataclass(frozen=True)
class Fitter:
    """Fits one network to any number of choices of sizes."""

    network: Network
    lessons: Lessons

    def fit(self, sizes: Sizes) -> Fit:
        """Resize a copy of the skeleton, set what states sizes, compare its forward passes.

        Where nothing changes there is nothing to prove.
        """
        if all(kept == units for kept, units in sizes.kept.values()):
            return Fit({}, [], None)
        tensors = self._resized(sizes)
        described = list(metadata_edits(self.network, sizes))
        fit = self._fit(tensors, sizes, described)
        if fit.mismatch is None or not described:
            return fit
        # An attribute that looked like a description may be something else.
        other = self._fit(tensors, sizes, [])
        return max(other, fit, key=self._reached)

    def _fit(self, tensors: Segments, sizes: Sizes, described: list[Edit]) -> Fit:
        corrected: dict[Place, int] = {}
        while True:
            candidate, edits = self._candidate(tensors, sizes, described, corrected)
            mismatch = self._compare(candidate, sizes)
            if mismatch is None:
                edited = {edit[:2] for edit in edits}
                found = self.lessons.roots.lookalikes(self.network, sizes, edited)
                return Fit(tensors, edits, None, tuple(found))
            if self._learn(mismatch, sizes):
                continue
            wrong = self._corrections(mismatch, sizes, edits)
            if not wrong or not corrected.keys().isdisjoint(wrong):
                return Fit(tensors, edits, mismatch)
            corrected |= wrong

    def _reached(self, fit: Fit) -> tuple[int, int]:
        """How far the forward passes are as predicted."""
        for place, forward in enumerate(self.network.passes):
            if fit.mismatch is not None and forward is fit.mismatch.forward:
                return place, fit.mismatch.index
        return len(self.network.passes), 0

    def further(self, fit: Fit, sizes: Sizes) -> list[Mismatch]:
        """All other places at which the pass that differed is not as predicted.

        Each is judged as if everything before it were.
        """
        if fit.mismatch is None or self.network.tracer.real:
            return []
        forward = fit.mismatch.forward
        candidate, _ = self._candidate(fit.tensors, sizes, [], {})
        pairs = zip(forward.trace.calls, forward.readings, strict=True)
        expected = [
            Expected(
                call.op,
                tuple(tuple(map(sizes.size, axes)) for axes in reading.outputs),
                tuple(tensor.dtype for tensor in call.outputs),
            )
            for call, reading in pairs
        ]
        correction = Correction(expected)
        trace = self.network.tracer.run_again(candidate, forward, correction=correction)
        found = {}
        for index in correction.wrong:
            site = self.lessons.site(forward, index)
            if index != fit.mismatch.index and site not in found:
                asked = self._stated(forward, trace, index, index)
                found[site] = self._mismatch(forward, index, "other sizes", asked, sizes)
        return list(found.values())

    def _stated(
        self, forward: Pass, trace: Recording, index: int, place: int
    ) -> dict[tuple[int, Literal], int]:
        """The arguments that state sizes in a call that a fitted network made."""
        literals = forward.readings[place].literals
        made = trace.calls[index] if index < len(trace.calls) else None
        if made is None or made.op != forward.trace.calls[place].op:
            return {}
        values = {(place, literal): argument(made, literal) for literal in literals}
        return {key: value for key, value in values.items() if value is not None}

    def _mismatch(
        self, forward: Pass, index: int, message: str, asked: Asked, sizes: Sizes
    ) -> Mismatch:
        found = drivers(self.network, forward, index, asked, sizes, self.lessons.sites(forward))
        ruled = {rule.site for rule in self.lessons.rules}
        driven = any(self.lessons.site(forward, place) in ruled for place, _ in asked)
        constant = not driven and are_constants(self.network, forward, index, asked, sizes)
        return Mismatch(forward, index, message, found, constant, asked=asked)

    def driven_alike(self, forward: Pass, index: int) -> list[Axis]:
        """Axes of all arguments that share an attribute of a module with one of a call's."""
        around = _places(forward, index)
        here = {driver for place in around for driver in self._drivers(forward, place)}
        if not here:
            return []
        ruled = {rule.site for rule in self.lessons.rules}
        places = range(len(forward.readings))
        return [
            axis
            for place in places
            if self.lessons.site(forward, place) in ruled
            for driver, axis in self._drivers(forward, place).items()
            if driver in here
        ]

    def _drivers(self, forward: Pass, index: int) -> dict[Place, Axis]:
        """The arguments of a call by the module and attribute that drives them."""
        found: dict[Place, Axis] = {}
        for rule in self.lessons.rules:
            axis = forward.readings[index].literals.get(rule.literal)
            if axis is None or rule.site != self.lessons.site(forward, index):
                continue
            owner = self._owner(rule, forward, index, axis)
            if owner is not None:
                found[self._place(owner[0], rule.driver)] = axis
        return found

    def _resized(self, sizes: Sizes) -> Segments:
        """Segments ``(old, new)`` of every axis of the parameters and buffers that change."""
        base = self.network.model
        changed = {}
        for name, tensor in named_tensors(base).items():
            if name not in self.network.known.tensors:
                continue
            axes = tensor_axes(self.network, name, tensor)
            rows = [sizes.segments(axis) for axis in axes]
            if any(old != new for row in rows for old, new in row):
                changed[name] = rows
        return changed

    def _corrections(
        self, mismatch: Mismatch, sizes: Sizes, edits: Sequence[Edit]
    ) -> dict[Place, int]:
        """Attributes whose arguments move with sizes of tensors, too, by what is amiss.

        Of ``width - x.shape[1]`` zeros, a rule tells the part of ``width`` alone.
        """
        found: dict[Place, int] = {}
        edited = {(path, attribute): value for path, attribute, value in edits}
        for (place, literal), value in mismatch.asked.items():
            axis = mismatch.forward.readings[place].literals[literal]
            site = self.lessons.site(mismatch.forward, place)
            for rule in self.lessons.rules:
                if (rule.site, rule.literal) != (site, literal):
                    continue
                owner = self._owner(rule, mismatch.forward, place, axis)
                if owner is None:
                    continue
                path, stated = owner
                key = self._place(path, rule.driver)
                amiss = (sizes.size(axis) - value) / rule.slopes[rule.driver]
                if amiss and amiss.denominator == 1:
                    found[key] = max(1, edited.get(key, stated[rule.driver]) + int(amiss))
        return found

    def _owner(
        self, rule: Rule, forward: Pass, index: int, axis: Axis
    ) -> tuple[str, dict[str, int]] | None:
        """The module whose attributes drive an argument of a call by a rule, and what they say.

        None if the rule does not hold there.
        """
        frames = frames_around(forward.trace, index)
        if len(frames) <= rule.depth:
            return None
        frame = forward.trace.frames[frames[rule.depth]]
        if frame.kind is not rule.kind:
            return None
        stated = stated_integers(submodule(self.network.model, frame.path), rule.slopes)
        return (frame.path, stated) if rule.holds(stated, axis_size(axis)) else None

    def _place(self, path: str, attribute: str) -> Place:
        """Where an attribute is that a rule knows by its path from some module."""
        child, inside = holder(submodule(self.network.model, path), attribute)
        return ".".join(filter(None, (path, child))), inside

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
        learnt, driving = self._learnt_edits(sizes, corrected)
        edits = [
            # What drives an argument describes nothing, also where it stays as it is.
            *(edit for edit in described if edit[:2] not in driving),
            *self.lessons.roots.edits(self.network, sizes),
            *self.lessons.checks.edits(self.network, sizes),
            *self._group_edits(sizes),
            *self._norm_edits(sizes),
            *self._stream_edits(sizes),
            *learnt,
        ]
        edits += self._followed(edits)
        apply_edits(candidate, edits)
        stated = list(_stated_edits(self.network.model, candidate, tensors))
        apply_edits(candidate, stated)
        # Later edits win over what merely looked like a description.
        last = {(path, attribute): value for path, attribute, value in [*edits, *stated]}
        return candidate, [(path, attribute, value) for (path, attribute), value in last.items()]

    def _followed(self, edits: list[Edit]) -> Iterator[Edit]:
        """What is set in a module, for those that no pass called and that follow it."""
        for path, twin in self.network.unused.followers.items():
            for where, attribute, value in edits:
                if where == twin or where.startswith(f"{twin}."):
                    yield path + where[len(twin) :], attribute, value

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
                stated = getattr(submodule(self.network.model, path), "groups", None)
                if stated == axis_size(axis) != sizes.size(axis):
                    yield path, "groups", sizes.size(axis)

    def _norm_edits(self, sizes: Sizes) -> Iterator[Edit]:
        """What norms state that have no parameters to tell it."""
        done = set()
        for forward in self.network.passes:
            for call, reading in zip(forward.trace.calls, forward.readings, strict=True):
                path = forward.trace.frames[call.frame].path if call.frame >= 0 else ""
                if path in done or not reading.inputs:
                    continue
                done.add(path)
                module = submodule(self.network.model, path)
                own = vars(module)
                if "weight" in dict(module.named_parameters(recurse=False)):
                    continue
                for name in ("num_channels", "num_features"):
                    axis = reading.inputs[0][1] if len(reading.inputs[0]) > 1 else ()
                    if own.get(name) == axis_size(axis) != sizes.size(axis):
                        yield path, name, sizes.size(axis)
                stated = own.get("normalized_shape", ())
                axes = reading.inputs[0][len(reading.inputs[0]) - len(stated) :]
                shape = tuple(map(sizes.size, axes))
                if tuple(stated) == tuple(map(axis_size, axes)) != shape:
                    yield path, "normalized_shape", shape

    def _stream_edits(self, sizes: Sizes) -> Iterator[Edit]:
        """How many channels of a residual stream its readers take."""
        for path, axis in self.network.known.read_widths.items():
            yield path, "stream_read.size", sizes.size(axis)

    def _learnt_edits(
        self, sizes: Sizes, corrected: Mapping[Place, int]
    ) -> tuple[list[Edit], set[Place]]:
        """What the rules set, and all attributes that they know to drive an argument."""
        driving: set[Place] = set(corrected)
        edits = dict(corrected)
        # Of an argument that several attributes drive, the others are known first.
        for rule in sorted(self.lessons.rules, key=lambda rule: len(rule.slopes)):
            for forward in self.network.passes:
                for index in self.lessons.places(forward).get(rule.site, []):
                    axis = forward.readings[index].literals.get(rule.literal)
                    if axis is not None:
                        driving |= self._follow(rule, forward, index, axis, sizes, edits)
        return [(path, attribute, value) for (path, attribute), value in edits.items()], driving

    def _follow(
        self,
        rule: Rule,
        forward: Pass,
        index: int,
        axis: Axis,
        sizes: Sizes,
        edits: dict[Place, int],
    ) -> set[Place]:
        """Set the driver of an argument so that it states the new size, if the rule holds here."""
        owner = self._owner(rule, forward, index, axis)
        if owner is None:
            return set()
        path, stated = owner
        key = self._place(path, rule.driver)
        if key in edits:
            return set()
        move = Fraction(sizes.size(axis) - axis_size(axis))
        for attribute, slope in rule.slopes.items():
            if attribute != rule.driver:
                now = edits.get(self._place(path, attribute), stated[attribute])
                move -= slope * (now - stated[attribute])
        value = stated[rule.driver] + move / rule.slopes[rule.driver]
        if value.denominator == 1 and 1 <= value != stated[rule.driver]:
            edits[key] = int(value)
        return {key}

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
    ) -> dict[tuple[int, Literal], int]:
        """What the differing call of a fitted network gives for the arguments that state sizes."""
        call = forward.trace.calls[index]
        made = trace.calls[index] if index < len(trace.calls) else None
        asked: dict[tuple[int, Literal], int] = {}
        for place in _places(forward, index):
            literals = forward.readings[place].literals
            if place == index and made is not None and made.op == call.op:
                values = {literal: argument(made, literal) for literal in literals}
            elif literals and trace.error is not None:
                if trace.refused is None:
                    trace = self.network.tracer.run_again(candidate, forward, limit=index + 1)
                wanted = forward.trace.calls[place]
                values = {literal: refused(trace, wanted, literal) for literal in literals}
            else:
                continue
            asked |= {(place, key): value for key, value in values.items() if value is not None}
        return asked

    def _learn(self, mismatch: Mismatch, sizes: Sizes) -> bool:
        """Probe for the attribute behind an argument of the differing call; False if none."""
        forward, index = mismatch.forward, mismatch.index
        found = False
        for place in _places(forward, index):
            site = self.lessons.site(forward, place)
            for literal, axis in forward.readings[place].literals.items():
                rules = [r for r in self.lessons.rules if (r.site, r.literal) == (site, literal)]
                lesson = (site, literal, len(rules))  # more where those before don't hold
                if sizes.size(axis) == axis_size(axis) or lesson in self.lessons.given_up:
                    continue
                self.lessons.given_up.add(lesson)
                if any(self._owner(rule, forward, place, axis) for rule in rules):
                    continue
                rule = self.lessons.prober.rule(forward, place, site, literal, self.lessons.rules)
                if rule is not None:
                    self.lessons.rules.append(rule)
                    self._learn_parts(forward, place, rule)
                    found = True
        if found or not mismatch.stopped:
            return found
        return self.lessons.checks.learn(self.network, forward, index)

    def _learn_parts(self, forward: Pass, index: int, rule: Rule) -> None:
        """Where several attributes drive one argument, learn what each of them drives alone.

        A view of ``2 * key + value`` channels comes before the split that tells key from value.
        """
        if len(rule.slopes) < 2:
            return
        frame = frames_around(forward.trace, index)[rule.depth]
        path = forward.trace.frames[frame].path
        stored = dict(integers(submodule(self.network.model, path)))
        parts = {stored[name] for name in rule.slopes if name in stored}
        for place in range(index + 1, len(forward.readings)):
            if frame not in frames_around(forward.trace, place)[:PROBED_DEPTH]:
                continue
            site = self.lessons.site(forward, place)
            for literal in forward.readings[place].literals:
                stated = argument(forward.trace.calls[place], literal)
                if stated not in parts or (site, literal, 0) in self.lessons.given_up:
                    continue
                self.lessons.given_up.add((site, literal, 0))
                other = self.lessons.prober.rule(forward, place, site, literal, self.lessons.rules)
                if other is not None:
                    self.lessons.rules.append(other)


def _stated_edits(base: nn.Module, candidate: nn.Module, tensors: Segments) -> Iterator[Edit]:
    """What PyTorch's own layers state of sizes that changed."""
    owners = (name.rpartition(".")[0] for name in tensors)
    known, made = (dict(network.named_modules()) for network in (base, candidate))
    for path in dict.fromkeys([*owners, *made]):
        module = known[path] if path in known else submodule(base, path)
        if isinstance(module, torch.jit.ScriptModule):
            continue  # its sizes are part of its code
        before = stated_sizes(module)
        twin = made[path] if path in made else submodule(candidate, path)
        after = stated_sizes(twin) if before else {}
        for attribute, value in before.items():
            if vars(module).get(attribute) == value != after.get(attribute, value):
                yield path, attribute, after[attribute]


def _places(forward: Pass, index: int) -> range:
    """A differing call, with the view behind it if it is the copy that a reshape begins with."""
    calls = forward.trace.calls
    after = index + 1 < len(calls) and calls[index].name == "clone"
    last = index + 2 if after and calls[index + 1].name in RESHAPES else index + 1
    return range(index, min(last, len(calls)))


class _Predicted:
    """The calls of a pass at other sizes, held against those of a fitted network as it runs."""

    def __init__(self, network: Network, forward: Pass, sizes: Sizes) -> None:
        self.network = network
        self.calls = forward.trace.calls
        self.readings = forward.readings
        self.sizes = sizes
        self._first: int | None = None
        self._shapes: dict[int, list[tuple[int, ...]]] = {}

    def differs(self, index: int, made: Step) -> bool:
        """Whether a call that returned is not as predicted."""
        if index >= len(self.calls) or made.op != self.calls[index].op:
            different = True
        else:
            different = not self._agrees(self.readings[index], made)
        if different and self._first is None:
            self._first = index
        return different

    def difference(self, trace: Recording) -> int | None:
        """Index of the first call that was not as predicted; None if the whole trace was."""
        raised = (index for index, call in enumerate(trace.calls) if not call.returned)
        found = [index for index in (self._first, next(raised, None)) if index is not None]
        if len(trace.calls) < len(self.calls) or trace.error is not None:
            found.append(len(trace.calls))
        return min(*found, len(self.calls) - 1) if found else None

    def _agrees(self, reading: CallReading, made: Step) -> bool:
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
            size == expected or _meets_nothing(self.network, axis, self.sizes)
            for axis, expected, size in zip(axes, shape, got, strict=True)
        )


def _meets_nothing(network: Network, axis: Axis, sizes: Sizes) -> bool:
    """Whether an axis belongs to no layer and none is held for it: a tensor that is thrown away."""
    return all(
        root.varies and root not in sizes.kept and root not in network.fixed
        for root in roots_of([axis])
    )
