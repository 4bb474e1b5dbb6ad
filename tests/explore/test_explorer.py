"""What the page asks is what `precrop.plan` answers, and nothing outside its tables."""

import dataclasses
import itertools
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import precrop
from precrop.cli.app import main
from precrop.explore.controls import STRATEGIES, Controls, Named, file_name
from precrop.explore.explorer import LARGEST_FILE, Explorer, uploaded
from precrop.model_spec import ModelSpec
from precrop.plans.plan import Plan
from precrop.zoo import load_model

NETWORK = ModelSpec("resnet20", {"num_classes": 7})
SHAPE = (3, 24, 24)
USUAL = Controls(
    network=str(NETWORK),
    budgets=(("params", 0.5), ("macs", 0.6)),
    divisor="auto",
    strategy="SynExp",
    balance=1.0,
    expand=False,
    ignore=(),
    profile="cpu",
)
MOVES: list[dict[str, Any]] = [
    {},
    {"budgets": (("params", 0.31),)},
    {"budgets": (("macs", 0.44), ("latency", 0.9)), "profile": "cpu"},
    {"budgets": (("params", 0.8), ("memory", 0.9)), "divisor": 2},
    {"divisor": 8, "balance": 0.3},
    {"balance": 4.5, "ignore": ("layer1.0.*", "layer2.1.conv1")},
    {"budgets": (("params", 1.2), ("macs", 1.1)), "expand": True},
    *({"strategy": strategy, "divisor": 1} for strategy in STRATEGIES),
]


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    torch.manual_seed(0)
    return Explorer(NETWORK, SHAPE, names=["resnet56", "vgg16_bn"])


def content(plan: Plan) -> Plan:
    return dataclasses.replace(plan, seconds=0.0)


@pytest.mark.parametrize("move", MOVES, ids=str)
def test_a_move_is_a_plan(explorer: Explorer, move: dict[str, Any]) -> None:
    controls = dataclasses.replace(USUAL, **move)
    model = explorer.reading(controls.network).model
    wanted = precrop.plan(model, SHAPE, **controls.keywords)
    found = explorer.plan(controls)
    assert content(found) == content(dataclasses.replace(wanted, source=NETWORK))


@pytest.mark.parametrize("move", MOVES[1:7:2], ids=str)
def test_the_command_and_the_lines_make_the_same_plan(
    explorer: Explorer, move: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controls = dataclasses.replace(USUAL, **move)
    plan, network = explorer.plan(controls), explorer.named(controls.network)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(controls.command(network))
    assert words[-2:] == ["-o", "resnet20.json"]
    assert main(words[1:]) == 0
    by_command = Plan.load("resnet20.json")
    made: dict[str, Any] = {}
    exec(controls.python(network, plan.input_shape), made)
    for same in (by_command, made["plan"]):
        assert (same.widths, same.options) == (plan.widths, plan.options)
        assert (same.params, same.macs, same.input_shape) == (plan.params, plan.macs, SHAPE)
    assert by_command.source == NETWORK


def test_keywords_are_said_where_they_are_not_usual() -> None:
    assert USUAL.keywords == {"params": 0.5, "macs": 0.6, "divisor": "auto"}
    uniform = dataclasses.replace(USUAL, strategy="Uniform", balance=3.0)
    assert "balance" not in uniform.keywords, "uniform width has none"


def test_several_inputs_are_an_option_each() -> None:
    words = shlex.split(USUAL.command(Named(NETWORK, ((3, 8, 8), (1, 8, 8)))))
    assert [words[n + 1] for n, word in enumerate(words) if word == "--input-shape"] == [
        "3,8,8",
        "1,8,8",
    ]


def test_a_network_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def load(name: str, args: Any) -> Any:
        read.append(name)
        return load_model(name, args)

    explorer = Explorer(NETWORK, SHAPE, names=[])
    monkeypatch.setattr("precrop.explore.explorer.load_model", load)
    for share, balance in itertools.product((0.4, 0.5), (1.0, 2.0)):
        budgets = (("params", share),)
        explorer.plan(dataclasses.replace(USUAL, budgets=budgets, balance=balance))
    assert read == ["resnet20"]


@pytest.mark.parametrize(
    "move",
    [
        {"network": "resnet18"},
        {"network": "os:getcwd"},
        {"network": "./setup.py:make"},
        {"strategy": "Widths"},
        {"divisor": 3},
        {"profile": "/etc/passwd"},
        {"ignore": ("*" * 2000,)},
    ],
    ids=str,
)
def test_what_is_in_no_table_is_refused(explorer: Explorer, move: dict[str, Any]) -> None:
    with pytest.raises(precrop.PrecropError, match="on this page is called|not looked at"):
        explorer.plan(dataclasses.replace(USUAL, **move))


def test_networks_are_those_of_the_libraries() -> None:
    networks = Explorer(ModelSpec("resnet20", {})).networks
    assert {"resnet20", "resnet50", "timm:resnet50"} <= set(networks)
    assert all(named.spec.args == {} for named in networks.values())


def test_a_missing_profile_is_said_at_once() -> None:
    with pytest.raises(precrop.PrecropError, match="nothing.json"):
        Explorer(NETWORK, SHAPE, profiles=["nothing.json"])


def test_files_have_plain_names() -> None:
    assert file_name(Named(ModelSpec("../../x y:make", {}))) == "x-y-make.json"


def test_uploads_are_read_as_any_plan_file(explorer: Explorer, tmp_path: Path) -> None:
    plan, file = explorer.plan(USUAL), tmp_path / "plan.json"
    plan.save(file)
    assert uploaded(file) == plan
    file.write_text(plan.to_json().replace("conv1", "conv2"), encoding="utf-8")
    with pytest.raises(precrop.PlanError, match="altered"):
        uploaded(file)
    with file.open("wb") as large:
        large.truncate(LARGEST_FILE + 1)
    with pytest.raises(precrop.PlanError, match="no more than"):
        uploaded(file)
    with pytest.raises(precrop.PlanError, match="cannot be read"):
        uploaded(tmp_path / "missing.json")
