"""Draws the picture of the page in docs/explore.md and the README: ResNet-50 by three budgets."""

from pathlib import Path

from benchmarks.explore import browser, opened, served
from precrop.explore.page import app

TARGET = Path(__file__).parent.parent / "docs" / "images" / "explore.png"


def main() -> None:
    """Serve the page, move two of its budgets, and save a picture of it."""
    with served(app("resnet50", names=[])) as address, browser() as page:
        opened(page, address)
        for share, value in (("share-params", 40), ("share-macs", 30)):
            page.locator(f"#{share} input[type=range]").fill(str(value))
        page.locator("#command .cm-content").filter(has_text="--params 0.4 --macs 0.3").wait_for()
        page.wait_for_timeout(1000)
        page.screenshot(path=TARGET)


if __name__ == "__main__":
    main()
