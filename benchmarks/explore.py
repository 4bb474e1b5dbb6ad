"""How fast the page of ``precrop explore`` answers 50 random moves of its controls in a browser.

A move sets one control as a person would: mostly a budget, else divisor, balance, expand or
strategy, which changes between SynExp and Uniform; moves with the strategy Exact, which solves many
programs per plan, are measured separately. A move is answered when numbers, picture, table and code
are written again and nothing on the page changes any more.
"""

import argparse
import os
import random
import shutil
import socket
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import (
    Row,
    Section,
    described,
    progress,
    rows_of,
    setting,
    show,
    write_between,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

Moved = Callable[[random.Random], float]
NETWORKS = ("resnet50", "mobilenet_v2")
MOVES = 50
EXACTLY = 10
"""Moves with the strategy Exact."""
COLUMNS = {
    "network": "network",
    "strategy": "strategy",
    "moves": "moves",
    "median": "median answer, s",
    "p95": "95th percentile, s",
    "most": "longest, s",
}
QUIET = 400
"""Milliseconds without a change after which the page is done."""
PATIENCE = 120_000.0
COUNT = """() => {
    window.answers = 0;
    const original = window.fetch;
    window.fetch = async (...asked) => {
        const answer = await original(...asked);
        if (String(asked[0]?.url ?? asked[0]).includes("/run/")) window.answers++;
        return answer;
    };
}"""
"""Counts what the server has answered."""
MOVE = """([controls, value]) => new Promise(done => {
    const before = window.answers, start = performance.now();
    let last = 0;
    const seen = new MutationObserver(() => { last = performance.now(); });
    const inputs = document.querySelectorAll(controls);
    const input = inputs[inputs.length > 1 ? value : 0];
    if (["checkbox", "radio"].includes(input.type)) input.click();
    else {
        input.value = input.value == value ? input.min : value;
        input.dispatchEvent(new Event("input", {bubbles: true}));
    }
    const results = document.querySelector("#totals").closest(".column");
    seen.observe(results, {subtree: true, childList: true, characterData: true,
        attributes: true, attributeFilter: ["d", "y", "height"]});
    const look = setInterval(() => {
        const now = performance.now();
        if (window.answers > before && !last) last = now;
        const over = window.answers > before && now - last > QUIET;
        if (over || now - start > 60000) {
            clearInterval(look);
            seen.disconnect();
            done(over ? (last - start) / 1000 : -1);
        }
    }, 10);
})""".replace("QUIET", str(QUIET))
"""Moves one control; gives the seconds until the last change on the page."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print; also as Markdown if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the table between a page's markers"
    )
    parser.add_argument("--moves", type=int, default=MOVES, help="for each network (default 50)")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="MODEL")
    args = parser.parse_args(argv)
    where = setting("torch", "gradio", "precrop")
    busy = os.getloadavg()[0]
    rows = [row for name in args.networks for row in measured(name, args.moves)]
    sections = [Section("Moves of the page", COLUMNS, rows)]
    show(sections)
    if args.page is not None:
        others = f"When it began {busy:.1f} other programs wanted a core."
        table = [*rows_of(sections[0]), "", f"Measured on {described(where)}. {others}"]
        write_between(args.page, table)


def measured(network: str, moves: int) -> Iterator[Row]:
    """Return the seconds of random moves on the page of a network."""
    from precrop.explore.page import app

    with served(app(network, names=())) as address, browser() as page:
        opened(page, address)
        page.evaluate(COUNT)
        choose = random.Random(0)
        for strategy, count in (("SynExp, Uniform", moves), ("Exact", min(moves, EXACTLY))):
            progress.print(f"{network}, {strategy}: {count} moves")
            if strategy == "Exact":
                page.locator("#strategy").get_by_text("Exact", exact=True).click()
                page.locator("#command .cm-content").filter(has_text="exact").wait_for()
            kinds = OTHERS if strategy != "Exact" else {}
            taken = [page.evaluate(MOVE, move(choose, kinds)) for _ in range(count)]
            if min(taken) < 0:
                raise SystemExit(f"{network}: {taken.count(-1)} moves had no answer")
            yield {
                "network": network,
                "strategy": strategy,
                "moves": count,
                "median": statistics.median(taken),
                "p95": sorted(taken)[round(0.95 * (count - 1))],
                "most": max(taken),
            }


OTHERS: Mapping[str, Moved] = {
    "#balance input[type=range]": lambda choose: choose.randint(1, 50) / 10,
    "#divisor input:not(:checked)": lambda choose: choose.randint(0, 3),
    "#strategy label:nth-of-type(-n+2) input:not(:checked)": lambda choose: 0,
    "#expand input": lambda choose: 0,
}
"""Controls beside the budgets, and where they are moved to."""


def move(choose: random.Random, others: Mapping[str, Moved]) -> tuple[str, float]:
    """Choose a control and its new value: in two of three cases a budget."""
    budgets = [f"#share-{cost} input[type=range]" for cost in ("params", "macs")]
    if not others or choose.random() < 2 / 3:
        return choose.choice(budgets), choose.randint(20, 99)
    control = choose.choice([*others])
    return control, others[control](choose)


def opened(page: "Page", address: str) -> None:
    """Open the page and wait for its first picture."""
    page.goto(address)
    page.wait_for_selector("#picture .bars")


@contextmanager
def served(explored: Any) -> Iterator[str]:
    """Serve the page within; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    from precrop.explore.serving import started

    with started(explored, "127.0.0.1", port) as address:
        yield address


@contextmanager
def browser() -> "Iterator[Page]":
    """Yield a page of a headless Chromium."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if path is None:
        raise SystemExit("no Chromium is installed: make browser")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=Path(path), args=["--no-sandbox"])
        page = found.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(PATIENCE)
        yield page
        found.close()


if __name__ == "__main__":
    main()
