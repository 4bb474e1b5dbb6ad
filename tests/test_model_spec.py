"""A network by name: built, written and read alike wherever it is named."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from precrop.deployment.exporting import Origin, export, load_safetensors
from precrop.errors import PlanError, PrecropError
from precrop.model_spec import ModelSpec
from precrop.plans.file import digest
from precrop.plans.plan import Plan
from tests.plan_files import PLAN
from tests.training.small_runs import small_run


def test_it_builds_what_it_names() -> None:
    network = ModelSpec("resnet20", {"num_classes": 7}).build()
    assert network.get_parameter("fc.bias").shape == (7,)
    with pytest.raises(PrecropError, match="unknown model 'resnet21'; did you mean"):
        ModelSpec("resnet21", {}).build()


def test_a_network_far_larger_than_it_should_be_is_not_built() -> None:
    """Whatever its arguments say; as large as it should be it is built to the bit."""
    like = {"all": (272_474,)}
    torch.manual_seed(0)
    known = ModelSpec("resnet20", {}).build().state_dict()
    torch.manual_seed(0)
    built = ModelSpec("resnet20", {}).build(like).state_dict()
    assert all(torch.equal(built[name], value) for name, value in known.items())
    assert ModelSpec("resnet20", {"num_classes": 10_000}).build(like)
    for name, args in (
        ("resnet20", {"num_classes": 2**20}),
        ("resnet50", {"width_per_group": 999}),
    ):
        with pytest.raises(PrecropError, match="far larger than the network that the file is of"):
            ModelSpec(name, args).build(like)


def test_a_network_is_not_larger_than_memory_whatever_a_file_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    like = {"all": (2**31, 2**31)}
    monkeypatch.setattr("os.sysconf", lambda name: 2**12)  # 16 MB
    assert ModelSpec("resnet20", {}).build(like)
    with pytest.raises(PrecropError, match="or than this machine's memory"):
        ModelSpec("resnet18", {}).build(like)


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
    ModelSpec("mine:net", {"depth": 3}).check("mine:net", "")
    mine = ModelSpec("mine:net", {"anything": "/at/all"})
    mine.check(True, "")
    with pytest.raises(PrecropError, match="argument anything of mine:net is not taken"):
        mine.check("mine:net", "")
    with pytest.raises(PrecropError, match="not run unasked: say so"):
        mine.check(False, "say so")
    with pytest.raises(PrecropError, match="argument weights of resnet20 is not taken from a file"):
        ModelSpec("resnet20", {"weights": "DEFAULT"}).check(True, "")


def test_a_plan_file_says_it_as_it_always_did() -> None:
    args = {"widths": (8, 16), "blocks": [1, 2], "act": None}
    text = dataclasses.replace(PLAN, source=ModelSpec("resnet20", args)).to_json()
    written = {"name": "resnet20", "args": {**args, "widths": [8, 16], "blocks": {"list": [1, 2]}}}
    assert json.loads(text)["source"] == written
    assert Plan.from_json(text).source == ModelSpec("resnet20", args)
    assert json.loads(dataclasses.replace(PLAN, source=None).to_json())["source"] is None
    assert json.loads(PLAN.to_json())["source"] == {"name": "resnet20", "args": {"num_classes": 10}}


@pytest.mark.parametrize(
    "source", [{}, {"name": "resnet20"}, {"name": 3, "args": {}}, {"name": "x", "args": 3}, "x"]
)
def test_a_plan_file_that_names_no_network(source: Any) -> None:
    content = {**json.loads(PLAN.to_json()), "source": source}
    del content["digest"]
    with pytest.raises(PlanError, match="plan.source of this plan is broken"):
        Plan.from_json(json.dumps({"digest": digest(content), **content}))


def test_a_run_is_called_as_it_always_was() -> None:
    run = small_run()
    described = run.described()
    assert (described["model"], described["args"]) == (run.model.name, {"num_classes": 10})
    assert run.id == "141e47d6bbb9"


def test_exported_weights_name_it_as_they_always_did(tmp_path: Path) -> None:
    model = ModelSpec("resnet20", {"num_classes": 7})
    path = tmp_path / "net.safetensors"
    export(model.build(), (3, 32, 32), path, "safetensors", origin=Origin(model))
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["precrop"])
    assert (record["name"], record["args"]) == ("resnet20", {"num_classes": 7})
    assert load_safetensors(path).get_parameter("fc.bias").shape == (7,)
