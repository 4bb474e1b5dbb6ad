"""Plans that show themselves."""

import builtins
import dataclasses
import io
import json
import time
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]
import pytest
from torch import nn
from torchvision.models import resnet50

import precrop
from precrop.cli.app import main
from precrop.errors import PrecropError
from precrop.model_spec import ModelSpec
from precrop.models import resnet20
from precrop.plans.plan import Plan
from precrop.plans.table import total_table
from tests.plan_files import PLAN, WIDENED

SCREEN = 45


@pytest.fixture(scope="module")
def plan() -> Plan:
    return precrop.plan(resnet50(), (3, 64, 64), params=0.5, macs=0.5, divisor=8)


def test_a_plan_prints_a_screenful(plan: Plan) -> None:
    lines = str(plan).splitlines()
    assert len(lines) <= SCREEN
    assert max(map(len, lines)) <= 100
    assert lines[0] == "ResNet"
    assert str(plan) == plan.summary()
    text = "\n".join(lines)
    assert f"{plan.params:,}" in text
    assert f"{plan.macs:,}" in text


def test_a_notebook_does_not_empty_the_tables(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one, Rich writes to the notebook's own display, whatever file it was given."""

    class ZMQInteractiveShell:
        pass

    before, page = str(plan), plan._repr_html_()
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    assert str(plan) == before
    assert plan._repr_html_() == page


def test_a_network_without_layers_shows_itself() -> None:
    norm = precrop.plan(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), (3, 8, 8), params=1.0)
    assert norm.plot().axes
    assert "parameters" in norm._repr_html_()
    frame = precrop.compare(norm, norm).to_frame()
    assert [*frame.columns] == ["layer", "base_out", "A", "B"]
    assert len(frame) == 0


def test_stages_add_up_to_the_layers(plan: Plan) -> None:
    from precrop.plans.views import stages

    found = stages(plan.layers)
    assert [layer for _, layers in found for layer in layers] == list(plan.layers)
    assert len(found) == 18  # the stem, sixteen blocks, the classifier
    assert [name for name, _ in found][:3] == ["conv1", "layer1.0", "layer1.1"]


def test_a_picture_names_no_more_than_is_read() -> None:
    layers = tuple(dataclasses.replace(layer, name="y" * 50_000) for layer in PLAN.layers)
    axes = dataclasses.replace(PLAN, layers=layers).plot(title="z" * 50_000).axes
    assert len(axes[0].get_title(loc="left")) < 400
    assert {len(label.get_text()) for label in axes[1].get_xticklabels()} <= {0, 200}


def test_names_of_thousands_of_parts_are_cut() -> None:
    layers = [dataclasses.replace(layer, name="." * 40_000) for layer in PLAN.layers]
    began = time.process_time()
    assert dataclasses.replace(PLAN, layers=tuple(layers)).summary()
    assert time.process_time() - began < 10  # it was a minute


def test_every_layer_is_a_stage_where_there_are_few() -> None:
    lines = PLAN.summary().splitlines()
    assert [line.split()[0] for line in lines[3:7]] == [layer.name for layer in PLAN.layers]


def test_repr_is_one_line(plan: Plan) -> None:
    assert repr(plan) == (
        f"<Plan of ResNet: {plan.params:,} of {plan.base_params:,} parameters, "
        f"{plan.macs:,} of {plan.base_macs:,} MACs, {len(plan.layers)} layers>"
    )


def test_frame_has_what_the_plan_has(plan: Plan) -> None:
    frame = plan.to_frame()
    assert frame["layer"].tolist() == [layer.name for layer in plan.layers]
    assert dict(zip(frame["layer"], frame["out_channels"], strict=True)) == {
        name: out for name, (_, out) in plan.widths.items()
    }
    assert (frame["kept"] == frame["out_channels"] / frame["base_out"]).all()
    assert frame["macs"].sum() == plan.macs
    assert PLAN.to_frame()["frozen"].tolist()[-1] == PLAN.frozen["fc"]


