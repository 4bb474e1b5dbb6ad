"""The example of a Space is the page, and serves it as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPACE, CONSTRAINTS = ROOT / "examples" / "space", ROOT / "constraints.txt"
pytest.importorskip("gradio")
LAUNCHED = """
import runpy, sys
import gradio as gr

gr.Blocks.launch = lambda page, **options: print(f"launched with {options}")
demo = runpy.run_path(sys.argv[1], run_name="__main__")["demo"]
print(demo.title, demo.analytics_enabled, sep="; ")
"""


def test_it_is_launched_as_it_stands() -> None:
    """In a process of its own: Gradio leaves event loops open, which pytest blames on any test.

    All but the page is Gradio's own, which knows where it runs.
    """
    command = [sys.executable, "-W", "ignore", "-c", LAUNCHED, str(SPACE / "app.py")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["launched with {}", "precrop: resnet50; False"]


def test_a_space_gets_the_tested_version() -> None:
    assert (SPACE / "requirements.txt").read_text(encoding="utf-8").strip() == "precrop[explore]"
    said = (SPACE / "README.md").read_text(encoding="utf-8")
    (tested,) = re.findall(r"^gradio==(.+)$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert f"sdk_version: {tested}\n" in said
