"""SynFlow's R, computed by replaying a network's recorded forward pass with everything linear.

Tanaka et al. (2006.05467) define R as the sum of a network's outputs on an input of ones when every
weight is replaced by its absolute value and everything else is linear. Each recorded ATen call is
run again by its reading in `precrop.linear.readings`.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from precrop.errors import MALFORMED, PrecropError, brief, typed_reason
from precrop.linear.readings.shapes import leaves
from precrop.linear.readings.table import AVERAGES, READINGS
from precrop.linear.readings.unchanged import same
from precrop.linear.values import (
    Flow,
    Gate,
    Inert,
    Unknown,
    UnreadableError,
    Value,
    Weight,
    aligned,
    as_flow,
)
from precrop.modules.names import buffers_of, held_tensors
from precrop.modules.random import OwnNumbers, drawing
from precrop.own import calling_own
from precrop.read.examples import tensors_in
from precrop.read.network import Network
from precrop.read.trace import Call, Trace
from precrop.read.values import TensorValue

__all__ = ["Flow", "Replay", "UnreadableError", "Weight"]


class Replay:
    """The linear replay of a network's pass in eval mode.

    Args:
        network: the network as read.
        average_pool: replay a max-pool as an average pool, which makes R multilinear (SynExp);
            otherwise it stays a max-pool (as in SynFlow's code).
    """

    def __init__(self, network: Network, *, average_pool: bool) -> None:
        self._trace = trace = network.passes[0].trace
        self._buffers = {**held_tensors(network.model), **buffers_of(network.model)}
        self._made = _made(trace)
        args, kwargs = network.inputs.make(1, network.model, "meta")
        self._inputs = {tuple(tensor.shape) for tensor in tensors_in((args, kwargs))}
        self._readings = {**READINGS, **(AVERAGES if average_pool else {})}
        self._others = _others(trace, self._readings)
        self._finished = _finished(trace)

    def __call__(self, weights: Mapping[str, Weight]) -> Flow:
        """Return R as a flow of a single number.

        Args:
            weights: weights by parameter name; they determine dtype and device of the computation.

        Raises:
            PrecropError: an operation has no linear reading; the message names it.
        """
        if not weights:
            raise UnreadableError("the network has no layer: no convolution and no linear layer")
        like = next(iter(weights.values())).values
        known: dict[int, Value] = {}

        def value(leaf: Any) -> Any:
            if not isinstance(leaf, TensorValue):
                return leaf
            if leaf.number not in known:
                known[leaf.number] = self._outside(leaf, weights, like)
            return known[leaf.number]

        for index, call in enumerate(self._trace.calls):
            try:
                self._follow(index, known, value, like)
            except MALFORMED as error:
                path = self._trace.path(call) or "the network"
                why = error if isinstance(error, PrecropError) else typed_reason(error)
                failure = f"SynFlow fails at {call.full_name} in {path}: {why}"
                if isinstance(error, UnreadableError):
                    failure = f"SynFlow has no reading of {call.full_name} in {path}: {error}"
                raise UnreadableError(failure) from error
        try:
            flows = [as_flow(value(tensor)) for tensor in self._trace.outputs]
        except UnreadableError as error:
            raise UnreadableError(f"SynFlow has no reading of the outputs: {error}") from error
        total = aligned([flow for flow in flows if flow is not None])
        if not total:
            raise UnreadableError("SynFlow sees no output that depends on the network's input")
        return Flow(torch.stack([f.values.sum() for f in total]).sum(), total[0].exponent)

    def _follow(
        self, index: int, known: dict[int, Value], value: Callable[[Any], Any], like: Tensor
    ) -> None:
        """Replay one call: store its outputs and drop values that no later call needs."""
        call = self._trace.calls[index]
        args = [_mapped(argument, value) for argument in call.args]
        kwargs = {name: _mapped(argument, value) for name, argument in call.kwargs.items()}
        others = [(other, value(other)) for other in self._others.get(index, ())]
        results = self._run(call, args, kwargs, like)
        results = results if isinstance(results, (list, tuple)) else [results]
        for output, result in zip(call.outputs, results, strict=False):
            known[output.number] = result
        for other, old in others:
            places = self._places(other), self._places(call.outputs[0])
            known[other.number] = _overwritten(places[0], old, places[1], results[0])
        for number in self._finished[index]:
            known.pop(number, None)

    def _places(self, value: TensorValue) -> Tensor:
        """Return each element's index in the memory of a recorded tensor, in the tensor's shape."""
        offset, strides = self._trace.values.layouts[value.number]
        last = offset + sum((n - 1) * step for n, step in zip(value.shape, strides, strict=True))
        return torch.arange(last + 1).as_strided(value.shape, strides, offset)

    def _outside(self, value: TensorValue, weights: Mapping[str, Weight], like: Tensor) -> Value:
        """Value of a tensor that no call made: a parameter, a buffer, a constant or the input."""
        traced = self._trace.values
        name, data = traced.names.get(value.number), traced.data.get(value.number)
        if name is not None and name in weights:
            return weights[name]
        if name in self._buffers:
            return self._buffers[name].detach().to(like.device)
        if name is not None or value.number in traced.unregistered:
            return Inert()
        if value.number in self._made:
            return Unknown()
        ones = data is None or bool((data == 1).all())
        if ones and value.shape in self._inputs and value.dtype.is_floating_point:
            return Flow(torch.ones(value.shape, dtype=like.dtype, device=like.device))
        return Unknown() if data is None else data.to(like.device)

    def _run(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any], like: Tensor) -> Any:
        kinds = {type(leaf) for leaf in leaves([*args, *kwargs.values()])}
        if not kinds & {Flow, Gate, Weight}:
            for kind in (Unknown, Inert):
                if kind in kinds:
                    return [kind() for _ in call.outputs]
            return _constant(call, args, kwargs, like)
        if Unknown in kinds:
            raise UnreadableError(
                "it uses values that are not known, such as token ids or places of maxima"
            )
        reading = call.find(self._readings)
        if reading is None:
            raise UnreadableError("it is not linear")
        with calling_own("its linear reading fails", reading):
            found = reading(call, args)
        several = found if isinstance(found, (list, tuple)) else [found]
        if not all(isinstance(value, Value) for value in several):
            raise PrecropError(f"its linear reading gives {brief(found)}, no values of its outputs")
        return found


def _mapped(argument: Any, value: Callable[[Any], Any]) -> Any:
    if isinstance(argument, (list, tuple)):
        return [value(entry) for entry in argument]
    return value(argument)


def _constant(call: Call, args: Sequence[Any], kwargs: Mapping[str, Any], like: Tensor) -> Any:
    """Run a call that depends on neither the input nor a parameter, without changing buffers.

    Random floats are `Inert`, like dropout's factors; random integers are drawn from a fixed seed.
    """
    if drawing(call.op) is not None:
        if all(value.dtype.is_floating_point for value in call.outputs):
            return [Inert() for _ in call.outputs]
        with OwnNumbers(0):
            return call.op(*args, **kwargs)
    if call.op._schema.is_mutable:
        args = [arg.clone() if isinstance(arg, Tensor) else arg for arg in args]
    device = {"device": like.device} if kwargs.get("device") is not None else {}
    return call.op(*args, **{**kwargs, **device})


def _made(trace: Trace) -> set[int]:
    """Return the values that calls made as new tensors, not by writing into existing ones."""
    seen: set[int] = set()
    made: set[int] = set()
    for call in trace.calls:
        seen.update(value.number for value in call.inputs)
        made |= {value.number for value in call.outputs} - seen
    return made


def _finished(trace: Trace) -> list[list[int]]:
    """Return, for every call, the values that no later call needs."""
    last: dict[int, int] = {}
    for index, call in enumerate(trace.calls):
        last |= {value.number: index for value in (*call.inputs, *call.outputs)}
    for value in trace.outputs:
        last.pop(value.number, None)
    finished: list[list[int]] = [[] for _ in trace.calls]
    for number, index in last.items():
        finished[index].append(number)
    return finished


# --- tensors that share memory --------------------------------------------------------------------


def _others(trace: Trace, readings: Mapping[str, Any]) -> dict[int, list[TensorValue]]:
    """Return, per call that writes into a tensor, the others in its memory that are read later."""
    writing = [
        index
        for index, call in enumerate(trace.calls)
        if call.op._schema.is_mutable and call.outputs and call.find(readings) is not same
    ]
    if not writing:
        return {}
    memories = trace.values.memories
    born: dict[int, int] = {}
    reads: dict[int, list[tuple[int, TensorValue]]] = defaultdict(list)
    for index, call in enumerate(trace.calls):
        for value in call.inputs:
            reads[memories[value.number]].append((index, value))
        for value in call.outputs:
            born.setdefault(value.number, index)
    for value in trace.outputs:
        reads[memories[value.number]].append((len(trace.calls), value))
    others = {}
    for index in writing:
        target = trace.calls[index].outputs[0].number
        later = {
            value.number: value
            for read, value in reads[memories[target]]
            if read > index and born.get(value.number, -1) < index and value.number != target
        }
        others[index] = list(later.values())
    return others


def _overwritten(places: Tensor, old: Any, written: Tensor, new: Any) -> Value:
    """Return what a tensor holds after ``new`` was written into another one that shares its memory.

    Args:
        places: indices in memory of the tensor's elements.
        old: the tensor's value before.
        written: indices in memory that were written to.
        new: what was written there.
    """
    if isinstance(old, Inert) and isinstance(new, Inert):
        return old
    if not all(isinstance(value, (Flow, Gate, Tensor)) for value in (old, new)):
        raise UnreadableError("it writes into a weight")
    flows = aligned([flow for flow in map(as_flow, (old, new)) if flow is not None])
    if not flows:
        return _merged(places, old, written, new)
    # A constant does not depend on the input, so it adds nothing to R and counts as zero.
    remaining = iter(flows)
    before, after = (
        flows[0].values.new_zeros(where.shape)
        if isinstance(value, Tensor)
        else next(remaining).values
        for where, value in ((places, old), (written, new))
    )
    return Flow(_merged(places, before, written, after), flows[0].exponent)


def _merged(places: Tensor, old: Tensor, written: Tensor, new: Tensor) -> Tensor:
    """Return ``old``, with the elements of ``new`` wherever both have the same index in memory."""
    size = 1 + int(max(places.max(), written.max()))
    memory = old.new_zeros(size)
    memory[places.to(old.device)] = old
    memory[written.to(old.device)] = new.to(old)
    return memory[places.to(old.device)]
