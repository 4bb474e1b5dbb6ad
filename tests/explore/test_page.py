"""What one moves on the page is planned, shown and handed out as `precrop.plan` would."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import precrop
from precrop.cli.app import main
from precrop.models import resnet20, resnet56
from precrop.plans.plan import Plan

if TYPE_CHECKING:
    from playwright.sync_api import Page

SHAPE = (3, 32, 32)


def move(page: "Page", control: str, value: float) -> None:
    """Drag a slider."""
    page.locator(f"#{control} input[type=range]").fill(str(value))


def code(page: "Page", where: str) -> str:
    return page.locator(f"#{where} .cm-content").inner_text()


def wait_for(page: "Page", text: str) -> None:
    """For an answer whose command has these words."""
    page.locator("#command .cm-content").filter(has_text=text).wait_for()


def numbers(page: "Page") -> list[list[str]]:
    rows = page.locator("#totals tr")
    return [rows.nth(i).locator("td").all_inner_texts() for i in range(1, rows.count())]


HEIGHTS = """widths => {
    const drawn = document.querySelector("#picture .js-plotly-plot")?.data?.[1]?.y;
    return drawn !== undefined && JSON.stringify(Array.from(drawn)) === JSON.stringify(widths);
}"""


def saved(page: "Page", folder: Path) -> Plan:
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "resnet20.json"
    download.value.save_as(folder / "resnet20.json")
    return Plan.load(folder / "resnet20.json")


def shown_is(page: "Page", plan: Plan) -> None:
    """Numbers, picture and rows are the plan's."""
    totals = {"parameters": f"{plan.params:,}", "MACs": f"{plan.macs:,}"}
    page.locator("#totals").filter(has_text=totals["parameters"]).wait_for()
    assert {row[0]: row[2] for row in numbers(page)}.items() >= totals.items()
    page.wait_for_function(HEIGHTS, arg=[layer.out_channels for layer in plan.layers])
    row = page.locator("#layers tbody tr").last.locator("td").all_inner_texts()
    layer = plan.layers[-1]
    assert [row[0], row[5]] == [layer.name, f"{layer.density:.1%}"]


def test_the_page_begins_with_half(page: "Page") -> None:
    plan = precrop.plan(resnet20(), SHAPE, params=0.5, macs=0.5)
    shown_is(page, plan)
    assert "Nothing is frozen" in page.locator("#remarks").inner_text()
    gain = plan.solver["uniform"]["gain"]
    assert f"Gain over uniform width: {gain:+.3g}" in page.locator("#remarks").inner_text()


