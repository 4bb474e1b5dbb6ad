"""A study's file: what it may say, and what is wrong with it in one line."""

import re
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from precrop.errors import PrecropError
from precrop.model_spec import ModelSpec
from precrop.study.spec import Limits, Study, read_study
from precrop.training.recipes import RECIPES

GOOD = """
study: small
description: >
  What a study
  may say.
data: digits
recipe: {name: digits, epochs: 2, lr: 0.05}
seeds: [0, 1]
networks:
  - resnet20
  - {model: cifar_vgg16_bn, args: {num_classes: 10}, recipe: cifar-quick}
budgets:
  - {params: 0.5, macs: 0.4}
  - {params: "20%", macs: 2_000_000}
variants:
  - {name: dense, seeds: [7]}
  - {name: PreCrop, plan: {}}
  - {name: by MACs, plan: {divisor: 2}, budget: macs}
  - {name: SynFlow, mask: synflow, networks: [resnet20]}
  - {name: SynFlow channels, densities: synflow, plan:}
  - {name: filters, plan: {}, mask: filter, budgets: [{macs: 0.3}]}
  - {name: as SynFlow, uniform: {}, match: SynFlow}
  - {name: by hand, plan: {widths: {conv1: 8}}, networks: [resnet20]}
"""


def read(tmp_path: Path, text: str) -> Study:
    path = tmp_path / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return read_study(path)


def changed(**changes: Any) -> str:
    """The good study with some of its entries replaced; None drops one."""
    content = {**yaml.safe_load(GOOD), **changes}
    text = yaml.safe_dump({key: value for key, value in content.items() if value is not None})
    assert isinstance(text, str)
    return text


def test_what_a_file_says(tmp_path: Path) -> None:
    study = read(tmp_path, GOOD)
    assert (study.name, study.description) == ("small", "What a study may say.")
    assert study.data == study.data_name == "digits"
    assert [network.model for network in study.networks] == [
        ModelSpec("resnet20", {}),
        ModelSpec("cifar_vgg16_bn", {"num_classes": 10}),
    ]
    assert study.networks[0].recipe == RECIPES["digits"].changed({"epochs": 2, "lr": 0.05})
    assert study.networks[1].recipe == RECIPES["cifar-quick"]
    both = (Limits(params=0.5, macs=0.4), Limits(params="20%", macs=2_000_000))
    found = {one.variant.name: one for one in study.series}
    assert found["dense"].seeds == (7,)
    assert found["dense"].budgets == (Limits(),)
    assert found["PreCrop"].budgets == both
    assert found["PreCrop"].seeds == (0, 1)
    assert found["PreCrop"].networks == study.networks
    assert found["by MACs"].budgets == (Limits(macs=0.4), Limits(macs=2_000_000))
    assert found["by MACs"].variant.options == {"divisor": 2}
    assert found["SynFlow"].networks == study.networks[:1]
    assert (found["SynFlow"].variant.densities, found["SynFlow"].variant.mask) == (
        "synflow",
        "weight",
    )
    assert found["SynFlow channels"].variant.way == "plan"
    assert found["filters"].budgets == (Limits(macs=0.3),)
    assert found["as SynFlow"].variant.match == found["SynFlow"].variant
    assert found["by hand"].budgets == (Limits(),)


def test_images_may_be_elsewhere(tmp_path: Path) -> None:
    study = read(tmp_path, GOOD)
    moved = study.at("/somewhere/digits")
    assert (moved.data, moved.data_name) == ("/somewhere/digits", "digits")
    assert moved.series == study.series


def test_a_study_of_dense_networks_needs_no_budget(tmp_path: Path) -> None:
    study = read(tmp_path, changed(budgets=None, variants=[{"name": "dense"}]))
    assert study.series[0].budgets == (Limits(),)


