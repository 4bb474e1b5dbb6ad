"""The page as it is served, and a browser that has it open."""

import socket
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

collect_ignore_glob = [] if find_spec("gradio") else ["test_*.py"]
"""The wing can't even be imported without Gradio."""

PATIENCE = 60_000.0
"""Milliseconds that a busy machine may take."""


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Where the page of a small network is served."""
    from precrop.explore import app
    from precrop.explore.serving import started

    page = app("resnet20", names=["resnet56", "vgg16_bn", "densenet121"])
    with started(page, "127.0.0.1", free_port()) as where:
        yield where


@pytest.fixture(scope="session")
def opened(browser: "Browser", address: str) -> "Iterator[tuple[Page, list[str]]]":
    """The page, and what it complained of or asked another server for."""
    trouble: list[str] = []
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda said: trouble.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on(
        "request",
        lambda request: (
            trouble.append(request.url)
            if not request.url.startswith((address, "data:", "blob:"))
            else None
        ),
    )
    yield page, trouble
    page.close()


@pytest.fixture
def page(opened: "tuple[Page, list[str]]", address: str) -> "Iterator[Page]":
    """As it is when it is opened; afterwards nothing may have gone wrong."""
    page, trouble = opened
    trouble.clear()
    page.goto(address)
    page.wait_for_selector("#picture .bars")
    yield page
    assert trouble == []
