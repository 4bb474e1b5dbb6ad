"""Packages that bring methods, objectives, costs, operations and strategies of their own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import precrop
from precrop.cli.app import main
from precrop.costs.layered import COSTS
from precrop.errors import PrecropError
from precrop.models import resnet20
from precrop.strategies.objectives import OBJECTIVES

PLUGIN = """
import numpy as np
import precrop
import torch
from precrop.strategies.shapes import shaped


@precrop.objective("late")
def late(structure):
    return np.linspace(0.5, 1.5, len(structure.layers))


@precrop.cost("energy")
def energy(layer):
    return 200, 1


@precrop.method("first_batch", kind="score", needs_data=True)
def first_batch(problem):
    inputs, _ = next(iter(problem.batches()))
    return {name: weight.abs() * inputs.mean() for name, weight in problem.weights().items()}


class Pyramid(precrop.Strategy):
    def __call__(self, problem):
        return shaped(problem, np.linspace(-0.5, 0.0, len(problem.gain)), {})


def tiny():
    convs = torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3)
    return torch.nn.Sequential(*convs, torch.nn.Flatten(), torch.nn.Linear(256, 10))
"""
OPERATION = """
import precrop
import torch


@torch.library.custom_op("ours::smooth", mutates_args=())
def smooth(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(x, 3, stride=1, padding=1)


smooth.register_fake(lambda x: torch.empty_like(x))
precrop.op("smooth", axes="same", linear="same")
"""
CELLS = """
study: ours
description: what a package brings
data: digits
recipe: {name: cifar-quick, epochs: 1}
seeds: [0]
networks: ["plugged:tiny"]
budgets: [{params: 0.3}]
variants:
  - {name: late, plan: {objective: late}}
  - {name: masked, mask: "first_batch:weight"}
  - {name: of a file, mask: "FILE:score:filter"}
"""
OWN = """
def score(problem):
    return {name: weight.abs() for name, weight in problem.weights().items()}
"""
USE = """
import sys
import numpy, precrop, torch
from precrop.cli.app import main
from precrop.models import resnet20
from torch import nn
plan = precrop.plan(resnet20(), (3, 32, 32), costs={"energy": 0.5}, objective="late")
assert 0 < plan.budgets["energy"].used <= plan.budgets["energy"].limit
from plugged import Pyramid
from smoothed import smooth
assert precrop.plan(resnet20(), (3, 32, 32), params=0.5, strategy=Pyramid()).params
class Smooth(nn.Module):
    def forward(self, x):
        return smooth(x)
convs = nn.Conv2d(3, 16, 3), Smooth(), nn.Conv2d(16, 16, 3)
net = nn.Sequential(*convs, nn.Flatten(), nn.Linear(16 * 144, 10))
assert not precrop.plan(net, (3, 16, 16), params=0.5).frozen
assert precrop.densities(net, (3, 16, 16), method="synflow", params=0.5)
sys.exit(main(["plan", "resnet20", "--cost", "energy=0.5", "--objective", "late", "--json"]))
"""


def package(folder: Path, name: str, code: str) -> None:
    """Install a package that names its one module as a plug-in, ``ours``."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[precrop.plugins]\nours = {name}\n")


def run(installed: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    paths = [str(installed), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *argv],
        cwd=installed,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_packages_bring_works_in_python_and_in_plan(tmp_path: Path) -> None:
    package(tmp_path, "plugged", PLUGIN)
    package(tmp_path, "smoothed", OPERATION)
    found = run(tmp_path, "-c", USE)
    assert found.returncode == 0, found.stderr
    budget = json.loads(found.stdout)["budgets"]["energy"]
    assert budget["used"] <= budget["limit"]


def test_studies_know_what_a_package_brings(tmp_path: Path) -> None:
    package(tmp_path, "plugged", PLUGIN)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "study.yaml").write_text(CELLS.replace("FILE", str(tmp_path / "own.py")))
    study = run(
        tmp_path, "-m", "precrop", "study", "run", str(tmp_path / "study.yaml"),
        "--store", str(tmp_path / "store"), "--threads", "1", "--trust", "--json",
    )  # fmt: skip
    assert study.returncode == 0, study.stderr
    assert json.loads(study.stdout)["done"] == 3