PLAN: dict[str, Any] = {"name": "PreCrop", "plan": {}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "data is missing"),
        ({"study": 3}, "study is 3, not a text"),
        ({"seed": [1]}, "unknown key 'seed'; did you mean seeds?"),
        ({"seeds": []}, r"seeds is \[\], not a list of 1 or more"),
        ({"seeds": 3}, "seeds is 3, not a list"),
        ({"seeds": [0, 1, 0]}, "seeds: 0 is written twice"),
        ({"seeds": [-1]}, "seeds, entry 1 is -1, not 0 or more"),
        ({"seeds": [True]}, "seeds, entry 1 is True, not a whole number"),
        ({"recipe": "cifar"}, "recipe: recipe 'cifar' is unknown: choose from cifar-160"),
        ({"recipe": {"epochs": 3}}, "recipe: it has no name"),
        (
            {"recipe": {"name": "digits", "epoch": 3}},
            "a recipe has no 'epoch'; did you mean epochs",
        ),
        ({"recipe": {"name": "digits", "epochs": "x"}}, "recipe: epochs=x is not a whole number"),
        ({"networks": []}, r"networks is \[\], not a list of 1 or more"),
        ({"networks": ["a", "a"]}, "networks: a is written twice"),
        ({"networks": [{"args": {}}]}, "networks, entry 1: model is missing"),
        (
            {"networks": [{"model": "a", "arg": {}}]},
            "networks, a: unknown key 'arg'; did you mean args",
        ),
        ({"networks": [{"model": "a", "args": [1]}]}, r"networks, a: args is \[1\], not a mapping"),
        (
            {"networks": [{"model": "a", "recipe": "b"}]},
            "networks, a: recipe: recipe 'b' is unknown",
        ),
        ({"networks": [3]}, "networks, entry 1: 3 is not a mapping: write model, args"),
        ({"budgets": []}, r"budgets is \[\], not a list of 1 or more"),
        ({"budgets": [{}]}, "budgets, entry 1: no budget"),
        ({"budgets": [0.5]}, "budgets, entry 1: 0.5 is not a mapping: write params, macs"),
        ({"budgets": [{"flops": 0.5}]}, "unknown key 'flops'; .* macs; MACs are half of FLOPs"),
        ({"budgets": [{"macs": 1}]}, "macs=1 is a single unit: write macs=1.0"),
        ({"budgets": [{"macs": "half"}]}, "budgets, entry 1: macs='half' is not understood"),
        ({"budgets": [{"macs": 0.5}, {"macs": 0.5}]}, "budgets: {'macs': 0.5} is written twice"),
        (
            {"networks": [{"model": "a", "args": {"x": [[date(2026, 1, 2)]]}}]},
            "networks, a: args.x, entry 1, entry 1 is .*, not a number, text, list or mapping",
        ),
        ({"data": {"image_size": 16}}, "data: name is missing"),
        (
            {"data": {"name": "digits", "size": 16}},
            "data: unknown key 'size'; choose from name, image",
        ),
        ({"data": {"name": "digits", "image_size": 0}}, "data.image_size is 0, not 1 or more"),
        (
            {"data": {"name": "digits", "image_size": "8"}},
            "data.image_size is '8', not a whole number",
        ),
        ({"budgets": None, "variants": [PLAN]}, "variants, PreCrop: it has no budget"),
        ({"variants": []}, r"variants is \[\], not a list of 1 or more"),
        ({"variants": [PLAN, {**PLAN, "plan": {}}]}, "variants: PreCrop is written twice"),
        ({"variants": ["dense"]}, "variants, entry 1: 'dense' is not a mapping: write name, plan"),
        ({"variants": [{"plan": {}}]}, "variants, entry 1: name is missing"),
        (
            {"variants": [{"name": "x", "plans": {}}]},
            "variants, x: unknown key 'plans'; did you mean plan",
        ),
        ({"variants": [{**PLAN, "uniform": {}}]}, "plan and uniform both choose widths"),
        (
            {"variants": [{"name": "x", "plan": {"balence": 1}}]},
            "x: plan: unknown key 'balence'; did you mean balance",
        ),
        (
            {"variants": [{"name": "x", "plan": {"balance": "1e6"}}]},
            "balance is '1e6', not a whole number or a number",
        ),
        ({"variants": [{"name": "x", "plan": {"divisor": True}}]}, "divisor is True, not a whole"),
        (
            {"variants": [{"name": "x", "plan": {"divisor": "8"}}]},
            "divisor is '8', not a whole number or 'auto'",
        ),
        ({"variants": [{"name": "x", "plan": {"expand": 1}}]}, "expand is 1, not true or false"),
        ({"variants": [{"name": "x", "plan": 3}]}, "plan: 3 is not a mapping: write divisor"),
        ({"variants": [{"name": "x", "densities": "erk"}]}, "densities go with plan: write"),
        (
            {"variants": [{"name": "x", "uniform": {}, "densities": "erk"}]},
            "densities go with plan: write",
        ),
        ({"variants": [{"name": "x", "mask": "synflo"}]}, "method 'synflo' is unknown"),
        ({"variants": [{**PLAN, "densities": "synflo"}]}, "method 'synflo' is unknown"),
        ({"variants": [{**PLAN, "method_options": {"rounds": 2}}]}, "method_options are those of"),
        (
            {"variants": [{"name": "x", "mask": "snip", "method_options": {"rounds": 2}}]},
            "method 'snip' has no option 'rounds': its options are batch_norm, micro_batch",
        ),
        (
            {"variants": [{"name": "x", "mask": "snip", "method_options": "stored"}]},
            "method_options is 'stored', not a mapping",
        ),
        ({"variants": [{**PLAN, "densities": 3}]}, "densities is 3, not a text"),
        ({"variants": [{"name": "x", "mask": "erk:row"}]}, "granularity 'row' is unknown: choose"),
        ({"variants": [{**PLAN, "mask": "erk:weight"}]}, "granularity 'erk:weight' is unknown"),
        (
            {"variants": [{**PLAN, "budget": "flops"}]},
            "budget is 'flops', not 'params', 'macs' or 'both'",
        ),
        (
            {"variants": [{**PLAN, "budgets": [{"macs": 0.5}], "budget": "params"}]},
            "budget: params, but not all of the study's budgets have params",
        ),
        ({"variants": [{"name": "dense", "budget": "macs"}]}, "a dense network has no budget"),
        (
            {"variants": [{"name": "x", "plan": {"widths": {"conv1": 8}}, "budget": "macs"}]},
            "variants, x: budget: macs, but it has no budgets",
        ),
        (
            {"variants": [{**PLAN, "networks": ["resnet2"]}]},
            "the study has no network 'resnet2'; did",
        ),
        (
            {"variants": [{**PLAN, "networks": []}]},
            r"PreCrop: networks is \[\], not a list of 1 or more",
        ),
        ({"variants": [{**PLAN, "seeds": [1, 1]}]}, "variants, PreCrop: seeds: 1 is written twice"),
        (
            {"variants": [{**PLAN, "match": "SynFlo"}]},
            "match: no other variant is called 'SynFlo'; choose",
        ),
        ({"variants": [{**PLAN, "match": "PreCrop"}]}, "no other variant is called 'PreCrop'"),
        (
            {"variants": [PLAN, {"name": "x", "plan": {}, "match": "PreCrop", "budget": "macs"}]},
            "x: match takes the budgets of PreCrop: drop budget and budgets",
        ),
        ({"study": "../outside"}, "study: a store is called .* after it: write it without slashes"),
        (
            {"variants": [{"name": "x", "plan": {"ignore": [3]}}]},
            r"plan.ignore is \[3\], not a text",
        ),
        (
            {"variants": [{"name": "x", "plan": {"widths": {3: 4}}}]},
            "plan.widths.3 is 3, not a text",
        ),
        (
            {"variants": [PLAN, {"name": "d", "match": "PreCrop"}]},
            "d: match goes with plan, uniform",
        ),
        (
            {"variants": [{"name": "d"}, {**PLAN, "match": "d"}]},
            "PreCrop: match: d has no budgets of its own",
        ),
        (
            {"variants": [PLAN, *({"name": a, "plan": {}, "match": b} for a, b in ("xy", "yx"))]},
            "x: match: y has no budgets of its own",
        ),
    ],
)
def test_mistakes(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PrecropError, match=message) as caught:
        read(tmp_path, changed(**changes))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'small.yaml'}: ")
    assert "\n" not in text


