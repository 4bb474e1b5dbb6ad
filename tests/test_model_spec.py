"""A network by name: built, written and read alike wherever it is named."""

import json
from typing import Any

import pytest

from precrop.errors import PrecropError
from precrop.model_spec import ModelSpec


def test_it_builds_what_it_names() -> None:
    network = ModelSpec("resnet20", {"num_classes": 7}).build()
    assert network.get_parameter("fc.bias").shape == (7,)
    with pytest.raises(PrecropError, match="unknown model 'resnet21'; did you mean"):
        ModelSpec("resnet21", {}).build()


def test_in_words() -> None:
    assert str(ModelSpec("resnet20", {})) == "resnet20"
    assert (
        str(ModelSpec("nats_sss", {"num_classes": 7, "x": "a"})) == "nats_sss(num_classes=7, x=a)"
    )


@pytest.mark.parametrize(
    "args", [{}, {"num_classes": 7}, {"widths": [8, 16], "block": {"a": None}}]
)
def test_json_and_back(args: dict[str, Any]) -> None:
    spec = ModelSpec("resnet20", args)
    text = json.dumps({**spec.to_json(), "beside": 1})
    assert ModelSpec.from_json(json.loads(text)) == spec


def test_what_fits_in_no_file() -> None:
    with pytest.raises(PrecropError, match="an argument of resnet20 fits in no file"):
        ModelSpec("resnet20", {"norm": object()}).to_json()


UNNAMED: list[Any] = [None, 3, [], {}, {"name": "resnet20"}, {"args": {}}, {"name": 3, "args": {}}]
NO_ARGS: list[Any] = [None, [], "x", {3: 4}]
UNNAMED += [{"name": "resnet20", "args": args} for args in NO_ARGS]


@pytest.mark.parametrize("content", UNNAMED)
def test_what_names_no_network(content: Any) -> None:
    with pytest.raises(PrecropError, match="a name and its builder's arguments"):
        ModelSpec.from_json(content)


def test_what_a_stranger_may_say() -> None:
    ModelSpec("resnet20", {"num_classes": 7}).check(False, "")
    mine = ModelSpec("mine:net", {"anything": "/at/all"})
    mine.check("mine:net", "")
    mine.check(True, "")
    with pytest.raises(PrecropError, match="not run unasked: say so"):
        mine.check(False, "say so")
    with pytest.raises(PrecropError, match="argument weights of resnet20 is not taken from a file"):
        ModelSpec("resnet20", {"weights": "DEFAULT"}).check(True, "")
