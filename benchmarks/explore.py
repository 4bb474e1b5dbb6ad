"""How soon the page of ``precrop explore`` answers: 50 random moves of its controls, in a browser.

A move sets one control as a hand would. Its answer has come when the numbers, the picture, the
table and the code on the page have all been written anew and nothing changes any more; the seconds
are those up to the last change. The first picture of a network, which is built and read then, is
shown apart.
"""

import argparse
import random
import shutil
import socket
import statistics
from collections.abc import Iterator, Sequence
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
    timed,
    write_between,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

NETWORKS = ("resnet50", "mobilenet_v2")
MOVES = 50
COLUMNS = {
    "network": "network",
    "first": "first picture, s",
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
    """Measure and print; also as Markdown where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the table between a page's markers"
    )
    parser.add_argument("--moves", type=int, default=MOVES, help="for each network (default 50)")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="MODEL")
    args = parser.parse_args(argv)
    where = setting("torch", "gradio", "precrop")
    rows = [measured(name, args.moves) for name in args.networks]
    sections = [Section(f"{args.moves} moves of the page", COLUMNS, rows)]
    show(sections)
    if args.page is not None:
        table = [*rows_of(sections[0]), "", f"{args.moves} moves each; {described(where)}."]
        write_between(args.page, table)


def measured(network: str, moves: int) -> Row:
    """Seconds of random moves on the page of a network."""
    from precrop.explore.page import app

    progress.print(f"{network}: {moves} moves")
    explored = app(network, names=())
    with served(explored) as address, browser() as page:
        first, _ = timed(lambda: opened(page, address))
        choose = random.Random(0)
        page.evaluate(COUNT)
        taken = [page.evaluate(MOVE, move(choose)) for _ in range(moves)]
    if min(taken) < 0:
        raise SystemExit(f"{network}: {taken.count(-1)} moves had no answer")
    return {
        "network": network,
        "first": first,
        "median": statistics.median(taken),
        "p95": statistics.quantiles(taken, n=20)[-1] if len(taken) > 1 else taken[0],
        "most": max(taken),
    }


def move(choose: random.Random) -> tuple[str, float | None]:
    """A control, and where it is moved to: mostly a budget."""
    number = {
        "#share-params": choose.randint(20, 99),
        "#share-macs": choose.randint(20, 99),
        "#balance": choose.randint(1, 50) / 10,
    }
    control = choose.choices([*number, "#divisor", "#strategy", "#expand"], (4, 4, 1, 1, 1, 1))[0]
    if control in number:
        return f"{control} input[type=range]", number[control]
    if control == "#expand":
        return f"{control} input", None
    return f"{control} input:not(:checked)", choose.randint(0, 3 if control == "#divisor" else 1)


def opened(page: "Page", address: str) -> None:
    """The page with its first picture."""
    page.goto(address)
    page.wait_for_selector("#picture .bars")


@contextmanager
def served(explored: Any) -> Iterator[str]:
    """The address of a page that is served meanwhile."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    from precrop.explore.serving import started

    with started(explored, "127.0.0.1", port) as address:
        yield address


@contextmanager
def browser() -> "Iterator[Page]":
    """A page of a headless Chromium."""
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