def test_too_many_runs_are_refused_at_once(tmp_path: Path) -> None:
    """Whether there are many networks or many variants, before all of them are looked at."""
    many = [f"n{n}" for n in range(3000)]
    variants = [{"name": f"v{n}"} for n in range(3000)]
    began = time.process_time()
    with pytest.raises(PrecropError, match="asks for more than 100,000 runs: split it"):
        read(tmp_path, changed(networks=many, variants=variants))
    assert time.process_time() - began < 60  # it was hours


def test_images_of_any_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PrecropError, match=r"image_size .*4096"):
        read(tmp_path, changed(data={"name": "digits", "image_size": 2**32}))


def test_the_size_of_images(tmp_path: Path) -> None:
    plain = read(tmp_path, GOOD)
    assert plain.image_size is None
    assert read(tmp_path, changed(data={"name": "digits"})) == plain
    study = read(tmp_path, changed(data={"name": "digits", "image_size": 16}))
    assert study == replace(plain, image_size=16)
    assert study.at("/elsewhere").image_size == 16


def test_a_value_that_fits_in_no_file(tmp_path: Path) -> None:
    text = GOOD.replace("{num_classes: 10}", "{day: 2026-01-02}")
    with pytest.raises(PrecropError, match="cifar_vgg16_bn: args.day is .*, not a number, text"):
        read(tmp_path, text)


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\tx: 1", "!!python/object:os.system {}"])
def test_what_is_not_yaml(tmp_path: Path, text: str) -> None:
    with pytest.raises(PrecropError, match="small.yaml is not YAML") as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert re.search("in line [12], column", str(caught.value))
    assert "unicode string" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "3", "[study]", "study"])
