"""The example of a Space is the page, and serves it as it stands."""

import runpy
from pathlib import Path

import gradio as gr
import pytest

SPACE = Path(__file__).parents[2] / "examples" / "space"


def test_it_is_launched_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    monkeypatch.setattr(gr.Blocks, "launch", lambda page, **options: launched.append(options))
    demo = runpy.run_path(str(SPACE / "app.py"), run_name="__main__")["demo"]
    assert launched == [{}], "all else is Gradio's own, which knows where it runs"
    assert demo.title == "precrop: resnet50"
    assert not demo.analytics_enabled


def test_a_space_gets_the_tested_version() -> None:
    assert (SPACE / "requirements.txt").read_text(encoding="utf-8").strip() == "precrop[explore]"
    said = (SPACE / "README.md").read_text(encoding="utf-8")
    assert f"sdk_version: {gr.__version__}\n" in said