def test_a_notebook_shows_totals_picture_and_layers(plan: Plan) -> None:
    page = plan._repr_html_()
    assert "data:image/png;base64," in page
    assert f"{plan.params:,}" in page
    assert "layer4" in page
    named = dataclasses.replace(PLAN, source=ModelSpec("<script>alert(1)</script>", {}))
    assert "<script>" not in named._repr_html_()


def test_the_picture_names_layers(plan: Plan) -> None:
    figure = plan.plot(title="half")
    widths, shares = figure.axes
    labels = [tick.get_text() for tick in shares.get_xticklabels()]
    assert labels == [layer.name for layer in plan.layers]
    assert widths.get_title(loc="left").startswith("half: ")
    odd = dataclasses.replace(PLAN.layers[0], name="$\\frac$")
    drawn = dataclasses.replace(PLAN, layers=(odd, *PLAN.layers[1:])).plot(title="$x_{$")
    drawn.savefig(io.BytesIO())
    assert drawn.axes[0].get_title(loc="left").startswith("$x_{$: ")


def test_plans_side_by_side(plan: Plan) -> None:
    smaller = precrop.plan(resnet50(), (3, 64, 64), params=0.3, macs=0.3, divisor=8)
    compared = precrop.compare(plan, smaller, names=["half", "third"])
    frame = compared.to_frame()
    assert list(frame.columns) == ["layer", "base_out", "half", "third"]
    assert frame["third"].tolist() == [layer.out_channels for layer in smaller.layers]
    text = str(compared)
    assert f"{smaller.params:,}" in text
    differ = frame[frame["half"] != frame["third"]]
    for name in differ["layer"]:
        assert name in text
    assert f"{len(frame) - len(differ)} layers are as wide in all of them" in text
    found = json.loads(compared.to_json())
    assert found["plans"]["third"]["params"] == smaller.params
    assert text.splitlines()[0] in compared._repr_html_()


def test_names_of_plans_are_no_markup() -> None:
    names = ("[link]", "[/b]", ":cat:")
    heads = str(precrop.compare(PLAN, PLAN, PLAN, names=names)).splitlines()[0].split()
    assert heads == ["total", "original", *names]


def test_plans_that_cannot_be_compared() -> None:
    with pytest.raises(PrecropError, match="two plans or more"):
        precrop.compare(PLAN)
    for names in (["a", "a"], [1, 2], ["a"]):
        with pytest.raises(PrecropError, match="2 different names"):
            precrop.compare(PLAN, WIDENED, names=names)  # type: ignore[arg-type]
    with pytest.raises(PrecropError, match="names=3 is not a list of names"):
        precrop.compare(PLAN, WIDENED, names=3)  # type: ignore[arg-type]
    other = dataclasses.replace(PLAN, layers=PLAN.layers[:-1])
    with pytest.raises(PrecropError, match="different networks"):
        precrop.compare(PLAN, other)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PLAN.save("a.json")
    WIDENED.save("b.json")


def test_show_compares(files: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "a.json", "b.json"]) == 0
    assert "16" in capsys.readouterr().out
    assert main(["show", "a.json", "b.json", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["plans"]) == ["a", "b"]
    assert main(["show", "a.json", "b.json", "--summary"]) == 2
    assert "one plan" in capsys.readouterr().err


def test_summary_and_what_was_written(files: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "a.json", "--summary"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == PLAN.summary()
    words = ["plan", "resnet20", "--params", "0.5", "--summary", "-o", "half.json"]
    assert main(words) == 0
    assert capsys.readouterr().out.endswith(
        "Written to half.json; `precrop build half.json` makes the network.\n"
    )
    assert main(["plan", "resnet20", "--params", "0.5", "--json", "-o", "half.json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_frames_are_pandas(plan: Plan) -> None:
    assert isinstance(plan.to_frame(), pd.DataFrame)


def test_a_budget_that_does_not_bind_is_worth_nothing() -> None:
    plan = precrop.plan(resnet20(), (3, 32, 32), params=1.0, macs=0.5)
    cells = list(total_table(plan).columns[-1].cells)
    assert cells == ["0", f"{plan.budgets['macs'].multiplier:.3g}"]
    assert "Worth of +1%: what 1% more" in plan._repr_html_()
