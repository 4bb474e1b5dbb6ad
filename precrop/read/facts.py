"""Tracks which parameters each tensor of a pass is made of.

A weight that is reshaped, masked, scaled or quantised is still that layer's weight. So are a
mixture of several experts' kernels, and a weight plus a product of others (LoRA).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from precrop.modules.names import is_weight
from precrop.read.axes import Axis
from precrop.read.known import Axes, CallReading, Known
from precrop.read.trace import Call

# Operations that may apply a mask made of no parameter; a table added to zeros is no weight.
MASKING = ("mul", "div", "where", "masked_fill")
ADDING = ("add", "sub", "rsub", "lerp", "addmm", "baddbmm")
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")
JOINING = ("cat", "stack")
_SAME = (
    "view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "expand",
    "clone", "contiguous", "squeeze", "unsqueeze", "detach", "alias", "_to_copy",
)  # fmt: skip
LINEAR = (*_SAME, "neg", "mean", "sum")
# Operations whose output holds only integers of the first operand, or smaller ones.
KEEPING = (
    *_SAME, "slice", "select", "unbind", "split", "split_with_sizes", "repeat", "flip", "sort",
    "remainder", "tensor_of_numbers",
)  # fmt: skip


class Fact(NamedTuple):
    """What is known of a tensor.

    Attributes:
        axes: its axes.
        dtype: its type.
        origin: the parameter that it is, or a reshaped, masked, scaled or quantised form of.
        mixture: the parameter of experts whose first axis was summed over to make it.
        part: the parameter of experts of which it is one entry (or some) along the first axis.
        stretch: the parameter of which it holds some rows or columns.
        of_weights: whether it is computed from parameters and buffers alone.
        from_data: whether it is computed from the network's inputs.
        terms: if it is a sum of products of weights, one parameter from each product.
        places: the axis that its integers index; they are below the axis' size at any width.
    """

    axes: Axes
    dtype: torch.dtype
    origin: str | None = None
    mixture: str | None = None
    part: str | None = None
    stretch: str | None = None
    of_weights: bool = False
    from_data: bool = False
    terms: frozenset[str] = frozenset()
    places: Axis | None = None

    @property
    def is_made_of(self) -> bool:
        """Whether it is a form, a mixture, an entry, or some rows or columns of a parameter."""
        return any((self.origin, self.mixture, self.part, self.stretch))

    @property
    def scaled_by(self) -> frozenset[str]:
        """Its terms; if there are none, the parameter that it is a form of."""
        return self.terms or frozenset(() if self.origin is None else (self.origin,))


NOTHING = Fact((), torch.float32)


def made(
    call: Call,
    reading: CallReading,
    operands: Sequence[Fact],
    before: Sequence[Fact],
    known: Known,
    *,
    own: bool,
) -> list[Fact]:
    """Return what is known of a call's outputs; set ``made_of`` in the call's reading.

    Of outputs changed in place, what was known ``before`` is kept. ``own`` says whether the first
    output is a tensor of the network.
    """
    from_data = any(fact.from_data for fact in operands)
    of_weights = bool(operands) and all(fact.of_weights for fact in operands)
    kept = operands[0].places if operands and call.name in KEEPING else None
    facts = [
        old._replace(
            axes=axes,
            dtype=value.dtype,
            part=reading.takes or old.part,
            stretch=reading.stretch or old.stretch,
            of_weights=old.of_weights or of_weights,
            from_data=old.from_data or from_data,
            places=kept,
        )
        for axes, value, old in zip(reading.outputs, call.outputs, before, strict=True)
    ]
    if reading.places is not None:
        facts[-1] = facts[-1]._replace(places=reading.places)
    if facts:
        facts[0] = _first(call, reading, operands, facts[0], known, own=own)
    return facts


def _first(
    call: Call,
    reading: CallReading,
    operands: Sequence[Fact],
    fact: Fact,
    known: Known,
    *,
    own: bool,
) -> Fact:
    """Return what is known of a call's first output, with the parameters that it is made of."""
    if fact.of_weights:
        fact = fact._replace(terms=_terms(call, operands, known) or fact.terms)
    adds = call.name in ADDING and bool(fact.terms)
    if reading.weight is not None and not adds:
        return fact  # an activation, not a weight
    if reading.mixes is None and not any(one.is_made_of for one in operands):
        reading.made_of = None if own else fact.origin
        return fact
    pairs = zip(call.inputs, operands, strict=True)
    whole = [one for value, one in pairs if value.numel() == call.outputs[0].numel()]
    whole = whole[:1] if adds and call.name in PRODUCTS else whole
    if call.name in JOINING and len({one.origin for one in operands}) == 1:
        whole = [*operands[:1]]
    from_data = any(one.from_data for one in operands)
    masked = adds or (call.name in MASKING and not from_data)
    origin, mixture, part, stretch = (
        _common([getattr(one, way) for one in whole], known, masked, from_data)
        for way in ("origin", "mixture", "part", "stretch")
    )
    reading.made_of = origin if own else fact.origin or origin
    return fact._replace(
        origin=fact.origin or origin,
        mixture=reading.mixes or fact.mixture or mixture,
        part=fact.part or part,
        stretch=fact.stretch or stretch,
    )


def _common(found: Sequence[str | None], known: Known, masked: bool, from_data: bool) -> str | None:
    """Return the parameter that operands are made of, of several the one by `_rank`, or None."""
    names = list(dict.fromkeys(name for name in found if name is not None))
    if names and (masked or None not in found) and not (from_data and len(names) > 1):
        return min(names, key=lambda name: _rank(name, known))
    return None


def _terms(call: Call, operands: Sequence[Fact], known: Known) -> frozenset[str]:
    """Return one parameter from each product of a sum; scaling all of them scales the sum.

    The set is empty for what is computed from weights in other ways, such as a decoder's queries.
    """
    found = [fact.scaled_by for fact in operands]
    if call.name in PRODUCTS and all(found):
        left, right = found[-2:]  # one factor is enough, preferably one that is no layer's weight
        layer_or_buffer = left <= known.layers.keys() or not left & known.weights
        found[-2:] = [right if layer_or_buffer else left]
    elif call.name in LINEAR or call.name in MASKING:  # masks and scales add no terms
        scaling = filter(None, found)
        found = sorted(scaling, key=lambda terms: min(_rank(name, known) for name in terms))[:1]
    elif call.name not in (*PRODUCTS, *ADDING):
        return frozenset()
    return frozenset[str]().union(*found) if found and all(found) else frozenset()


def _rank(name: str, known: Known) -> tuple[bool, bool]:
    """Return a sort key of the tensors that make a weight: the first gives it its name."""
    return name not in known.weights, not is_weight(name)
