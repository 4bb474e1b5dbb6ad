"""The package's front door: what it exports, what importing it costs, and what imports what."""

import pkgutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import precrop
from precrop.errors import BudgetError

IMPORT_SECONDS = 0.1
ROOT = Path(__file__).parents[1]
STUDY = ROOT / "studies" / "repair.yaml"

MEASURE = """
import sys, time
import torch
start = time.perf_counter()
import precrop
print(time.perf_counter() - start)
heavy = ("scipy", "clarabel", "rich", "typer", "pydantic", "torchvision", "onnx", "onnxruntime")
print([m for m in (*heavy, "precrop.deployment") if m in sys.modules])
"""

PLANNING = """
import random, sys
import precrop
before = random.getstate()
from precrop.models import resnet20
plan = precrop.plan(resnet20(), (3, 32, 32), params=0.5, latency=0.7, memory=0.7)
plan.build(resnet20())
precrop.count(resnet20(), (3, 32, 32))
assert random.getstate() == before  # importing Rich draws from it
print([m for m in ("onnx", "onnxruntime", "precrop.deployment", "rich") if m in sys.modules])
"""

SUBMODULES_FIRST = """
import importlib, pkgutil, types
import precrop
for module in pkgutil.walk_packages(precrop.__path__, "precrop."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:  # the library of an extra that is not installed
            assert not error.name.startswith("precrop"), module.name
for name in precrop.__all__:
    value = getattr(precrop, name)
    assert not isinstance(value, types.ModuleType), name
    exec(f"from precrop import {name}")
"""


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_import_is_light() -> None:
    seconds, heavy = python(MEASURE).splitlines()
    assert float(seconds) < IMPORT_SECONDS
    assert heavy == "[]"


def test_studies_are_looked_at_without_pytorch(tmp_path: Path) -> None:
    """Which takes seconds to import; every process of a study imports what this does."""
    words = ["study", "status", str(STUDY), "--store", str(tmp_path / "none"), "--json"]
    look = f"import precrop.study.worker; from precrop.cli.app import main; main({words})"
    assert python(f"import sys; {look}; print('torch' in sys.modules)").split()[-1] == "False"


def test_planning_needs_nothing_of_deployment_and_draws_nothing() -> None:
    assert python(PLANNING).strip() == "[]"


def test_public_names_are_never_modules() -> None:
    modules = {module.name for module in pkgutil.iter_modules(precrop.__path__)}
    assert "planning" in modules
    assert not modules & {*precrop.__all__}


@pytest.mark.matrix
def test_public_names_stay_whatever_is_imported_first() -> None:
    """Every module, and with them all libraries of every extra."""
    python(SUBMODULES_FIRST)


def test_names_are_listed_and_lazy() -> None:
    assert set(precrop.__all__) <= set(dir(precrop))
    assert precrop.BudgetError is BudgetError
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = precrop.nothing  # type: ignore[attr-defined]


def test_the_oldest_versions_are_those_that_are_tested() -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints-lowest.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][name] for name in project["optional-dependencies"]]
    wanted = [Requirement(one) for one in (*project["dependencies"], *chain(*extras))]
    oldest = {
        one.name: Version(bound.version)
        for one in wanted
        for bound in one.specifier
        if bound.operator == ">=" and one.name in pins
    }
    assert len(oldest) > 30
    other = {name for name, bound in oldest.items() if Version(pins[name]) != bound}
    assert other == {"huggingface-hub"}  # timm and Gradio want a newer one
    assert all(Version(pins[name]) >= bound for name, bound in oldest.items())
