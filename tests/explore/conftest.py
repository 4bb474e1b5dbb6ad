"""The page as it is served, and a browser that has it open."""

import re
import socket
import subprocess
import sys
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


SERVED = """
import sys
from precrop.explore import app
from precrop.explore.serving import serve

page = app("resnet20", names=["resnet56"])
serve(page, "127.0.0.1", int(sys.argv[1]), lambda text: print(text, flush=True))
"""


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Where the page of a small network is served, by a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", SERVED, str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            yield re.findall(r"http://[\d.:]+/", said)[0]
        finally:
            server.kill()


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
