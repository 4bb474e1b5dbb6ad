"""Why a layer has no multiple of the divisor."""

import numpy as np

from precrop.plans.multiples import no_multiples
from precrop.solve.choices import Choices
from precrop.solve.structure import Structure
from tests.structures import Network

HALVES = [16, 8, 4, 2, 1]


def test_every_reason() -> None:
    net = Network()
    image = ()
    wide, narrow, tied = net.group(64), net.group(6), net.group(104, portion=13)
    uneven, kept = net.group(20), net.group(20)
    net.conv(image, (wide,), fixed_in=3)
    net.conv((wide,), (narrow,))
    net.conv((narrow,), (tied,))
    net.conv((tied,), (uneven, kept))
    net.conv((uneven, kept), (kept,))
    net.conv((kept,), image, fixed_out=10)
    structure: Structure = net.structure()
    choices = Choices.of(structure.groups, HALVES)
    names = [layer.name for layer in structure.layers]
    found = no_multiples(structure, choices, np.array([48, 4, 4, 16, 20]))
    assert found == {
        "narrow": [names[1]],
        "tied": [names[2]],
        "parts": [names[3]],
        "whole": [names[4]],
        "fixed": [names[5]],
    }
    assert no_multiples(structure, Choices.of(structure.groups), choices.units) == {}