def test_what_is_no_study(tmp_path: Path, text: str) -> None:
    with pytest.raises(PrecropError, match="small.yaml: .* is not a mapping: write study"):
        read(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PrecropError, match="cannot read .*none.yaml: No such file"):
        read_study(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PrecropError, match="bytes.yaml is not YAML"):
        read_study(tmp_path / "bytes.yaml")


def test_what_is_matched_brings_its_budgets(tmp_path: Path) -> None:
    erk = {"name": "ERK", "mask": "erk:weight", "budgets": [{"params": 0.1}]}
    study = read(tmp_path, changed(variants=[erk, {**PLAN, "match": "ERK"}]))
    assert study.series[0].budgets == study.series[1].budgets
    assert study.series[1].budgets[0].given() == {"params": 0.1}


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nstudy: [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"\*a: write it out, aliases are not taken"),
        (GOOD + "study: again\n", "'study' is written twice"),
        (GOOD.replace("{num_classes: 10}", "{a: 1, a: 2}"), "'a' is written twice"),
        (GOOD.replace("{num_classes: 10}", "{<<: {a: 1}}"), "argument << of cifar"),
        (GOOD.replace("{num_classes: 10}", "{? [1, 2] : 3}"), "a key is a list or a mapping"),
        (GOOD.replace("{num_classes: 10}", "{x: !!binary aGk=}"), "the tag"),
        (GOOD.replace("{num_classes: 10}", "{x: !!bool maybe}"), "the tag"),
        (GOOD.replace("{num_classes: 10}", "{x: .nan}"), "holds nan"),
        (GOOD.replace("{num_classes: 10}", "{x: -.inf}"), "holds -inf"),
        (GOOD.replace("{num_classes: 10}", f"{{x: {'9' * 30}}}"), "more than 64 bits"),
        (GOOD.replace("{num_classes: 10}", f"{{x: {'9' * 5000}}}"), "is not YAML"),
        (GOOD.replace("{num_classes: 10}", "{x: 2026-13-45}"), "is not YAML"),
        (GOOD.replace("{num_classes: 10}", f"{{x: 1{':59' * 200}.5}}"), "is not YAML"),
        (GOOD.replace("{num_classes: 10}", '{x: "\\UFFFFFFFF"}'), "is not YAML"),
        (GOOD.replace("{num_classes: 10}", f"{{x: {'y' * 10_001}}}"), "a text of 10,001"),
        (GOOD.replace("{num_classes: 10}", '{x: "\\e[2J"}'), "control characters"),
        (
            GOOD.replace("{divisor: 2}", "{widths: {conv1: 2026-01-02}}"),
            "conv1 is .*, not a number",
        ),
        ("[" * 100_000, "nested too deeply"),
        ("{a: " * 3_000, "nested too deeply"),
        ("x" * 300_000, "is larger than any study"),
    ],
    ids=lambda value: value[-40:],
)
def test_yaml_without_measure(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PrecropError, match=message) as caught:
        read(tmp_path, text)
    assert len(str(caught.value)) <= 2000
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "a/b", "x" * 300, "a\nb", "\u200b"])
def test_names_that_are_no_folders(tmp_path: Path, name: str) -> None:
    with pytest.raises(PrecropError, match=r"study: |control characters"):
        read(tmp_path, changed(study=name))


@pytest.mark.parametrize("options", [{"divisor": 0}, {"min_width": -1}, {"divisor": 2**70}])
def test_options_out_of_range(tmp_path: Path, options: Any) -> None:
    variants = [{"name": "x", "plan": options, "budgets": [{"params": 0.5}]}]
    with pytest.raises(PrecropError):
        read(tmp_path, changed(variants=variants))


def test_torch_prunings_rounding(tmp_path: Path) -> None:
    variants = [{"name": "x", "torch-pruning": {"round_to": 0}}]
    with pytest.raises(PrecropError, match="torch-pruning.round_to is 0, not 1 or more"):
        read(tmp_path, changed(variants=variants))
