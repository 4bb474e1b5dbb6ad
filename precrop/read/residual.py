"""Finds the residual streams of a network, and the layers that read and write them."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

from precrop.modules.streams import FIRST, At, End, Stream
from precrop.read.axes import Axis, Tie, resolve, roots_of, varies
from precrop.read.known import Axes
from precrop.read.network import Network
from precrop.read.trace import Call
from precrop.read.values import TensorValue


def find_streams(network: Network, tied: Collection[Tie] = ()) -> list[Stream]:
    """Return the ends of layers at residual streams, in the order of execution.

    A stream is a set of tensors: the operands and the output of a sum of two activations of one
    shape, and all tensors from which, or into which, operations without parameters transform them.
    Layers whose output is in the stream (often norms) write to it, layers whose input is in it read
    from it. A stream is left out if some of its tensors are made in another way (by a
    concatenation, by an attention block's own code, as rows of a table), if no hook can find them
    at a layer, or if its width is ``tied``; its layers then share one width, as without
    ``residual="crop"``. An unused module has the same ends as the module that it follows.
    """
    found = list(_Search(network, tied).ends())
    for path, twin in network.unused.followers.items():
        inside = (end for end in found if f"{end.path}.".startswith(f"{twin}."))
        found += [replace(end, path=path + end.path[len(twin) :], sources=()) for end in inside]
    return found


@dataclass
class _Found:
    """One stream.

    Attributes:
        ties: the ties of its width.
        ends: paths of layers, and whether they read or write.
        tensors: numbers of its tensors.
        origins: calls outside of layers that make its tensors from others.
    """

    ties: set[Tie]
    ends: set[tuple[str, End]] = field(default_factory=set)
    tensors: set[int] = field(default_factory=set)
    origins: list[Call] = field(default_factory=list)


class _Search:
    """Follows streams through the calls of the pass in eval mode."""

    def __init__(self, network: Network, tied: Collection[Tie]) -> None:
        self.network, self.tied = network, tied
        self.trace = network.passes[0].trace
        self.layers = {
            path
            for path, module in network.tracer.modules.items()
            if next(module.children(), None) is None
            and next(module.parameters(recurse=False), None) is not None
        }
        self.owners = {weight.rpartition(".")[0] for weight in network.known.layers}
        self.found: dict[tuple[str, End], dict[tuple[At, int, int], None]] = {}
        self.makers: dict[int, Call] = {}
        self.users: dict[int, list[Call]] = defaultdict(list)
        self.axes: dict[int, Axes] = {}
        for call, reading in network.passes[0].pairs:
            for tensor, axes in zip(call.inputs, reading.inputs, strict=True):
                self.users[tensor.number].append(call)
                self.axes.setdefault(tensor.number, axes)
            for tensor, axes in zip(call.outputs, reading.outputs, strict=True):
                self.makers.setdefault(tensor.number, call)
                self.axes.setdefault(tensor.number, axes)

    def ends(self) -> Iterator[Stream]:
        """Yield every end once, a module's read end before its write end."""
        streams = self._valid(self._streams())
        tensors = set[int]().union(*(stream.tensors for stream in streams))
        ends = set[tuple[str, End]]().union(*(stream.ends for stream in streams))
        sources = self._sources(tensors, {path for path, end in ends if end == "write"})
        order = {path: index for index, path in enumerate(map(self._layer, self.trace.calls))}
        for path, end in sorted(ends, key=lambda key: (order[key[0]], key[1])):
            known = sources.get(path, set()) if end == "read" else set()
            before = () if "" in known else tuple(sorted(known))
            places = tuple(at for at, _, _ in self.found[path, end])
            (_, dim, width), *_ = self.found[path, end]
            yield Stream(path, end, dim, width, before, () if places == (FIRST,) else places)

    def _streams(self) -> list[_Found]:
        streams: list[_Found] = []
        for call in self.trace.calls:
            for tensor, dim in self._sum(call):
                if not any(tensor.number in stream.tensors for stream in streams):
                    streams.append(self._follow(tensor, dim))
        return streams

    def _sum(self, call: Call) -> Iterator[tuple[TensorValue, int]]:
        """Yield the operands and the output of a residual sum, each with its channel axis."""
        operands = call.inputs
        if call.name != "add" or len(operands) != 2 or self._layer(call) is not None:
            return
        if operands[0].shape != operands[1].shape or operands[0].number == operands[1].number:
            return
        dims = {self._channels(tensor) for tensor in operands}
        dim = dims.pop()
        if not dims and dim is not None and all(t.number in self.makers for t in operands):
            for tensor in (*operands, *call.outputs):
                yield tensor, dim

    def _channels(self, tensor: TensorValue, row: Axis | None = None) -> int | None:
        """Return the dim of the only axis that varies (and equals ``row``), or None."""
        dims = [
            dim
            for dim, axis in enumerate(self.axes.get(tensor.number, ()))
            if dim > 0 and varies(axis) and row in (None, resolve(axis))
        ]
        return dims[0] if len(dims) == 1 else None

    def _follow(self, tensor: TensorValue, dim: int) -> _Found:
        """Return the stream of a tensor by following the calls that make and use its tensors."""
        row = resolve(self.axes[tensor.number][dim])
        found = _Found(roots_of([row]))
        pending = [(tensor, dim)]
        while pending:
            tensor, dim = pending.pop()
            if tensor.number in found.tensors:
                continue
            found.tensors.add(tensor.number)
            maker = self.makers.get(tensor.number)
            if maker is not None:
                before = self._on(maker, row)
                if self._layer(maker) is not None:
                    self._end(found, maker, "write", tensor, dim)
                elif before:
                    pending += before
                else:
                    found.origins.append(maker)
            for user in self.users[tensor.number]:
                if self._layer(user) is None:
                    pending += self._on(user, row)
                elif maker is None or maker.frame != user.frame:  # else it is inside the layer
                    self._end(found, user, "read", tensor, dim)
        return found

    def _end(self, found: _Found, call: Call, end: End, tensor: TensorValue, dim: int) -> None:
        """Note an end of the layer that makes a call; its place is empty if no hook can find it."""
        path, values = self.trace.path(call), self.trace.passed.get((call.frame, end), {}).items()
        places = [at for at, value in values if value.number == tensor.number]
        if end == "write" and path not in self.owners and not self._takes_widths(call.frame):
            places = []  # rows of a table, whose width is no layer's to choose
        found.ends.add((path, end))
        known = self.found.setdefault((path, end), {})
        known |= dict.fromkeys((at, dim, tensor.shape[dim]) for at in places or [()])

    def _takes_widths(self, frame: int) -> bool:
        """Whether any input of a module has an axis that varies."""
        given = self.trace.passed.get((frame, "read"), {}).values()
        return any(varies(axis) for value in given for axis in self.axes.get(value.number, ()))

    def _is_found(self, path: str, end: End) -> bool:
        """Whether hooks find the stream's width along one axis in all calls of a layer."""
        places = self.found[path, end]
        return len({place[1:] for place in places}) == 1 and all(
            (value := run.trace.passed.get((index, end), {}).get(at)) is not None
            and value.shape[dim : dim + 1] == (width,)
            for run in self.network.passes
            for index, frame in enumerate(run.trace.frames)
            if frame.path == path
            for at, dim, width in places
        )

    def _on(self, call: Call, row: Axis) -> list[tuple[TensorValue, int]]:
        """Return the tensors of a call with the stream's channels; none if no operand has them."""
        operands = [(t, self._channels(t, row)) for t in call.inputs]
        reads = [(t, dim) for t, dim in operands if dim is not None and t.number in self.makers]
        made = [(t, self._channels(t, row)) for t in call.outputs] if reads else []
        return [*reads, *((t, dim) for t, dim in made if dim is not None)]

    def _valid(self, streams: list[_Found]) -> list[_Found]:
        """Return the streams whose ends hooks can find and that nothing else of a width makes."""
        streams = [s for s in streams if s.ties.isdisjoint(self.tied)]
        streams = [s for s in streams if all(self._is_found(*end) for end in s.ends)]
        while True:
            tensors = set[int]().union(*(stream.tensors for stream in streams))
            kept = [s for s in streams if all(self._fixed(c, tensors) for c in s.origins)]
            if len(kept) == len(streams):
                return kept
            streams = kept

    def _fixed(self, call: Call, tensors: set[int]) -> bool:
        """Whether a call's inputs are all of streams, which keep their width, or of fixed sizes."""
        return all(
            tensor.number in tensors or not any(map(varies, self.axes[tensor.number]))
            for tensor in call.inputs
        )

    def _sources(self, tensors: set[int], writers: set[str]) -> dict[str, set[str]]:
        """Return, for every reader, the writers before it; "" stands for a tensor of no writer."""
        reached: dict[int, set[str]] = {}
        read: dict[str, set[str]] = {}
        for call in self.trace.calls:
            before = [t for t in call.inputs if t.number in tensors]
            known = set[str]().union(*(reached.get(tensor.number, {""}) for tensor in before))
            path = self._layer(call)
            if path is not None and before:
                read.setdefault(path, set()).update(known)
            for tensor in call.outputs:
                if tensor.number in tensors:
                    made = {path} if path in writers else known or {""}
                    reached[tensor.number] = reached.get(tensor.number, set()) | made
        return read

    def _layer(self, call: Call) -> str | None:
        """Return the path of the module that makes a call, if it is a leaf with parameters."""
        path = self.trace.path(call)
        return path if call.frame >= 0 and path in self.layers else None
