"""What every test runs under, and a browser for pages."""

import gc
import shutil
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# PyTorch's own counter, which tests hold ours against, leaves this one out before 2.15.
flop_registry.setdefault(
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
    flop_registry[torch.ops.aten._scaled_dot_product_flash_attention],
)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def pytest_configure() -> None:
    """What tests start can be interrupted, also where a script began them in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was made until now stays to the end: garbage collection need not look at it again.

    Nor as often at what tests make, which costs a twentieth of their time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 10)


def pytest_sessionfinish() -> None:
    """Libraries look for what they leaked."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tests run side by side, and their networks are small: more threads only wait."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def operators_read_once() -> Iterator[None]:
    """PyTorch's exporter reads its table of operators anew for each network, half of its time."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        once = staticmethod(cache(ONNXRegistry.from_torchlib))
        patch.setattr(ONNXRegistry, "from_torchlib", once)
        yield


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """A headless Chromium of this machine's; tests that need one are skipped without."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)} is on the path")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=Path(path), args=["--no-sandbox"])
        yield found
        found.close()
