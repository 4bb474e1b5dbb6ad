"""The package's front door: what it exports, what importing it costs, and what imports what."""

import pkgutil
import subprocess
import sys
import types

import pytest

import precrop
from precrop.errors import BudgetError

IMPORT_SECONDS = 0.1

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
import sys
import precrop
from precrop.models import resnet20
plan = precrop.plan(resnet20(), (3, 32, 32), params=0.5, latency=0.7, memory=0.7)
plan.build(resnet20())
print([m for m in ("onnx", "onnxruntime", "precrop.deployment") if m in sys.modules])
"""


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_import_is_light() -> None:
    seconds, heavy = python(MEASURE).splitlines()
    assert float(seconds) < IMPORT_SECONDS
    assert heavy == "[]"


def test_planning_needs_nothing_of_deployment() -> None:
    assert python(PLANNING).strip() == "[]"


def test_public_names_are_never_modules() -> None:
    """Importing a module sets its name in the package that it lies in."""
    modules = {module.name for module in pkgutil.iter_modules(precrop.__path__)}
    assert modules.isdisjoint(precrop.__all__)


def test_public_names_can_be_imported() -> None:
    for name in precrop.__all__:
        assert not isinstance(getattr(precrop, name), types.ModuleType)


def test_names_are_listed_and_lazy() -> None:
    assert set(precrop.__all__) <= set(dir(precrop))
    assert precrop.BudgetError is BudgetError
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = precrop.nothing  # type: ignore[attr-defined]
