"""The command ``recalibrate``: a plan's weights and a run's, beside statistics by hand."""

import json
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
import typer

import precrop
from precrop.cli.recalibrate import recalibrate_command
from precrop.cli.train import train_command
from precrop.errors import PrecropError
from precrop.plans.plan import Plan
from precrop.plans.weights import load_tensors, save_tensors
from precrop.training.batches import train_batches
from precrop.training.data import load_data
from tests.training.small_runs import batch_net

Output = pytest.CaptureFixture[str]
NET = "tests.training.small_runs:batch_net"
FEW = ["--batches", "3", "--batch-size", "16"]


def run(*argv: str) -> None:
    app = typer.Typer()
    app.command("train")(train_command)
    app.command("recalibrate")(recalibrate_command)
    typer.main.get_command(app).main(args=list(argv), standalone_mode=False)


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def plan() -> Plan:
    made = precrop.plan(batch_net(), (3, 8, 8), params=0.5)
    made.save("half.json")
    save_tensors(made.build(batch_net()).state_dict(), Path("half.safetensors"), {})
    return made


def test_a_plans_weights(plan: Plan, capsys: Output) -> None:
    argv = ["half.json", "--weights", "half.safetensors", "--model", NET, "--data", "digits"]
    run("recalibrate", *argv, *FEW, "-o", "new")
    assert capsys.readouterr().out == "statistics of 3 batches of 16 images: new.safetensors\n"
    assert Plan.load("new.json") == plan
    before, after = load_tensors(Path("half.safetensors")), load_tensors(Path("new.safetensors"))
    batches = train_batches(load_data("digits"), 16, seed=0, epoch=0)
    images = [x for x, _ in islice(batches, 3)]
    weight = before["0.weight"]
    means = [torch.conv2d(x, weight, padding=1).mean((0, 2, 3)) for x in images]
    torch.testing.assert_close(after["1.running_mean"], torch.stack(means).mean(0))
    same = [name for name in before if "running" not in name and "tracked" not in name]
    assert len(same) == 8
    assert all(torch.equal(before[name], after[name]) for name in same)


def test_a_run(capsys: Output) -> None:
    run("train", NET, "--epochs", "1", "--logger", "csv", "--json")
    folder = json.loads(capsys.readouterr().out)["folder"]
    run("recalibrate", folder, "--trust", *FEW, "-o", "new", "--json")
    assert json.loads(capsys.readouterr().out) == {"weights": "new.safetensors", "batches": 3}
    before = load_tensors(Path(folder) / "last/model.safetensors")
    after = load_tensors(Path("new.safetensors"))
    assert before.keys() == after.keys()
    assert int(after["1.num_batches_tracked"]) == 3
    assert not torch.equal(before["1.running_mean"], after["1.running_mean"])
    assert not Path("new.json").exists()


def test_batches_that_there_are_and_names_with_dots(capsys: Output) -> None:
    """Of the digits there are 11 batches of 128."""
    run("train", NET, "--epochs", "1", "--logger", "csv", "--json")
    folder = Path(json.loads(capsys.readouterr().out)["folder"])
    Path("out").mkdir()
    for name in ("net.a", "net.b"):
        shutil.copytree(folder, name)
        run("recalibrate", name, "--trust", "-o", "out", "--json")
        said = json.loads(capsys.readouterr().out)
        assert said == {"weights": f"out/{name}.safetensors", "batches": 11}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["half.json", "-o", "x"], "is not a checkpoint"),
        (["half.json", "--weights", "half.safetensors", "-o", "x"], "name some with --data"),
        (["half.json", "--batches", "0", "-o", "x"], "--batches 0 and --batch-size 128 make no"),
        (["half.json", "-o", "missing/x"], "cannot write missing/"),
    ],
)
def test_errors_are_one_line(plan: Plan, argv: list[str], message: str) -> None:
    with pytest.raises(PrecropError, match=message):
        run("recalibrate", *argv)