def test_a_plugin_that_fails_is_one_line(tmp_path: Path) -> None:
    package(tmp_path, "broken", "raise RuntimeError('no such thing')")
    found = run(tmp_path, "-m", "precrop", "plan", "resnet20", "--params", "0.5")
    assert found.returncode == 2
    assert found.stderr == (
        "precrop: error: the plugin ours of broken fails (RuntimeError: no such thing): "
        "mend or remove it\n"
    )


@pytest.mark.parametrize("prices", [3, (1,), [1, 1], (1, 2, 3), (1.0, 1), (1, -1)])
def test_prices_that_make_no_sense_are_one_line(
    prices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COSTS, "odd", lambda layer: prices)
    with pytest.raises(PrecropError, match="the cost 'odd' says .* it must be two whole numbers"):
        precrop.plan(resnet20(), (3, 32, 32), costs={"odd": 0.5})


def fails(*args: Any) -> Any:
    raise SystemExit("no luck")


FAILS = r"\(test_plugins.py, line \d+\): SystemExit: no luck"


def test_costs_and_objectives_that_fail_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COSTS, "odd", fails)
    with pytest.raises(PrecropError, match=f"^the cost 'odd' fails on conv1 {FAILS}"):
        precrop.plan(resnet20(), (3, 32, 32), costs={"odd": 0.5})
    monkeypatch.setitem(OBJECTIVES, "odd", fails)
    with pytest.raises(PrecropError, match=f"^objective odd fails {FAILS}"):
        precrop.plan(resnet20(), (3, 32, 32), params=0.5, objective="odd")
    monkeypatch.setitem(OBJECTIVES, "odd", lambda structure: None)
    with pytest.raises(PrecropError, match="^objective odd must give 22 weights"):
        precrop.plan(resnet20(), (3, 32, 32), params=0.5, objective="odd")
    monkeypatch.setitem(OBJECTIVES, "odd", lambda structure: [1j] * len(structure.layers))
    with pytest.raises(PrecropError, match="^objective odd gives complex weights"):
        precrop.plan(resnet20(), (3, 32, 32), params=0.5, objective="odd")


@torch.library.custom_op("plugins_tests::smooth", mutates_args=())
def smooth(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(x, 3, stride=1, padding=1)


smooth.register_fake(lambda x: torch.empty_like(x))


def smoothing() -> nn.Module:
    class Smooth(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return smooth(x)

    convs = nn.Conv2d(3, 16, 3), Smooth(), nn.Conv2d(16, 16, 3)
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(256, 10))


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (fails, f", whose handler fails {FAILS}"),
        (lambda reader, call: None, ", whose handler gives other sizes than its outputs have"),
        (lambda reader, call: [reader.axes(call.arg("x"))[:1]], ", whose handler gives other siz"),
    ],
)
def test_an_operations_handler_that_fails_holds_widths_and_the_plan_says_so(
    handler: Any, reason: str
) -> None:
    precrop.op("plugins_tests::smooth", axes=handler)
    model = smoothing()
    plan = precrop.plan(model, (3, 8, 8), params=0.7)
    assert re.match(f"plugins_tests::smooth in 1{reason}", plan.frozen["0"])
    built: Any = plan.build(model)
    assert sum(p.numel() for p in built.parameters()) == plan.params <= 0.7 * plan.base_params
    assert built(torch.ones(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("reading", "reason"),
    [(fails, f"its linear reading fails {FAILS}"), (lambda call, args: None, "gives None, no val")],
)
def test_a_linear_reading_that_fails_is_one_line(reading: Any, reason: str) -> None:
    precrop.op("plugins_tests::smooth", axes="same", linear=reading)
    with pytest.raises(
        PrecropError, match=f"^SynFlow fails at plugins_tests::smooth in 1: .*{reason}"
    ):
        precrop.densities(smoothing(), (3, 8, 8), method="synflow", params=0.5)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("joy=0.5", "no cost is called 'joy'"),
        ("energy", "--cost energy is not like energy=0.5"),
        ("params=0.5", "params is not a cost of your own: write params="),
    ],
)
def test_costs_that_make_no_sense_are_one_line(
    option: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "resnet20", "--cost", option]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