def test_a_moved_slider_is_a_plan_in_every_form(
    page: "Page", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(page, "share-params", 37)
    wait_for(page, "--params 0.37 --macs 0.5 --divisor auto")
    plan = precrop.plan(resnet20(), SHAPE, params=0.37, macs=0.5)
    shown_is(page, plan)

    file = saved(page, tmp_path)
    assert (file.widths, file.params, file.macs) == (plan.widths, plan.params, plan.macs)
    small = file.build(resnet20())
    assert sum(p.numel() for p in small.parameters()) == plan.params

    monkeypatch.chdir(tmp_path)
    words = shlex.split(code(page, "command").replace("\n", ""))
    assert words[0] == "precrop"
    assert main([*words[1:-1], "by-command.json"]) == 0
    by_command = Plan.load(tmp_path / "by-command.json")
    assert by_command.widths == file.widths
    assert by_command.options == file.options

    lines = code(page, "python").splitlines()
    assert len(lines) == 5
    made: dict[str, Any] = {}
    exec("\n".join(lines), made)
    assert made["plan"].widths == file.widths
    assert sum(p.numel() for p in made["small"].parameters()) == plan.params


def test_other_controls(page: "Page") -> None:
    page.get_by_label("Budget of activations").check()
    wait_for(page, "--memory 0.5")
    move(page, "share-memory", 100)
    wait_for(page, "--memory 1.0")
    page.get_by_label("Budget of parameters").uncheck()
    wait_for(page, "resnet20 --macs 0.5")
    page.locator("#share-params").wait_for(state="hidden")
    page.locator("#divisor").get_by_text("4", exact=True).click()
    wait_for(page, "--divisor 4")
    move(page, "balance", 2)
    wait_for(page, "--balance 2")
    page.locator("#ignore textarea, #ignore input").fill("layer3.1.*, conv1")
    wait_for(page, "--ignore 'layer3.1.*' --ignore conv1")
    wanted: dict[str, Any] = {"macs": 0.5, "memory": 1.0, "divisor": 4, "balance": 2.0}
    plan = precrop.plan(resnet20(), SHAPE, ignore=["layer3.1.*", "conv1"], **wanted)
    shown_is(page, plan)
    assert "ignored by 'layer3.1.*'" in page.locator("#remarks").inner_text()


def test_layers_may_widen_and_strategies_differ(page: "Page") -> None:
    page.locator("#expand input").check()
    wait_for(page, "--expand")
    move(page, "share-params", 130)
    wait_for(page, "--params 1.3")
    move(page, "share-macs", 100)
    wait_for(page, "--macs 1.0")
    shown_is(page, precrop.plan(resnet20(), SHAPE, params=1.3, macs=1.0, expand=True))
    page.locator("#strategy").get_by_text("Uniform", exact=True).click()
    wait_for(page, "--rule uniform")
    page.locator("#expand input").uncheck()
    wait_for(page, "--params 1.0")
    assert page.locator("#share-params input[type=range]").get_attribute("max") == "100"


def test_what_cannot_be_met_says_the_least(page: "Page") -> None:
    ignored = page.locator("#ignore textarea, #ignore input")
    ignored.fill("layer*")
    wait_for(page, "no such plan")
    with pytest.raises(precrop.BudgetError) as refused:
        precrop.plan(resnet20(), SHAPE, params=0.5, macs=0.5, ignore=["layer*"])
    page.locator("#refused").filter(has_text=str(refused.value)).wait_for()
    ignored.fill("")
    wait_for(page, "--macs 0.5")
    assert page.locator("#refused").inner_text() == ""


def test_another_network_by_name(page: "Page") -> None:
    page.locator("#network input").fill("resnet56")
    page.get_by_role("option", name="resnet56").click()
    wait_for(page, "resnet56")
    shown_is(page, precrop.plan(resnet56(), SHAPE, params=0.5, macs=0.5))


def upload(page: "Page", file: Path) -> None:
    page.locator("#file input[type=file]").set_input_files(file)


def test_a_plan_file_is_set_beside(page: "Page", tmp_path: Path) -> None:
    plan = precrop.plan(resnet20(), SHAPE, params=0.3, divisor=1)
    plan.save(tmp_path / "mine.json")
    upload(page, tmp_path / "mine.json")
    page.locator("#beside").filter(has_text=f"{plan.params:,}").wait_for()
    widths = [layer.out_channels for layer in plan.layers]
    page.wait_for_function(HEIGHTS.replace("[1]", "[3]"), arg=widths)


def test_a_plan_file_of_another_network_on_the_page_opens_that(
    page: "Page", tmp_path: Path
) -> None:
    monkey = ["plan", "resnet56", "--params", "0.3", "-q", "-o", str(tmp_path / "other.json")]
    assert main(monkey) == 0
    upload(page, tmp_path / "other.json")
    wait_for(page, "precrop plan resnet56")
    page.locator("#beside").filter(has_text="plan file").wait_for()


def test_a_plan_file_of_any_other_network_is_named(page: "Page", tmp_path: Path) -> None:
    precrop.plan(resnet56(), SHAPE, params=0.3).save(tmp_path / "unnamed.json")
    upload(page, tmp_path / "unnamed.json")
    page.locator("#beside").filter(has_text="plans of different networks").wait_for()
    shown_is(page, precrop.plan(resnet20(), SHAPE, params=0.5, macs=0.5))


def test_hostile_files_are_refused(page: "Page", tmp_path: Path) -> None:
    text = precrop.plan(resnet20(), SHAPE, params=0.3).to_json()
    file = tmp_path / "altered.json"
    file.write_text(text.replace("conv1", "<img src=x onerror=alert(1)>"), encoding="utf-8")
    upload(page, file)
    page.locator("#told").filter(has_text="altered after it was written").wait_for()
    assert page.locator("img[src=x]").count() == 0
