"""Cropped networks in timm's registry."""

import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_data_config

import precrop
from precrop.errors import PlanError, PrecropError
from precrop.integrations.timm import HOME, register
from precrop.model_spec import ModelSpec
from precrop.plans.plan import Plan

BASE = "resnet10t"


@pytest.fixture(scope="module")
def half() -> Plan:
    return precrop.plan(timm.create_model(BASE), (3, 64, 64), params=0.5)


def test_timm_builds_what_the_plan_says(half: Plan) -> None:
    register("cropped_a", half, BASE)
    model = timm.create_model("cropped_a")
    assert sum(p.numel() for p in model.parameters()) == half.params
    assert "cropped_a" in timm.list_models(module=HOME)
    assert "cropped_a" in timm.list_models("cropped_*")
    assert "cropped_a" not in timm.list_models(pretrained=True)
    assert not timm.models.is_model_pretrained("cropped_a")


def test_what_timms_scripts_give(half: Plan) -> None:
    register("cropped_b", half, f"timm:{BASE}")
    model: Any = timm.create_model("cropped_b", num_classes=37, drop_rate=0.1, in_chans=None)
    assert model(torch.ones(1, 3, 64, 64)).shape == (1, 37)
    assert model.num_classes == 37
    assert model.drop_rate == 0.1
    original: Any = timm.create_model(BASE)
    assert resolve_data_config({}, model=model) == resolve_data_config({}, model=original)
    known: Any = timm.get_pretrained_cfg("cropped_b")
    assert known.input_size == original.pretrained_cfg["input_size"]
    assert known.mean == original.pretrained_cfg["mean"]
    assert not known.has_weights


SIZE = {"vit_tiny_patch16_224": 224}
NETWORKS = (
    *("resnet18", "mobilenetv3_small_100", "convnext_atto", "regnetx_002", "repvit_m0_9"),
    "vit_tiny_patch16_224",
    *(
        pytest.param(large, marks=pytest.mark.matrix)
        for large in ("efficientnet_b0", "densenet121")
    ),
)


@pytest.mark.parametrize("base", NETWORKS)
def test_backbones(base: str) -> None:
    size = SIZE.get(base, 64)
    whole = timm.create_model(base)
    plan = precrop.plan(whole, (3, size, size), params=0.5, macs=0.5)
    register("cropped_backbone", plan, base)
    bare: Any = timm.create_model("cropped_backbone", num_classes=0, in_chans=4)
    assert bare(torch.ones(2, 4, size, size)).shape == (2, bare.head_hidden_size)
    asked: list[Any] = [{}, {"in_chans": 1, "out_indices": (1, 2)}]
    if hasattr(whole, "forward_intermediates"):  # older versions of timm lack some networks'
        asked.append({"feature_cls": "getter"})
    for options in asked:
        original: Any = timm.create_model(base, features_only=True, **options)
        small: Any = timm.create_model("cropped_backbone", features_only=True, **options)
        assert type(small) is type(original)
        assert small.state_dict().keys() == original.state_dict().keys()
        assert small.pretrained_cfg == original.pretrained_cfg
        images = torch.ones(2, options.get("in_chans", 3), size, size)
        features = small.eval()(images)
        assert [one.shape[1] for one in features] == small.feature_info.channels()
        assert [one.shape[2:] for one in features] == [
            one.shape[2:] for one in original.eval()(images)
        ]
        params, base_params = (sum(p.numel() for p in x.parameters()) for x in (small, original))
        assert params < 0.9 * base_params


def test_a_network_of_features_is_planned_itself() -> None:
    original: Any = timm.create_model("convnext_atto", features_only=True)
    plan = precrop.plan(original, (3, 64, 64), params=0.5)
    small: Any = plan.build(original).eval()
    made = small(torch.ones(1, 3, 64, 64))
    assert [one.shape[1] for one in made] == small.feature_info.channels()


def test_the_largest_channels_of_a_backbone(half: Plan) -> None:
    register("cropped_l1", half, BASE, init="l1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that channels could not be told from one another
        timm.create_model("cropped_l1", num_classes=0)
        timm.create_model("cropped_l1", features_only=True)


def test_trained_weights_are_the_originals(half: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    original = timm.create_model(BASE)
    create, asked = timm.create_model, []

    def trained(name: str, pretrained: bool = False, **options: Any) -> Any:
        if name != BASE:
            return create(name, pretrained=pretrained, **options)
        asked.append(pretrained)
        return original

    monkeypatch.setattr(timm, "create_model", trained)
    register("cropped_c", half, BASE, init="l1")
    made = timm.create_model("cropped_c", pretrained=True)
    assert asked == [True]
    expected = half.build(original, "l1").state_dict()
    assert all(torch.equal(value, expected[n]) for n, value in made.state_dict().items())


def test_a_plan_file_that_names_its_network(tmp_path: Path) -> None:
    source = ModelSpec(f"timm:{BASE}", {"num_classes": 5})
    plan = precrop.plan(timm.create_model(BASE, num_classes=5), (3, 64, 64), params=0.4)
    dataclasses.replace(plan, source=source).save(tmp_path / "plan.json")
    register("cropped_d", tmp_path / "plan.json")
    assert timm.create_model("cropped_d")(torch.ones(1, 3, 64, 64)).shape == (1, 5)


def test_a_plan_file_that_asks_for_trained_weights(tmp_path: Path) -> None:
    source = ModelSpec(f"timm:{BASE}", {"pretrained": True})
    plan = precrop.plan(timm.create_model(BASE, num_classes=5), (3, 64, 64), params=0.4)
    with pytest.raises(PrecropError, match="argument pretrained: networks are built untrained"):
        register("cropped_t", dataclasses.replace(plan, source=source))


def test_a_name_may_be_registered_anew(half: Plan) -> None:
    register("cropped_e", half, BASE)
    other = precrop.plan(timm.create_model(BASE), (3, 64, 64), params=0.3)
    register("cropped_e", other, BASE)
    made = timm.create_model("cropped_e")
    assert sum(p.numel() for p in made.parameters()) == other.params


def test_another_network_is_refused_when_it_is_built(half: Plan) -> None:
    register("cropped_f", half, "resnet14t")
    with pytest.raises(PlanError, match="for another network"):
        timm.create_model("cropped_f")


@pytest.mark.parametrize(
    ("name", "base", "message"),
    [
        ("resnet18", BASE, "take another name"),
        ("precrop:half", BASE, "letters, digits and underscores"),
        ("a.b", BASE, "letters, digits and underscores"),
        ("cropped_g", "resnet10tt", "did you mean resnet10t"),
        ("cropped_g", "hf-hub:someone/net", "no network called"),
        ("cropped_g", None, "give base="),
    ],
)
def test_what_is_refused(name: str, base: str | None, message: str, half: Plan) -> None:
    with pytest.raises(PrecropError, match=message) as caught:
        register(name, half, base)
    assert "\n" not in str(caught.value)
    assert not hasattr(sys.modules.get(HOME), "cropped_g")


def test_without_timm(half: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(PrecropError, match="timm, which is not installed"):
        register("cropped_h", half, BASE)
