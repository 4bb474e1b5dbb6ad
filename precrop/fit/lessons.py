"""Collects what probing a network taught, and derives its attributes at other sizes from it."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import chain, islice, product
from typing import Any

from precrop.fit.arguments import Argument, Literal, arguments, differing
from precrop.fit.attributes import Edit, holder, integers, stated_integers
from precrop.fit.checks import Checks
from precrop.fit.drivers import Asked
from precrop.fit.edits import widths_in
from precrop.fit.probing import PROBED_DEPTH, Prober, Rule
from precrop.fit.roots import Roots
from precrop.modules.copying import submodule
from precrop.read.axes import Axis, axis_size
from precrop.read.network import Network, Pass, Sizes
from precrop.read.trace import Site

MOST_CHOICES = 64
"""Most combinations of values that are tried for attributes that drive one argument together."""
Place = tuple[str, str]
"""Module path and attribute path."""


class Lessons:
    """What probing one network taught; it holds under any constraints and only grows.

    ``rules`` say which attributes drive which arguments, ``roots`` which are powers of widths,
    ``checks`` which ones the code compares with widths.
    """

    def __init__(self, network: Network) -> None:
        self.network, self.prober = network, Prober(network.tracer)
        self.rules: list[Rule] = []
        self.roots, self.checks = Roots(self.prober), Checks(self.prober)
        self._given_up: set[tuple[Site, Literal, int]] = set()
        """Arguments that were probed, each with the number of its rules known then."""

    def owner(self, rule: Rule, argument: Argument) -> tuple[str, dict[str, int]] | None:
        """Return the path of the module whose attributes drive an argument, and their values.

        None if the rule does not hold for this argument.
        """
        trace = argument.forward.trace
        frames = trace.around(argument.index)
        if len(frames) <= rule.depth or trace.frames[frames[rule.depth]].kind is not rule.kind:
            return None
        path = trace.frames[frames[rule.depth]].path
        stated = stated_integers(submodule(self.network.model, path), rule.slopes)
        return (path, stated) if rule.holds(stated, axis_size(argument.axis)) else None

    def multiples(self, argument: Argument) -> Iterator[int]:
        """Yield the factors by which rules say that an argument is always divisible."""
        for rule in filter(lambda rule: rule.is_of(argument), self.rules):
            factor = rule.slopes[rule.driver].numerator
            divides = factor > 1 and axis_size(argument.axis) % factor == 0
            if divides and len(rule.slopes) == 1 and self.owner(rule, argument) is not None:
                yield factor

    def place(self, path: str, attribute: str) -> Place:
        """Return the place of an attribute that a rule gives by its path from a module."""
        _, child, inside = holder(submodule(self.network.model, path), attribute)
        return ".".join(filter(None, (path, child))), inside

    def driven_alike(self, forward: Pass, index: int) -> list[Axis]:
        """Return the axes of all arguments that the same attributes drive as those of a call."""
        here = [*differing(forward, index)]
        if not any(rule.is_of(argument) for rule in self.rules for argument in here):
            return []
        driven = [
            (self.place(owner[0], rule.driver), argument)
            for rule in self.rules
            for argument in rule.arguments(forward)
            if (owner := self.owner(rule, argument)) is not None
        ]
        places = {place for place, argument in driven if argument in here}
        alike = [argument for place, argument in driven if place in places]
        return [argument.axis for argument in sorted(alike, key=lambda each: each.index)]

    def corrections(
        self, asked: Asked, sizes: Sizes, edited: Mapping[Place, Any]
    ) -> dict[Place, int]:
        """Return attribute values that correct differing arguments by what they are off.

        Such arguments also depend on a tensor's size (``width - x.shape[1]``), which no rule knows.
        """
        found: dict[Place, int] = {}
        for argument, value in asked.items():
            for rule in filter(lambda rule: rule.is_of(argument), self.rules):
                owner = self.owner(rule, argument)
                if owner is None:
                    continue
                path, stated = owner
                key = self.place(path, rule.driver)
                amiss = (sizes.size(argument.axis) - value) / rule.slopes[rule.driver]
                if amiss and amiss.denominator == 1:
                    now = edited.get(key, stated[rule.driver])
                    found[key] = max(1, now + int(amiss))
        return found

    def edits(
        self, network: Network, sizes: Sizes, corrected: Mapping[Place, int]
    ) -> tuple[list[Edit], set[Place]]:
        """Return the edits by rules, and the places of all attributes that drive an argument."""
        edits, driving = dict(corrected), set(corrected)
        # Rules of one attribute go first: rules of several build on the values that they set.
        for rule in sorted(self.rules, key=lambda rule: len(rule.slopes)):
            for argument in chain.from_iterable(map(rule.arguments, network.passes)):
                owner = self.owner(rule, argument)
                if owner is None:
                    continue
                driving.add(self.place(owner[0], rule.driver))
                found = self._settings(rule, argument, sizes, edits, *owner)
                driving |= found.keys()
                edits |= found
        return [(*place, value) for place, value in edits.items()], driving

    def _settings(
        self,
        rule: Rule,
        argument: Argument,
        sizes: Sizes,
        edits: Mapping[Place, int],
        path: str,
        stated: Mapping[str, int],
    ) -> dict[Place, int]:
        """Return the attribute values by which an argument states its new size.

        If several attributes drive it (``width - part``), each becomes what a width of its value
        became, if that gives the new size; else only the driver is set, unless it already is.
        """
        places = {name: self.place(path, name) for name in rule.slopes}
        wanted = Fraction(sizes.size(argument.axis) - axis_size(argument.axis))
        if len(places) > 1:
            became = widths_in(argument.forward, path, sizes)
            choices = [
                [edits[at]] if at in edits else sorted(became.get(stated[name], {stated[name]}))
                for name, at in places.items()
            ]
            for values in islice(product(*choices), MOST_CHOICES):
                moves = {n: new - stated[n] for n, new in zip(places, values, strict=True)}
                if sum(rule.slopes[name] * move for name, move in moves.items()) == wanted:
                    return {places[n]: stated[n] + move for n, move in moves.items() if move}
        driver = places.pop(rule.driver)
        if driver in edits:
            return {}
        for name, at in places.items():
            wanted -= rule.slopes[name] * (edits.get(at, stated[name]) - stated[name])
        value = stated[rule.driver] + wanted / rule.slopes[rule.driver]
        sensible = value.denominator == 1 and 1 <= value != stated[rule.driver]
        return {driver: int(value)} if sensible else {}

    def learn(self, forward: Pass, index: int, sizes: Sizes) -> bool:
        """Probe for the attributes behind a differing call's arguments; False if none is found."""
        found = False
        for argument in differing(forward, index):
            if sizes.size(argument.axis) == axis_size(argument.axis):
                continue
            rules = [rule for rule in self.rules if rule.is_of(argument)]
            new = self._is_new(argument, len(rules))  # the rules so far may not hold here
            if not new or any(self.owner(rule, argument) for rule in rules):
                continue
            rule = self.prober.rule(argument, self.rules)
            if rule is not None and self.owner(rule, argument):
                self.rules.append(rule)
                self._learn_parts(argument, rule)
                found = True
        return found

    def _is_new(self, argument: Argument, rules: int) -> bool:
        """Whether an argument was not probed before with this number of rules; note that it is."""
        lesson = (argument.site, argument.literal, rules)
        new = lesson not in self._given_up
        self._given_up.add(lesson)
        return new

    def _learn_parts(self, argument: Argument, rule: Rule) -> None:
        """If several attributes drive one argument, learn the rules of later ones they drive alone.

        A view of ``2 * key + value`` channels comes before the split that tells key from value.
        """
        if len(rule.slopes) < 2:
            return
        forward, trace = argument.forward, argument.forward.trace
        frame = trace.around(argument.index)[rule.depth]
        stored = dict(integers(submodule(self.network.model, trace.frames[frame].path)))
        parts = {stored[name] for name in rule.slopes if name in stored}
        for place in range(argument.index + 1, len(forward.readings)):
            around = trace.around(place)[:PROBED_DEPTH]
            if frame not in around:
                continue
            for part in arguments(forward, place):
                if part.stated in parts and self._is_new(part, 0):
                    other = self.prober.rule(part, self.rules, around.index(frame) + 1)
                    if other is not None:
                        self.rules.append(other)
