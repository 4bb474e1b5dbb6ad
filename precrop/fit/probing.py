"""Causal probing: which stored integer drives an argument of a call?

A module around the call is run again, on the inputs that it had, with one integer of its own
changed. The argument that moves is what the integer drives, and by how much.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from precrop.fit.arguments import Argument, Literal
from precrop.fit.attributes import holder, inner_integers, integers, set_attribute
from precrop.modules.copying import copied, submodule
from precrop.read.network import Pass
from precrop.read.recording import run
from precrop.read.trace import Call, Recording, Site, Step, Trace
from precrop.read.tracer import Tracer

# Modules around a call, from the innermost, whose attributes may hold one of its arguments.
PROBED_DEPTH = 3
# Integers of one attribute that are probed one by one, whether or not any of them does anything.
MOST_ALONE = 3
# Integers of one module that are probed whatever they are; of more than these, those that the
# argument may be a share or a multiple of.
MOST_OWN = 64
# Integers of inner modules that may hold an argument, since each takes a run of the outer one.
MOST_INNER = 32
# Changes of a stored integer, in this order: code may divide it by 2, 3, 4, 6 or 8 and round.
CHANGES = (-24, -12, -8, -6, -4, -2, -1, 2)


@dataclass(frozen=True)
class Rule:
    """Attributes that drive an argument: it moves by the sum of ``slope`` times what each moves.

    The attributes belong to a module of class ``kind``, ``depth`` frames outside of the call.
    ``driver`` is the one to set; the others may have been set for other arguments.
    ``proportional``: the argument is ``slope`` times the driver. Where it is not, the slope is
    another (of width // heads it depends on the heads), or the class has branches and another
    argument is at the same place.
    """

    site: Site
    literal: Literal
    depth: int
    kind: type[nn.Module]
    driver: str
    slopes: Mapping[str, Fraction]
    proportional: bool

    def holds(self, stated: Mapping[str, int], size: int) -> bool:
        """Whether the rule tells how an argument of this size moves with these attributes."""
        if not self.slopes.keys() <= stated.keys():
            return False
        return not self.proportional or self.slopes[self.driver] * stated[self.driver] == size

    def is_of(self, argument: Argument) -> bool:
        """Whether it was learnt of this argument of the same code."""
        return self.literal == argument.literal and self.site == argument.site

    def arguments(self, forward: Pass) -> Iterator[Argument]:
        """All arguments of a pass that it was learnt of."""
        for index in forward.trace.places.get(self.site, ()):
            if self.literal in forward.readings[index].literals:
                yield Argument(forward, index, self.literal)


@dataclass(frozen=True)
class _Replay:
    """One call of one module: what it was given, and which of the trace's calls it made.

    ``differs`` has the first call, as one of ``calls``, that changed values were seen to change:
    they tell nothing of any behind it.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    places: list[int]
    calls: list[Call]
    differs: dict[frozenset[tuple[str, int]], int] = field(default_factory=dict)


class _ReachedError(Exception):
    """Ends a forward pass at the module whose inputs are wanted."""


@dataclass
class Prober:
    """Probes one network; keeps the inputs of the modules that it ran."""

    tracer: Tracer
    _replays: dict[tuple[Trace, int], _Replay] = field(default_factory=dict)

    def rule(
        self, argument: Argument, known: Sequence[Rule], depth: int = PROBED_DEPTH
    ) -> Rule | None:
        """What drives an argument, given the rules that were found before.

        Only ``depth`` modules around the call are probed.
        """
        forward, stated = argument.forward, argument.stated
        if stated is None:
            return None
        place = argument.site, argument.literal
        beside = (rule for rule in known if rule.site == argument.site)
        taken = {rule.driver for rule in beside if not rule.is_of(argument)}
        for outside, frame in enumerate(forward.trace.around(argument.index)[:depth]):
            kind = forward.trace.frames[frame].kind
            if issubclass(kind, torch.jit.ScriptModule):
                continue  # its integers are part of its code
            replay = self._replay(forward, frame)
            stored = self._probed(replay, argument, stated)
            slopes = self._slopes(replay, argument, stored)
            drivers = [name for name, slope in slopes.items() if slope > 0]
            if drivers:
                # An attribute that is not taken, then one that the argument is a multiple of, then
                # the larger one: of heads times width it is the width that changes.
                driver = max(
                    drivers,
                    key=lambda a: (a not in taken, slopes[a] * stored[a] == stated, stored[a]),
                )
                proportional = slopes[driver] * stored[driver] == stated
                return Rule(*place, outside, kind, driver, slopes, proportional)
            alone = self._balanced_driver(replay, argument, stored, known)
            if alone is not None:
                return Rule(*place, outside, kind, alone, {alone: Fraction(1)}, True)
            equal = (pair for pair in inner_integers(replay.module) if pair[1] == stated)
            moving = self._slopes(replay, argument, dict(islice(equal, MOST_INNER)))
            child = next((name for name, slope in moving.items() if slope == 1), None)
            if child is not None:
                return Rule(*place, outside, kind, child, moving, True)
        return None

    def _probed(self, replay: _Replay, argument: Argument, stated: int) -> dict[str, int]:
        """The integers of a module that are probed one by one.

        Those of one attribute, such as a configuration, are first changed all at once.
        """
        stored = dict(integers(replay.module))
        held: dict[str, list[str]] = {}
        for name in stored:
            held.setdefault(name.partition(".")[0], []).append(name)
        for names in (names for names in held.values() if len(names) > MOST_ALONE):
            # Each by another number, so that no quotient of two stays as it was.
            changed = {name: stored[name] - CHANGES[0] + i for i, name in enumerate(names)}
            if self._moved(replay, argument, changed) == stated:
                stored = {name: stored[name] for name in stored if name not in changed}
        if len(stored) <= MOST_OWN:
            return stored
        sizes = ((name, value) for name, value in stored.items() if value > 1)
        return {n: size for n, size in sizes if not size % max(1, stated) or not stated % size}

    def _slopes(
        self, replay: _Replay, argument: Argument, stored: Mapping[str, int]
    ) -> dict[str, Fraction]:
        """The stored integers that move an argument, and by how much for every one they move."""
        slopes = {name: self._slope(replay, argument, name, n) for name, n in stored.items()}
        return {name: slope for name, slope in slopes.items() if slope}

    def _balanced_driver(
        self,
        replay: _Replay,
        argument: Argument,
        stored: Mapping[str, int],
        known: Sequence[Rule],
    ) -> str | None:
        """The attribute that an argument is equal to and moves with, if none can move alone.

        The sizes of a split must sum to what an earlier view was given: where one of the attributes
        behind that view moves, another one moves against it, so that the view stays as it was. Two
        sizes into which one axis is split keep their product.
        """
        split = {size for value in argument.call.inputs for size in value.shape}
        summed = [rule.slopes for rule in known if rule.kind is type(replay.module)]
        for name in (name for name, value in stored.items() if value == argument.stated):
            balanced = (
                _counterbalanced(name, slopes, stored) for slopes in summed if name in slopes
            )
            for changed in chain(*balanced, _exchanged(name, stored, split)):
                if self._moved(replay, argument, changed) == changed[name]:
                    return name
        return None

    def rerun(self, forward: Pass, frame: int, name: str, value: float) -> dict[int, Step]:
        """Calls of a module that was run with an attribute changed, by the original's place."""
        replay = self._replay(forward, frame)
        trace = self._run(replay, {name: value})
        if _difference(replay.calls, trace, len(replay.calls)) is not None:
            return {}
        return dict(zip(replay.places, trace.calls, strict=False))

    def stops(self, forward: Pass, frame: int, index: int, name: str, value: int) -> bool:
        """Whether a module's own code raises before a call once an attribute is changed."""
        replay = self._replay(forward, frame)
        place = replay.places.index(index)
        trace = self._run(replay, {name: value}, place + 1)
        between = len(trace.calls) <= place and all(call.returned for call in trace.calls)
        return trace.error is not None and between

    def _replay(self, forward: Pass, frame: int) -> _Replay:
        key = (forward.trace, frame)
        if key not in self._replays:
            self._replays[key] = self._captured(forward, frame)
        return self._replays[key]

    def _captured(self, forward: Pass, frame: int) -> _Replay:
        """Run the network up to one call of one module and keep what the module was given."""
        trace = forward.trace
        path = trace.frames[frame].path
        earlier = sum(other.path == path for other in trace.frames[:frame])
        network = self.tracer.replica()
        module = submodule(network, path)
        given: list[Any] = []

        def keep(_: nn.Module, args: Any, kwargs: Any) -> None:
            given.append((args, kwargs))
            if len(given) > earlier:
                raise _ReachedError

        handle = module.register_forward_pre_hook(keep, with_kwargs=True)
        self.tracer.run_again(network, forward)
        handle.remove()
        args, kwargs = given[-1]
        places = [i for i in range(len(trace.calls)) if frame in trace.around(i)]
        return _Replay(module, args, kwargs, places, [trace.calls[i] for i in places])

    def _slope(self, replay: _Replay, argument: Argument, name: str, value: int) -> Fraction | None:
        """By how much an argument moves for every one that a stored integer moves."""
        stated = argument.stated
        for change in CHANGES:
            if value + change < 1 or stated is None:
                continue
            moved = self._moved(replay, argument, {name: value + change})
            if moved is not None:
                return Fraction(moved - stated, change)
        return None

    def _moved(self, replay: _Replay, argument: Argument, values: Mapping[str, int]) -> int | None:
        """The argument after stored integers were set; None if the call is not reached."""
        place, changed = replay.places.index(argument.index), frozenset(values.items())
        if replay.differs.get(changed, place) < place:
            return None
        trace = self._run(replay, values, place + 1)
        different = _difference(replay.calls, trace, place)
        if different is not None:
            replay.differs[changed] = different
            return None
        if len(trace.calls) > place and trace.calls[place].op == argument.call.op:
            return argument.value(trace.calls[place])
        return argument.refused(trace)

    def _run(
        self, replay: _Replay, values: Mapping[str, float], limit: int | None = None
    ) -> Recording:
        """Run a module again after some of its attributes were set."""
        module = copied(replay.module, lambda _, tensor: tensor.detach().clone())
        for name, value in values.items():
            child, _, attribute = holder(module, name)
            set_attribute(child, attribute, value)
        args, kwargs = tree_map_only(Tensor, Tensor.clone, (replay.args, replay.kwargs))
        meta = None if self.tracer.real else self.tracer.meta
        with self.tracer.tables.lent():
            return run(module, args, kwargs, meta, limit, fold=self.tracer.fold)


def _counterbalanced(
    name: str, slopes: Mapping[str, Fraction], stored: Mapping[str, int]
) -> Iterator[dict[str, int]]:
    """Values with which one attribute moves, another one against it, and their sum does not."""
    for other in slopes:
        for change in CHANGES:
            against = -change * slopes[name] / slopes[other]
            if other == name or against.denominator > 1:
                continue
            changed = {name: stored[name] + change, other: stored[other] + int(against)}
            if min(changed.values()) >= 1:
                yield changed


def _exchanged(
    name: str, stored: Mapping[str, int], split: Container[int]
) -> Iterator[dict[str, int]]:
    """Values with which one attribute takes a factor from another one: their product stays."""
    for other, value in stored.items():
        if other != name and value > 1 and stored[name] * value in split:
            factor = next(factor for factor in range(2, value + 1) if value % factor == 0)
            yield {name: stored[name] * factor, other: value // factor}


def _difference(calls: list[Call], trace: Recording, place: int) -> int | None:
    """Where a trace differs first, if before a call: what was changed drives an earlier one."""
    pairs = enumerate(zip(calls[:place], trace.calls[:place], strict=False))
    different = (
        i for i, (call, other) in pairs if (call.op, call.shapes) != (other.op, other.shapes)
    )
    return next(different, None)
