"""Weak references of a copy are to what the copy has, of whatever kind they are."""

import gc
import weakref
from typing import Any

import torch
from torch import nn

from precrop.modules.copying import copied


class Part:
    """An object that can be referred to weakly."""


def made_of(model: nn.Module) -> Any:
    return copied(model, lambda _, tensor: torch.zeros_like(tensor))


def test_each_kind_keeps_what_is_alive_in_it() -> None:
    model: Any = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    part, outside = Part(), Part()
    model.parts = [part]
    model.dead = weakref.ref(Part())
    model.empty = weakref.WeakSet()
    model.set = weakref.WeakSet([part, outside, model[0]])
    model.values = weakref.WeakValueDictionary({"part": part, "outside": outside, part: model[1]})
    model.keys = weakref.WeakKeyDictionary({part: "part", outside: [part], model[0]: model[1]})
    gc.collect()
    made = made_of(model)
    (twin,) = made.parts
    assert twin is not part
    assert made.dead() is None
    assert len(made.empty) == 0
    assert set(made.set) == {twin, outside, made[0]}
    assert dict(made.values) == {"part": twin, "outside": outside, twin: made[1]}
    assert dict(made.keys) == {twin: "part", outside: [twin], made[0]: made[1]}
    assert made.keys[outside] is not model.keys[outside]


def test_references_of_a_class_of_their_own_and_of_parameters() -> None:
    class Named(weakref.ref[Any]):
        """A reference with a name."""

    model: Any = nn.Sequential(nn.Linear(2, 2))
    model[0].weight.owner = weakref.ref(model[0])
    model.named = {"first": Named(model[0]), "itself": weakref.ref(model)}
    made = made_of(model)
    assert made[0].weight.owner() is made[0]
    assert type(made.named["first"]) is Named
    assert made.named["first"]() is made[0]
    assert made.named["itself"]() is made


def test_one_reference_in_two_places_stays_one() -> None:
    model: Any = nn.Sequential(nn.Linear(2, 2))
    model.table = weakref.WeakValueDictionary(layer=model[0])
    model[0].table = model.table
    made = made_of(model)
    assert made[0].table is made.table is not model.table
    made.table["other"] = made
    assert "other" not in model.table
