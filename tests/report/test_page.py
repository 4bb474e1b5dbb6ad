"""The page draws its charts in a browser, and its filters filter."""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from precrop.report.claims import Claims
from precrop.report.frames import frame_of
from precrop.report.page import page as written
from precrop.report.verdicts import verdicts
from precrop.report.writing import PAGE, Report
from tests.study.made_rows import made_row

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

RUNS = 1 + 6 * 3 * 2
"""Of one network in the made study."""
PATIENCE = 120_000.0
"""Milliseconds that a busy machine may take to load five megabytes of plotly."""
CHARTS = ("accuracy", "params", "macs", "widths", "densities", "granularity", "times")


@pytest.fixture(scope="module")
def opened(browser: "Browser", report: Report) -> "Iterator[tuple[Page, list[str]]]":
    """The page, and what it complained of or asked a network for."""
    trouble: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on(
        "request",
        lambda request: trouble.append(request.url) if request.url.startswith("http") else None,
    )
    page.goto((report.folder / PAGE).as_uri())
    page.wait_for_selector("html[data-ready]")
    yield page, trouble
    page.close()


@pytest.fixture
def page(opened: "tuple[Page, list[str]]") -> "Iterator[Page]":
    """As it is when it is opened; afterwards nothing may have gone wrong."""
    page, trouble = opened
    page.reload()
    page.wait_for_selector("html[data-ready]")
    yield page
    assert trouble == []


def points(page: "Page", chart: str) -> int:
    return page.locator(f"#{chart} .scatterlayer .point").count()


def means(page: "Page") -> int:
    return page.locator("#groups tr").count() - 1


def test_every_chart_is_drawn(page: "Page") -> None:
    for chart in CHARTS:
        assert page.locator(f"#{chart} svg.main-svg").count() > 0, chart
    for chart in set(CHARTS) - {"times"}:
        assert points(page, chart) > 0, chart
    assert points(page, "accuracy") == RUNS + means(page)
    assert points(page, "params") == RUNS + means(page)
    assert page.locator("#times .bars .point").count() == means(page)
    assert page.locator("#nothing").is_hidden()


def test_labels_do_not_overlap(page: "Page") -> None:
    boxes = page.locator("#accuracy .ytick").evaluate_all(
        "all => all.map(e => { const b = e.getBoundingClientRect(); return [b.top, b.bottom]; })"
    )
    assert len(boxes) == means(page)
    boxes.sort()
    assert all(upper[1] <= lower[0] + 1 for upper, lower in pairwise(boxes))


@pytest.mark.parametrize(
    ("kind", "value", "less"),
    [("variants", "PreCrop", 6), ("budgets", "params 10%, MACs 10%", 18), ("variants", "dense", 1)],
)
def test_a_chip_takes_its_points_away(page: "Page", kind: str, value: str, less: int) -> None:
    page.locator(f"#{kind} input[value='{value}']").uncheck()
    assert points(page, "accuracy") - means(page) == RUNS - less
    assert page.locator("#runs tr").count() - 1 == RUNS - less
    page.locator(f"#{kind} input[value='{value}']").check()
    assert points(page, "accuracy") - means(page) == RUNS


def test_without_any_budget_it_says_so(page: "Page") -> None:
    for chip in page.locator("#budgets input").all():
        chip.uncheck()
    assert page.locator("#nothing").is_visible()
    assert all(points(page, chart) == 0 for chart in CHARTS)


def test_another_network_has_its_own_runs(page: "Page", report: Report) -> None:
    page.select_option("#network", "vgg16_bn")
    shown = set(" ".join(page.locator("#groups code").all_inner_texts()).split())
    assert shown == {row.run for row in report.frame.rows if row.network == "vgg16_bn"}


def test_points_can_carry_their_runs(page: "Page", report: Report) -> None:
    texts = page.locator("#accuracy .textpoint")
    assert texts.count() == 0
    page.check("#hashes")
    runs = {row.run for row in report.frame.rows if row.network == "resnet20"}
    assert set(texts.all_text_contents()) == runs


def test_light_and_dark(page: "Page") -> None:
    def color() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    first = color()
    page.click("#theme")
    assert color() != first
    assert points(page, "accuracy") == RUNS + means(page)


def test_verdicts_name_their_runs(page: "Page", report: Report) -> None:
    assert page.locator(".verdict").count() == len(report.verdicts)
    text = page.locator("#verdicts").text_content() or ""
    for verdict in report.verdicts.values():
        assert verdict.claim in text
        assert all(run in text for run in verdict.runs)


def test_claims_without_runs_are_one_folded_line(page: "Page", report: Report) -> None:
    fold = page.locator("#verdicts details.untouched")
    assert fold.get_attribute("open") is None
    folded = [v for v in report.verdicts.values() if not v.judged]
    assert fold.locator(".verdict").count() == len(folded) > 5
    assert fold.locator(".verdict").first.is_hidden()
    assert page.locator("#verdicts > .verdict").count() == len(report.verdicts) - len(folded)


def test_the_table_comes_first(page: "Page") -> None:
    heads = page.locator("main h2").all_inner_texts()
    assert heads[:2] == ["Accuracy by variant", "Verdicts"]
    assert page.locator("#groups th").all_inner_texts()[:2] == ["variant", "accuracy, %"]


def test_names_are_text_and_never_markup() -> None:
    evil = '</script><img src=x onerror="alert(1)">'
    rows = [
        made_row(variant=evil, data=evil),
        made_row(status="failed", error=evil, variant="failed"),
    ]
    frame = frame_of(rows)
    text = written(frame, verdicts(frame, Claims()), 0.5)
    assert "<img" not in text.split("plotly.js v")[0]
    stored = re.search(r'id="content">(.*?)</script>', text, re.DOTALL)
    assert stored is not None
    assert json.loads(stored[1])["groups"][0]["variant"] == evil
