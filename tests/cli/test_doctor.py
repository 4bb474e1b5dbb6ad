"""What the doctor says of an installation and a machine."""

import importlib.metadata
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from precrop.cli.app import main
from precrop.deployment import quiet
from precrop.deployment.installed import ADDS, CORE, extras
from precrop.deployment.timing import Timing

Output = pytest.CaptureFixture[str]


def test_every_extra_says_what_it_adds() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    named = tomllib.loads(project.read_text("utf-8"))["project"]["optional-dependencies"]
    assert {*named, CORE} <= set(ADDS)
    assert all(ADDS.values())


def test_versions_are_those_of_the_libraries(capsys: Output) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    core = found["extras"]["core"]
    assert core["versions"]["torch"] == importlib.metadata.version("torch")
    assert core["install"] is None
    assert found["machine"]["cores"] >= 1
    assert found["arithmetic"]["threads"] >= 1
    assert found["quiet"]["enough"] == (found["quiet"]["spread"] <= quiet.QUIET)


def test_what_is_missing_comes_with_its_command(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = ["torch>=2", "no-such-library>=1; extra == 'deploy'", "torch; extra == 'new'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: needed)
    core, deploy, new = extras()
    assert (core.missing, core.command) == ([], None)
    assert deploy.missing == ["no-such-library"]
    assert new.versions == core.versions
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "missing no-such-library: pip install 'precrop[deploy]'" in out
    assert f"torch {importlib.metadata.version('torch')}" in out


def test_names_of_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["ray>=2.40; python_version > '3' and extra == \"ray\""]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: needed)
    (found,) = extras()
    assert (found.name, [*found.versions]) == ("ray", ["ray"])


def test_a_package_that_is_not_installed_has_no_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert extras() == []


@pytest.mark.parametrize(("slow", "enough"), [(1.05, True), (1.5, False)])
def test_a_busy_machine_is_told(
    slow: float, enough: bool, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(runners: Any, **_: Any) -> dict[str, Timing]:
        return {name: Timing((1.0, 1.0, slow, slow)) for name in runners}

    monkeypatch.setattr(quiet, "interleaved", timed)
    assert quiet.listen().enough is enough
    assert main(["doctor"]) == 0
    assert ("can mislead" in capsys.readouterr().out) is not enough
