"""Causal probing: finds the stored integer that drives an argument of a call.

A module around the call is run again, on the same inputs, with one of its integers changed. If the
argument changes too, the integer drives it; the ratio of the two changes is the slope.
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

# How many of the modules around a call, from the innermost, are probed.
PROBED_DEPTH = 3
# If one attribute (a configuration) holds more integers than this, all are first changed at once.
MOST_ALONE = 3
# If a module holds more integers than this, only divisors and multiples of the argument are probed.
MOST_OWN = 64
# Most integers of inner modules that are probed, since each takes a run of the outer module.
MOST_INNER = 32
# Changes of a stored integer, in order of trial: code may divide it by 2, 3, 4, 6 or 8 and round.
CHANGES = (-24, -12, -8, -6, -4, -2, -1, 2)


@dataclass(frozen=True)
class Rule:
    """Attributes that drive an argument: its change is the sum of slopes times their changes.

    The attributes belong to a module of class ``kind``, ``depth`` frames outside of the call's own.
    ``driver`` is the one to set; the others may have been set for other arguments.
    If ``proportional``, the rule holds only where the argument is its slope times the driver:
    elsewhere the slope is another (``width // heads``), or a branch has another argument here.
    """

    site: Site
    literal: Literal
    depth: int
    kind: type[nn.Module]
    driver: str
    slopes: Mapping[str, Fraction]
    proportional: bool

    def holds(self, stated: Mapping[str, int], size: int) -> bool:
        """Whether the rule applies to an argument of this size, given the attributes' values."""
        if not self.slopes.keys() <= stated.keys():
            return False
        return not self.proportional or self.slopes[self.driver] * stated[self.driver] == size

    def is_of(self, argument: Argument) -> bool:
        """Whether the rule was learnt from this argument, or from another call of the same code."""
        return self.literal == argument.literal and self.site == argument.site

    def arguments(self, forward: Pass) -> Iterator[Argument]:
        """Yield all arguments of a pass at the rule's place in the code."""
        for index in forward.trace.places.get(self.site, ()):
            if self.literal in forward.readings[index].literals:
                yield Argument(forward, index, self.literal)


@dataclass(frozen=True)
class _Replay:
    """One call of one module: its inputs, and the trace's calls that it made, with their indices.

    ``differs`` maps changed values to the index in ``calls`` of the first call that they alter;
    after it the calls cannot be compared.
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
    """Probes one network; keeps the inputs of modules to run them again."""

    tracer: Tracer
    _replays: dict[tuple[Trace, int], _Replay] = field(default_factory=dict)

    def rule(
        self, argument: Argument, known: Sequence[Rule], depth: int = PROBED_DEPTH
    ) -> Rule | None:
        """Find what drives an argument, given the rules found so far; None if nothing is found.

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
                continue  # its integers are compiled into its code
            replay = self._replay(forward, frame)
            stored = self._probed(replay, argument, stated)
            slopes = self._slopes(replay, argument, stored)
            drivers = [name for name, slope in slopes.items() if slope > 0]
            if drivers:
                # Prefer one that drives no other argument of the call, then one that the argument
                # is proportional to, then the larger: of heads times width, the width changes.
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
        """Return the integers of a module that are to be probed one by one.

        Many in one attribute are left out if the argument stays when all of them are changed.
        """
        stored = dict(integers(replay.module))
        held: dict[str, list[str]] = {}
        for name in stored:
            held.setdefault(name.partition(".")[0], []).append(name)
        for names in (names for names in held.values() if len(names) > MOST_ALONE):
            # Each changes by another number, so that no quotient of two of them stays the same.
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
        """Return the stored integers that move an argument, each with its slope."""
        slopes = {name: self._slope(replay, argument, name, n) for name, n in stored.items()}
        return {name: slope for name, slope in slopes.items() if slope}

    def _balanced_driver(
        self,
        replay: _Replay,
        argument: Argument,
        stored: Mapping[str, int],
        known: Sequence[Rule],
    ) -> str | None:
        """Find the attribute that equals an argument and drives it, changing another one with it.

        The sizes of a split must sum to an earlier view's size, so another attribute behind that
        view is changed against this one. Two sizes that divide an axis keep their product.
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
        """Run a module with an attribute changed; return its calls by their indices in the trace.

        It is empty if any call differs in its operation or its shapes.
        """
        replay = self._replay(forward, frame)
        trace = self._run(replay, {name: value})
        if _difference(replay.calls, trace, len(replay.calls)) is not None:
            return {}
        return dict(zip(replay.places, trace.calls, strict=False))

    def stops(self, forward: Pass, frame: int, index: int, name: str, value: int) -> bool:
        """Whether a module's own code raises before a call if an attribute is changed."""
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
        """Run the network up to one call of one module and keep the inputs of that call."""
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
        """Return the change of an argument per change of a stored integer; None if unknown."""
        stated = argument.stated
        for change in CHANGES:
            if value + change < 1 or stated is None:
                continue
            moved = self._moved(replay, argument, {name: value + change})
            if moved is not None:
                return Fraction(moved - stated, change)
        return None

    def _moved(self, replay: _Replay, argument: Argument, values: Mapping[str, int]) -> int | None:
        """Return the argument's value after stored integers are set; None if it is not reached."""
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
        """Run a copy of a module with some attributes set, on the inputs that it had."""
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
    """Yield values by which one attribute changes and another against it, so that the sum stays."""
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
    """Yield values by which one attribute takes a factor from another; the product stays."""
    for other, value in stored.items():
        if other != name and value > 1 and stored[name] * value in split:
            factor = next(factor for factor in range(2, value + 1) if value % factor == 0)
            yield {name: stored[name] * factor, other: value // factor}


def _difference(calls: list[Call], trace: Recording, place: int) -> int | None:
    """Return the index of the first call before ``place`` in which a trace differs, if any."""
    pairs = enumerate(zip(calls[:place], trace.calls[:place], strict=False))
    different = (
        i for i, (call, other) in pairs if (call.op, call.shapes) != (other.op, other.shapes)
    )
    return next(different, None)
