"""The commands ``train`` and ``eval``, from a shell's words to files and lines."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from precrop.cli.app import main
from precrop.cli.eval import eval_command
from precrop.cli.train import train_command
from precrop.errors import PrecropError
from tests.training.small_runs import APP

Output = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[2]
NET = "tests.training.small_runs:batch_net"
SHORT = ["--epochs", "2", "--logger", "csv"]


def run(*argv: str) -> int:
    app = typer.Typer()
    app.command("train")(train_command)
    app.command("eval")(eval_command)
    status = typer.main.get_command(app).main(args=list(argv), standalone_mode=False)
    return status if isinstance(status, int) else 0


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train_json(capsys: Output, *argv: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run("train", *argv, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_the_module_imports_light() -> None:
    code = "import sys, precrop.cli.train; "
    code += "assert not {'torch', 'lightning', 'torchmetrics'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_help_lists_every_setting(capsys: Output) -> None:
    app = typer.Typer(rich_markup_mode=None)
    app.command("train")(train_command)
    with pytest.raises(SystemExit, match="^0$"):
        app(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in ("cifar-160", "label_smoothing: share", "--devices", "--compile", "--plan"):
        assert words in text


def test_digits_to_98_per_cent(capsys: Output) -> None:
    found = train_json(capsys, "resnet20", "--data", "digits")
    assert found["accuracy"] >= 0.98
    assert found["seconds"] < 120
    assert found["params"] == 272_474


def test_train(capsys: Output) -> None:
    found = train_json(capsys, NET, *SHORT, "--lr", "0.05", "--set", "flip=true", "--seed", "3")
    assert set(found) >= {"accuracy", "loss", "params", "macs", "seconds", "run"}
    folder = Path(found["folder"])
    assert folder == Path("runs") / f"tests.training.small_runs-batch_net-digits-{found['run']}"
    content = json.loads((folder / "run.json").read_text())
    assert content["recipe"]["lr"] == 0.05
    assert content["recipe"]["flip"] is True
    assert content["recipe"]["epochs"] == 2
    assert content["seed"] == 3


def test_a_line_per_epoch_and_nothing_else(capsys: Output) -> None:
    assert run("train", NET, *SHORT) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert "of the held-out images right" in out
    begin, first, second = err.splitlines()
    assert begin.startswith(f"precrop: {NET} (dense) on digits, 2 epochs, in runs/")
    assert first.startswith("epoch 1/2  loss ")
    assert "images/s" in second
    assert "left" in second


def test_a_finished_run_says_so(capsys: Output) -> None:
    first = train_json(capsys, NET, *SHORT)
    assert run("train", NET, *SHORT, "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == first
    assert "is finished already" in err


def test_masks(capsys: Output) -> None:
    found = train_json(capsys, NET, *SHORT, "--mask", "synflow", "--params", "0.2")
    dense = train_json(capsys, NET, *SHORT)
    assert found["params"] < 0.4 * dense["params"]
    assert found["macs"] < dense["macs"]
    snip = [*SHORT, "--mask", "snip:kernel", "--params", "0.2"]
    runs = [
        train_json(capsys, NET, *snip, *more)["run"]
        for more in ([], ["--mask-option", "batch_norm=stored"])
    ]
    assert runs[0] != runs[1]


def test_plans(capsys: Output) -> None:
    import precrop
    from tests.training.small_runs import batch_net

    plan = precrop.plan(batch_net(), (3, 8, 8), params=0.5)
    plan.save("half.json")
    found = train_json(capsys, NET, *SHORT, "--plan", "half.json")
    assert (found["params"], found["macs"]) == (plan.params, plan.macs)
    other = train_json(capsys, NET, *SHORT, "--plan", "half.json", "--init", "reset")
    assert other["run"] != found["run"]
    weights = str(Path(found["folder"]) / "last/model.safetensors")
    argv = ["half.json", "--weights", weights, "--model", NET, "--data", "digits", "--json"]
    assert run("eval", *argv) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(found["accuracy"])


def test_eval(capsys: Output) -> None:
    found = train_json(capsys, NET, *SHORT, "--mask", "erk:kernel", "--params", "0.5")
    folder = found["folder"]
    for path in (folder, f"{folder}/last", f"{folder}/last/model.safetensors"):
        assert run("eval", path, "--trust", "--json") == 0
        again = json.loads(capsys.readouterr().out)
        for name in ("accuracy", "loss"):
            assert again[name] == pytest.approx(found[name], rel=1e-5)
        for name in ("params", "macs", "run"):
            assert again[name] == found[name]
    assert run("eval", folder, "--model", NET, "--confusion", "confusion.png") == 0
    assert Path("confusion.png").stat().st_size > 5000
    out = capsys.readouterr().out
    assert "right, loss" in out
    assert len(out.splitlines()) == 12


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", NET, "--params", "0.5"], "--params and --macs are a mask's budgets"),
        (["train", NET, "--mask", "synflow"], "a mask needs a budget"),
        (["train", NET, "--mask-option", "rounds=1"], "--mask-option is for a mask"),
        (
            ["train", NET, "--mask", "erk", "--params", "0.5", "--mask-option", "rounds=1"],
            "method 'erk' has no option 'rounds': it has no options",
        ),
        (
            [
                *["train", NET, "--mask", "snip", "--params", "0.5"],
                *["--mask-option", "batch_norm=old"],
            ],
            "batch_norm='old' is unknown",
        ),
        (["train", NET, "--recipe", "best"], "recipe 'best' is unknown"),
        (["train", NET, "--set", "lr=fast"], "lr=fast is not a number"),
        (["train", NET, "--epochs", "0"], "epochs=0 is not from 1"),
        (["train", NET, "--data", "nowhere"], "nowhere"),
        (["train", NET, "--devices", "0"], "0 devices"),
        (["train", NET, "--logger", "paper"], "logger 'paper' is unknown"),
        (["train", NET, "--input-shape", "3,8,9"], "scaled to squares"),
        (["train", NET, "--input-shape", "1,8,8"], "are 3x8x8, not 1,8,8"),
        (["train", NET, "--plan", "none.json"], "cannot read none.json"),
        (["train", "resnet21"], "unknown model 'resnet21'"),
        (["train", NET, "--batch-size", "4000"], "less than one batch"),
        (["train", NET, "--epochs", "1", "--set", "epochs=2"], "--epochs and --set epochs= are"),
        (["train", NET, "--batch-size", "8", "--set", "batch-size=9"], "--batch-size and --set"),
        (["train", NET, "--init", "reset"], "--init is for a cropped network"),
        (["train", NET, "--workers", "-1"], "--workers -1 is no number of processes"),
        (["train", NET, "--seed", "-1"], "seed -1 is none: write a number from 0 up"),
        (["train", NET, "--logger", "none", "--logger", "csv"], "drop it, or drop csv"),
        (["train", NET, "--set", "milestones=0.5"], "schedule=one-cycle has no milestones"),
        (["eval", "none", "--model", NET], "none is no checkpoint"),
        (["eval", "none", "--arg", "num_classes=9"], "--arg is for a plan"),
        (["eval", "none"], "none is no checkpoint"),
        (["eval", "none", "--weights", "w.safetensors"], "name some with --data"),
    ],
)
def test_wrong_requests(argv: list[str], message: str) -> None:
    with pytest.raises(PrecropError) as caught:
        run(*argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_torchrun_says_how_many_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from precrop.training.devices import layout

    started = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    assert (layout(1), layout(1).nodes) == (layout(2), 2)
    with pytest.raises(PrecropError, match="torchrun started 2 processes here: drop --devices 3"):
        layout(3)


def test_ctrl_c(tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(APP)
    command = [sys.executable, str(script), "train", NET, "--epochs", "5000", "-o", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(3)]
        assert lines[-1].startswith("epoch 2/5000")
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read().splitlines()
    assert process.returncode == 130
    assert rest[-1].startswith("precrop: stopped; the same command goes on from ")
    assert all(line.startswith("epoch ") for line in rest[:-1])
    (folder,) = tmp_path.glob("tests*")
    content = json.loads((folder / "last/checkpoint.json").read_text())
    assert content["step"] >= 2 * 22


def test_a_plan_has_no_weights_to_evaluate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "half.json"
    plan.write_text("{}")
    assert main(["eval", str(plan)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"precrop: error: {plan} is no checkpoint: give the folder of a run, ")
    assert said.endswith("; a plan goes with --weights FILE\n")
