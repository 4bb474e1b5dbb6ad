"""The commands ``train`` and ``eval``, from a shell's words to files and lines."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import load_file

import precrop
from precrop.cli.app import main
from precrop.cli.eval import eval_command
from precrop.cli.train import train_command
from precrop.errors import PrecropError
from precrop.files import digest_of
from precrop.training.data import Images
from tests.training.small_runs import APP, batch_net, digits

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
    assert "% on held-out images, loss" in out
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


MINE = """
from torch import nn

from blocks import WIDTH


def tiny(num_classes=10):
    convs = nn.Conv2d(3, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(WIDTH, num_classes))


def score(problem):
    return {name: weight.abs() for name, weight in problem.weights().items()}
"""


def edited(**files: str) -> None:
    """Files of the user's, and a process that has not seen them."""
    for name, text in files.items():
        Path(f"{name}.py").write_text(text)
        sys.modules.pop(name, None)


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    edited(mine=MINE, blocks="WIDTH = 8\n")
    yield
    for name in ("mine", "blocks"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("mine")
def test_a_run_of_other_code_is_not_taken_for_its_result(capsys: Output) -> None:
    words = ["./mine.py:tiny", "--epochs", "1", "--logger", "none"]
    found = train_json(capsys, *words)
    folder = Path(found["folder"])
    assert found["code"].keys() == {"mine.py", "blocks.py"}
    checkpoint = json.loads((folder / "last/checkpoint.json").read_text())
    assert checkpoint["run"]["code"] == found["code"]
    assert json.loads((folder / "result.json").read_text())["code"] == found["code"]
    edited(mine=MINE, blocks="WIDTH = 4 + 4\n")
    for without in ("result.json", "last"):  # finished, begun, begun without a checkpoint
        with pytest.raises(PrecropError, match=r"is of other code, blocks\.py changed since: undo"):
            run("train", *words)
        path = folder / without
        path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(PrecropError, match="is of other code"):
        run("train", *words)
    other = train_json(capsys, *words, "--output", "others")
    assert (other["run"], other["accuracy"]) == (found["run"], found["accuracy"])
    assert other["code"] != found["code"]


@pytest.mark.usefixtures("mine")
def test_what_is_done_with_a_run_of_other_code_is_warned_of(capsys: Output) -> None:
    folder = train_json(capsys, "./mine.py:tiny", "--epochs", "1", "--logger", "none")["folder"]
    uses = {
        "eval": [],
        "export": ["--format", "safetensors", "-o", "e.safetensors"],
        "recalibrate": ["-o", "r"],
    }
    line = f"precrop: warning: {folder}/last was trained with other code: blocks.py changed since"
    for change, said in (("WIDTH = 8\n", []), ("WIDTH = 4 + 4\n", [line])):
        edited(mine=MINE, blocks=change)
        for command, more in uses.items():
            capsys.readouterr()
            assert main([command, folder, "--model", "./mine.py:tiny", *more]) == 0
            err = capsys.readouterr().err.splitlines()
            assert [text for text in err if "warning" in text] == said
    edited(mine=MINE, blocks="WIDTH = 9\n")
    assert main(["eval", folder, "--trust"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == line
    assert "does not fit" in second


@pytest.mark.usefixtures("mine")
def test_a_mask_of_other_code(capsys: Output) -> None:
    words = ["resnet20", "--epochs", "1", "--logger", "none", "--params", "0.3"]
    words += ["--mask", "./mine.py:score:filter"]
    folder = train_json(capsys, *words)["folder"]
    edited(mine=MINE.replace("abs()", "square()"))
    with pytest.raises(PrecropError, match=r"is of other code, mine\.py changed since"):
        run("train", *words)
    capsys.readouterr()
    assert main(["eval", folder]) == 0  # the mask is kept, and the network ours
    assert "warning" not in capsys.readouterr().err


@pytest.mark.usefixtures("mine")
def test_an_older_run_does_not_say_its_code(capsys: Output) -> None:
    words = ["./mine.py:tiny", "--epochs", "1", "--logger", "none"]
    found = train_json(capsys, *words)
    path = Path(found["folder"]) / "result.json"
    content = json.loads(path.read_text())
    for name in ("code", "processes", "digest"):
        del content[name]
    path.write_text(json.dumps(content))
    edited(mine=MINE, blocks="WIDTH = 16\n")
    assert train_json(capsys, *words)["accuracy"] == found["accuracy"]


def test_the_number_of_processes_is_kept_and_said(capsys: Output) -> None:
    found = train_json(capsys, NET, *SHORT)
    assert found["processes"] == 1
    assert run("train", NET, *SHORT, "--devices", "2") == 0
    line = f"precrop: run {found['run']} was trained by 1 process, not 2: "
    assert line in capsys.readouterr().err
    folder = Path(found["folder"])
    checkpoint = folder / "last/checkpoint.json"
    content = json.loads(checkpoint.read_text())
    assert content["run"]["processes"] == 1
    content["run"]["processes"] = 2
    content.pop("digest")
    checkpoint.write_text(json.dumps({**content, "digest": digest_of(content)}))
    (folder / "result.json").unlink()
    assert train_json(capsys, NET, *SHORT)["processes"] == 1


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


def test_a_mask_that_is_larger_than_its_budget(capsys: Output) -> None:
    words = ["train", NET, *SHORT, "--params", "0.05", "--mask"]
    assert run(*words, "synflow:weight") == 0
    assert "warning" not in capsys.readouterr().err
    for budget in ("params", "macs"):
        words[-3] = f"--{budget}"
        assert run(*words, "magnitude:filter") == 0
        err = capsys.readouterr().err
        assert err.count("warning: the mask keeps ") == 1
        assert f"keeps {budget}=" in err
        assert "every layer keeps a filter at least, and whole ones" in err


def test_plans(capsys: Output) -> None:
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


def test_images_have_the_plans_size(capsys: Output) -> None:
    precrop.plan(batch_net(), (3, 16, 16), params=0.5).save("half.json")
    words = [NET, *SHORT, "--epochs", "1", "--plan", "half.json", "--json"]
    lines = []
    for more in ([], ["--input-shape", "3,8,8"]):
        assert run("train", *words, *more) == 0
        said = capsys.readouterr()
        content = json.loads((Path(json.loads(said.out)["folder"]) / "run.json").read_text())
        lines.append((content["input_shape"], said.err.splitlines()[0]))
    assert lines[0][0] == [3, 16, 16]
    assert " on digits at 3x16x16, the plan's input size, 1 epochs" in lines[0][1]
    assert lines[1][0] == [3, 8, 8]
    assert " at 3x8x8 (the plan is for 3x16x16, and so are its MACs), 1 ep" in lines[1][1]
    precrop.plan(batch_net(), (3, 16, 8), params=0.5).save("wide.json")
    with pytest.raises(PrecropError, match="scaled to squares, as 3,224,224, not to 3,16,8"):
        run("train", NET, "--plan", "wide.json")


def test_what_the_network_must_be_fed_is_kept(capsys: Output) -> None:
    found = train_json(capsys, NET, *SHORT)
    data, folder = digits(), Path(found["folder"])
    assert run("eval", str(folder), "--trust", "--json") == 0
    evaluated = json.loads(capsys.readouterr().out)
    written = json.loads((folder / "run.json").read_text())
    kept = json.loads((folder / "last/checkpoint.json").read_text())["run"]
    for told in (evaluated, written, kept):
        assert told["mean"] == list(data.mean)
        assert told["std"] == list(data.std)
        assert told["classes"] == list(data.classes)
        assert (told["input_shape"], told["crop_pct"]) == ([3, 8, 8], 1.0)
    assert evaluated["network"] == written["model"] == kept["model"] == NET


def test_other_images_are_normalised_as_those_of_the_training(capsys: Output) -> None:
    found = train_json(capsys, NET, *SHORT)
    images = digits()
    for name, split in (("train", images.train), ("val", images.test)):
        assert isinstance(split, Images)
        for number, (image, label) in enumerate(zip(split.images[:40], split.labels, strict=False)):
            folder = Path("darker", name, str(int(label)))
            folder.mkdir(parents=True, exist_ok=True)
            pixels = (image // 2).permute(1, 2, 0).contiguous().numpy()
            Image.fromarray(pixels).save(folder / f"{number}.png")
    assert run("eval", found["folder"], "--trust", "--data", "darker", "--json") == 0
    assert json.loads(capsys.readouterr().out)["mean"] == list(images.mean)


def test_first_weights(capsys: Output) -> None:
    """Of the original or of the cropped network, as they fit; also of other classes."""
    trained, other = batch_net(), batch_net(num_classes=7)
    plan = precrop.plan(trained, (3, 8, 8), params=0.5)
    plan.save("half.json")
    torch.save({"state_dict": trained.state_dict()}, "dense.pt")
    torch.save(plan.build(trained).state_dict(), "small.pth")
    torch.save({f"module.{n}": v for n, v in other.state_dict().items()}, "other.pt")
    still = [NET, "--epochs", "1", "--logger", "none", "--lr", "1e-12", "--recipe", "digits"]
    found = {
        name: train_json(capsys, *still, *words, "--weights", name)
        for name, words in {
            "dense.pt": [],
            "small.pth": ["--plan", "half.json"],
            "other.pt": [],
        }.items()
    }
    cropped = train_json(capsys, *still, "--plan", "half.json", "--weights", "dense.pt")
    assert len({run["run"] for run in (*found.values(), cropped)}) == 4
    for run_, wanted in (
        (found["dense.pt"], trained),
        (found["small.pth"], plan.build(trained)),
        (cropped, plan.build(trained)),
    ):
        state = load_file(Path(run_["folder"]) / "last/model.safetensors")
        for name, value in wanted.named_parameters():
            torch.testing.assert_close(state[name], value.detach())
    state = load_file(Path(found["other.pt"]["folder"]) / "last/model.safetensors")
    torch.testing.assert_close(state["3.weight"], other.get_parameter("3.weight").detach())
    assert state["9.weight"].shape == (10, 16)
    Path("dense.pt").unlink()  # a run that has begun needs it no more
    with pytest.raises(PrecropError, match="cannot read dense.pt"):
        run("train", *still, "--weights", "dense.pt")


def test_wrong_first_weights(capsys: Output) -> None:
    precrop.plan(batch_net(), (3, 8, 8), params=0.5).save("half.json")
    torch.save(torch.nn.Linear(2, 2).state_dict(), "linear.pt")
    torch.save(batch_net(), "whole.pt")
    for words, message in (
        (["--weights", "linear.pt"], f"linear.pt does not fit {NET}: it lacks tensor 0.weight"),
        (
            ["--weights", "linear.pt", "--plan", "half.json"],
            f"linear.pt fits neither {NET} (it lacks tensor 0.weight) nor the cropped network (it",
        ),
        (["--weights", "whole.pt"], "it holds an object (a whole network?)"),
        (["--weights", "none.pt"], "cannot read none.pt"),
        (["--weights", "linear.pt", "--plan", "half.json", "--init", "reset"], "drop --weights"),
    ):
        with pytest.raises(PrecropError) as caught:
            run("train", NET, *SHORT, *words)
        assert message in str(caught.value)
        assert not Path("runs").exists() or not list(Path("runs").iterdir())


def test_weights_are_a_file_of_a_run(capsys: Output) -> None:
    folder = train_json(capsys, NET, *SHORT)["folder"]
    with pytest.raises(PrecropError, match="it is a folder: name a file in it"):
        run("train", NET, *SHORT, "--weights", folder)
    for name in ("last", "best"):
        shutil.rmtree(Path(folder, name))
    with pytest.raises(PrecropError, match="has no checkpoint yet: repeat its command"):
        run("eval", folder)


def test_weights_of_a_network_that_looks_at_their_version(capsys: Output) -> None:
    net = NET.replace("batch_net", "signed_net")
    found = train_json(capsys, net, *SHORT)
    assert run("eval", found["folder"], "--model", net, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["loss"] == pytest.approx(found["loss"], abs=1e-5)
    weights = f"{found['folder']}/last/model.safetensors"
    again = train_json(capsys, net, *SHORT, "--lr", "1e-9", "--weights", weights)
    assert again["loss"] == pytest.approx(found["loss"], abs=0.05)


def test_a_loss_that_is_no_number(capsys: Output) -> None:
    net = NET.replace("batch_net", "diverging_net")
    for _ in range(2):
        assert run("train", net, *SHORT, "--json") == 0
        printed = capsys.readouterr()
        found = json.loads(printed.out, parse_constant=pytest.fail)
        assert found["loss"] is None
        assert "warning: the loss is no number: nan on held-out images" in printed.err
    assert run("eval", found["folder"], "--model", net, "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out, parse_constant=pytest.fail)["loss"] is None
    assert "the loss is no number" in printed.err


def test_one_image_per_class_to_train_on(capsys: Output) -> None:
    """Batches get as small as one image where there are no more."""
    for split in ("train", "val"):
        folder = Path("photos") / split / "cat"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), (9, 0, 0)).save(folder / "0.png")
    assert run("train", NET, "--data", "photos", *SHORT) == 0
    said = capsys.readouterr().err
    assert "1 training image is fewer than the batch size 256: trained in batches of 1," in said
    assert run("train", NET.replace("batch", "group"), "--data", "photos", *SHORT) == 0


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
    assert re.search(r"accuracy \d+\.\d\d%, loss", out)
    assert len(out.splitlines()) == 12


def test_a_picture_that_cannot_be_is_told_before_the_evaluation(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train_json(capsys, NET, *SHORT)["folder"]
    monkeypatch.delattr("precrop.training.evaluate.judge")
    with pytest.raises(PrecropError, match="cannot write none/x.png"):
        run("eval", folder, "--trust", "--confusion", "none/x.png")


@pytest.mark.parametrize(
    ("net", "said"),
    [
        ("Picky(True)", "./own.py:net cannot be trained on batches of 64: KeyError: 'only"),
        ("Picky(False)", "the network gives a dict: a classifier gives logits, or a tuple that"),
    ],
)
def test_what_fails_in_train_mode_alone_is_a_line(net: str, said: str) -> None:
    code = (
        "from torch import nn\n"
        "class Picky(nn.Module):\n"
        "    def __init__(self, fails):\n"
        "        super().__init__()\n"
        "        self.fails, self.op = fails, nn.Linear(192, 10)\n"
        "    def forward(self, x):\n"
        "        out = self.op(x.flatten(1))\n"
        "        if not self.training: return out\n"
        "        if self.fails: raise KeyError('only in eval')\n"
        "        return {'out': out}\n"
        f"def net(): return {net}\n"
    )
    Path("own.py").write_text(code)
    with pytest.raises(PrecropError) as caught:
        run("train", "./own.py:net", "--epochs", "1")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


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
        (["train", NET, "--init", "l2"], "--init is for a cropped network"),
        (["train", NET, "--workers", "-1"], "--workers -1 is not a number of processes"),
        (["train", NET, "--seed", "-1"], "seed -1 is not a seed: write a whole number from 0 up"),
        (["train", NET, "--logger", "none", "--logger", "csv"], "drop it, or drop csv"),
        (["train", NET, "--set", "milestones=0.5"], "schedule=one-cycle has no milestones"),
        (["eval", "none", "--model", NET], "none is not a checkpoint"),
        (["eval", "none", "--arg", "num_classes=9"], "--arg is for a plan"),
        (["eval", "none"], "none is not a checkpoint"),
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
    assert said.startswith(
        f"precrop: error: {plan} is not a checkpoint: give the folder of a run, "
    )
    assert said.endswith("; a plan goes with --weights FILE\n")
