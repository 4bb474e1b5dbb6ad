"""The package's front door: what is exported, and that importing it costs next to nothing."""

import subprocess
import sys

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
print([m for m in ("scipy", "clarabel", "rich", "typer", "torchvision") if m in sys.modules])
"""

SUBMODULES_FIRST = """
import importlib, pkgutil, types
import precrop
for module in pkgutil.walk_packages(precrop.__path__, "precrop."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
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


def test_public_names_are_never_modules() -> None:
    python(SUBMODULES_FIRST)


def test_names_are_listed_and_lazy() -> None:
    assert set(precrop.__all__) <= set(dir(precrop))
    assert precrop.BudgetError is BudgetError
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = precrop.nothing  # type: ignore[attr-defined]
