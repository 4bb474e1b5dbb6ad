"""Which layers the objectives count."""

from precrop.read.inputs import Inputs
from precrop.read.lower import lower
from precrop.read.network import read_network
from precrop.strategies.objectives import OBJECTIVES
from precrop.zoo import load_model


def test_weights_of_the_objectives() -> None:
    network = read_network(load_model("cifar_mobilenet_v2", {}), Inputs((3, 32, 32)))
    structure = lower(network).structure
    kinds = [layer.kind for layer in structure.layers]
    names = [layer.name for layer in structure.layers]
    assert OBJECTIVES["synexp"](structure).tolist() == [1.0] * len(kinds)
    counted = OBJECTIVES["dense-layers"](structure)
    assert counted.tolist() == [float(kind != "depthwise") for kind in kinds]
    assert 0 < counted.sum() < len(kinds)
    inner = dict(zip(names, OBJECTIVES["inner-layers"](structure), strict=True))
    assert [name for name, weight in inner.items() if not weight] == [names[0], names[-1]]
