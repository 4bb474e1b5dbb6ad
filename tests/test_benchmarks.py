"""The benchmarks run, and what they compare with computes the same."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import (
    methods_speed,
    plan_speed,
    preconfig_speed,
    sparse_speed,
    study_overhead,
    training_speed,
)
from benchmarks.methods_speed import Case, batch, densities, made, scaled
from precrop import models
from precrop.pruning.methods import METHODS

TINY = Case("precrop.models:resnet20", (3, 32, 32), 10)


@pytest.mark.matrix  # every method on a network, as the benchmark itself
def test_methods_speed_writes_every_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    methods_speed.main(["--quick", "--markdown", str(page)])
    printed, written = capsys.readouterr().out, page.read_text(encoding="utf-8")
    sections = written.split("\n## ")[1:]
    assert len(sections) == 5
    ratios, every, loops, plans, memory = sections
    for section in sections:
        assert section.partition("\n")[0] in printed
    assert ratios.count("\n| S") == 3
    assert all(f"| resnet20 | {method} |" in every for method in METHODS)
    assert all(f"| resnet20 | {method} |" in loops for method in ("synflow", "snip"))
    assert plans.count("| resnet20 |") == 4
    assert memory.count("| resnet20 | snip |") == 1
    assert "nan" not in written


def test_plain_synflow_finds_the_same_densities() -> None:
    model = scaled(made(TINY))
    found = densities(model, case=TINY, method="synflow", rounds=5)
    expected = methods_speed.plain_synflow(model, TINY.shape, 5)
    assert found == pytest.approx(expected, abs=0.005)


def test_plain_snip_finds_the_same_densities() -> None:
    model, (inputs, targets) = made(TINY), batch(TINY, 16)
    found = densities(model, case=TINY, method="snip", data=[(inputs, targets)])
    assert found == pytest.approx(methods_speed.plain_snip(model, inputs, targets), abs=0.005)


def test_what_is_measured_stays_as_it_was() -> None:
    model = scaled(made(TINY))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    methods_speed.plain_synflow(model, TINY.shape, 2)
    methods_speed.plain_snip(model, *batch(TINY, 4))
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_stages_of_a_plan_are_those_there_are() -> None:
    seconds = plan_speed.stage_seconds(models.resnet20(), TINY.shape)
    assert set(seconds) == {*plan_speed.STAGES, "rest", "total"}
    assert all(value > 0 for value in seconds.values())


@pytest.mark.matrix  # several short trainings
def test_training_speed_writes_every_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training_speed, "BATCH", 16)
    monkeypatch.setattr(training_speed, "EPOCHS", 2)
    monkeypatch.setattr(training_speed, "DIVISORS", (8,))
    monkeypatch.setattr(training_speed, "DEPTHWISE", ("tests.networks:short_mobilenet",))
    monkeypatch.setattr(training_speed, "_apart", training_speed.measured)
    page = tmp_path / "page.md"
    training_speed.main(["--rounds", "1", "--steps", "2", "--markdown", str(page)])
    printed, written = capsys.readouterr().out, page.read_text(encoding="utf-8")
    speeds, epochs, parts, depthwise = written.split("\n## ")[1:]
    for section in (speeds, epochs, parts, depthwise):
        assert section.partition("\n")[0] in printed
    assert "| bare loop |" in speeds
    assert "| precrop train |" in speeds
    assert epochs.count("| plan, divisor 8") == 3
    dense = [line for line in epochs.splitlines() if line.startswith("| dense")]
    assert [line.endswith("| 100% |") for line in dense] == [True, True]
    assert all(f"| {kind} |" in parts for kind in training_speed.KINDS)
    assert all(f"| {name}, plan, divisor 8 |" in depthwise for name in training_speed.DEPTHWISE)
    assert "nan" not in written


@pytest.mark.matrix  # two trainings and two studies of them
def test_study_overhead_writes_every_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = study_overhead.STUDY.replace("resnet20", '"tests.training.small_runs:batch_net"')
    monkeypatch.setattr(study_overhead, "STUDY", small)
    page = tmp_path / "page.md"
    study_overhead.main(["--epochs", "1", "--rows", "150", "--markdown", str(page)])
    printed, written = capsys.readouterr().out, page.read_text(encoding="utf-8")
    studied, opened = written.split("\n## ")[1:]
    for section in (studied, opened):
        assert section.partition("\n")[0] in printed
    assert opened.count("| 150 |") == 2
    assert "nan" not in written


def test_preconfigs_seconds() -> None:
    row = preconfig_speed.preconfig_seconds("resnet20", 1)
    assert row["network"] == "resnet20"
    assert 0 < row["cpu least"] <= row["cpu median"] <= row["cpu most"]


def test_sparse_layers_compute_what_masked_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape = partial(nn.Conv2d, 8, 8, 3, padding=1, bias=False), (2, 8, 6, 6)
    monkeypatch.setattr(sparse_speed, "LAYERS", {"small": (make, shape)})
    row = sparse_speed.speedups("small", 0.9, 1)  # it compares their outputs
    assert all(row[layout] > 0 for layout in sparse_speed.LAYOUTS)
    layer = sparse_speed.masked(make(), 0.9)
    (weight,) = layer.parameters()
    assert int((weight == 0).sum()) == round(0.9 * weight.numel())
