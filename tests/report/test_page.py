"""The page draws its charts in a browser, and its filters filter."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from precrop.errors import PrecropError
from precrop.report.figures import FIGURES, figures
from precrop.report.words import Report
from precrop.report.writing import PAGE, write_report
from tests.study.made_rows import made_row

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

RUNS = 1 + 6 * 3 * 2
"""Of one network in the made study."""
PATIENCE = 120_000.0
"""Milliseconds that a busy machine may take to load and draw."""
BOXES = """all => all.filter(e => e.textContent).map(e => {
    const {left, top, right, bottom} = e.getBoundingClientRect();
    return [left, top, right, bottom];
})"""


@contextmanager
def opening(browser: "Browser", path: Path) -> "Iterator[tuple[Page, list[str]]]":
    """A page, and what it complained of or asked a network for."""
    trouble: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on(
        "request",
        lambda request: trouble.append(request.url) if request.url.startswith("http") else None,
    )
    page.goto(path.as_uri())
    settle(page)
    yield page, trouble
    page.close()


def settle(page: "Page") -> None:
    """Wait until everything is drawn."""
    page.wait_for_selector("html[data-ready]")


@pytest.fixture(scope="module")
def opened(browser: "Browser", report: Report) -> "Iterator[tuple[Page, list[str]]]":
    with opening(browser, report.folder / PAGE) as found:
        yield found


@pytest.fixture
def page(opened: "tuple[Page, list[str]]") -> "Iterator[Page]":
    """As it is when it is opened; afterwards nothing may have gone wrong."""
    page, trouble = opened
    page.reload()
    settle(page)
    yield page
    assert trouble == []


def points(page: "Page", figure: str) -> int:
    """Marks that stand for one run each, or for one layer."""
    return page.locator(f"[data-figure={figure}] .mark-symbol path").count()


def shown(page: "Page", rows: str) -> int:
    return page.locator(f"#{rows} tr[data-setting]:not([hidden])").count()


def overlapping(boxes: list[list[float]]) -> bool:
    """Whether any two rectangles share more than a hair."""
    return any(
        min(a[2], b[2]) - max(a[0], b[0]) > 1 and min(a[3], b[3]) - max(a[1], b[1]) > 1
        for a, b in combinations(boxes, 2)
    )


def test_every_chart_is_drawn(page: "Page", report: Report) -> None:
    for figure in FIGURES:
        assert page.locator(f"[data-figure={figure}] svg.marks").count() == 1, figure
    means = shown(page, "groups")
    assert means == len(report.frame.within(report.frame.settings[0]))
    assert points(page, "accuracy") == RUNS
    assert points(page, "sizes") == 2 * (RUNS + means) + len(report.frame.variants)  # in the legend
    assert page.locator("[data-figure=times] .mark-rect path").count() == means
    assert page.locator("#nothing").is_hidden()


def test_charts_are_those_of_the_pictures(report: Report) -> None:
    text = (report.folder / PAGE).read_text(encoding="utf-8")
    stored = re.search(r'id="content">(.*?)</script>', text, re.DOTALL)
    assert stored is not None
    settings = json.loads(stored[1])["settings"]
    found = [setting["figures"][name]["chart"] for setting in settings for name in FIGURES]
    drawn = figures(report.frame, 0.5)
    assert found == json.loads(json.dumps([figure.chart for figure in drawn]))


def test_no_code_is_compiled_and_nothing_is_fetched(report: Report) -> None:
    text = (report.folder / PAGE).read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; script-src 'unsafe-inline';")
    assert "unsafe-eval" not in policy[1]


def test_pictures_are_not_written_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "figures").symlink_to("elsewhere")
    with pytest.raises(PrecropError, match="figures is a link"):
        write_report([made_row()], tmp_path)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_labels_do_not_overlap(page: "Page") -> None:
    for figure in FIGURES:
        texts = page.locator(f"[data-figure={figure}] svg text")
        boxes = texts.evaluate_all(BOXES)
        assert len(boxes) > 5
        assert not overlapping(boxes), figure


@pytest.mark.parametrize("length", [1, 60])
def test_names_of_any_length_have_their_room(
    browser: "Browser", tmp_path: Path, length: int
) -> None:
    rows = [
        made_row(variant=name * length, seed=seed, accuracy=accuracy, run=f"{seed:012x}")
        for name in "vw"
        for seed, accuracy in enumerate((1.0, 0.7, 0.99))
    ]
    write_report(rows, tmp_path)
    with opening(browser, tmp_path / PAGE) as (page, trouble):
        for figure in ("accuracy", "sizes", "widths", "densities", "times"):
            boxes = page.locator(f"[data-figure={figure}] svg text").evaluate_all(BOXES)
            assert not overlapping(boxes), figure
        assert trouble == []


@pytest.mark.parametrize(
    ("kind", "value", "less"),
    [("variant", "PreCrop", 6), ("budget", "params 10%, MACs 10%", 18), ("variant", "dense", 1)],
)
def test_a_chip_takes_its_points_away(page: "Page", kind: str, value: str, less: int) -> None:
    for click, left in (("uncheck", RUNS - less), ("check", RUNS)):
        chip = page.locator(f"#{kind} input[value='{value}']")
        getattr(chip, click)()
        settle(page)
        assert points(page, "accuracy") == left
        assert shown(page, "runs") == left


def test_without_any_budget_it_says_so(page: "Page") -> None:
    for place in range(page.locator("#budget input").count()):
        page.locator("#budget input").nth(place).uncheck()
    settle(page)
    assert page.locator("#nothing").is_visible()
    assert page.locator("section[data-figure] >> visible=true").count() == 0


def test_another_network_has_its_own_runs(page: "Page", report: Report) -> None:
    page.select_option("#network", "vgg16_bn")
    settle(page)
    runs = {row.run for row in report.frame.rows if row.network == "vgg16_bn"}
    told = page.locator("#groups tr:not([hidden]) code").all_inner_texts()
    assert set(" ".join(told).split()) == runs
    marks = page.locator("[data-figure=accuracy] .mark-symbol path").all()
    assert {mark.get_attribute("aria-label") for mark in marks} == runs


def test_points_can_carry_their_runs(page: "Page", report: Report) -> None:
    def named() -> set[str]:
        return set(page.locator("[data-figure=accuracy] svg text").all_text_contents()) & runs

    runs = {row.run for row in report.frame.rows if row.network == "resnet20"}
    alone = {group.runs[0] for group in report.frame.groups if len(group.runs) == 1} & runs
    assert named() == alone  # beside their rows
    page.check("#hashes")
    settle(page)
    assert named() == runs


def test_light_and_dark(page: "Page") -> None:
    def color() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    first = color()
    page.click("#theme")
    assert color() != first
    assert points(page, "accuracy") == RUNS


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


def test_names_are_text_and_never_markup(browser: "Browser", tmp_path: Path) -> None:
    evil = '</script><img src=x onerror="alert(1)">'
    rows = [
        made_row(variant=evil, data=evil, run=evil),
        made_row(status="failed", error=evil, variant="failed"),
    ]
    write_report(rows, tmp_path)
    with opening(browser, tmp_path / PAGE) as (page, trouble):
        page.locator("[data-figure=accuracy] .mark-symbol path").hover()
        tip = page.locator("#vg-tooltip-element.visible")
        assert evil in (tip.text_content() or "")
        assert evil in page.locator("#variant").inner_text()
        assert evil in page.locator("[data-figure=accuracy] svg text").all_text_contents()
        assert page.locator("img").count() == 0
        assert trouble == []
