"""The command ``export``, from a shell's words to files and lines."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import typer
from safetensors import safe_open
from safetensors.torch import load_file

import precrop
from precrop.cli.export import export_command
from precrop.deployment.exporting import load_safetensors
from precrop.errors import PrecropError
from precrop.plans.weights import save_built
from precrop.training.loop import train
from precrop.training.runs import MaskSpec
from precrop.zoo import load_model
from tests.training.small_runs import digits, small_run

Output = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[2]
NET = "tests.training.small_runs:batch_net"
SHAPE = ["--input-shape", "3,16,16"]


def run(*argv: str) -> int:
    app = typer.Typer()
    app.command("export")(export_command)
    status = typer.main.get_command(app).main(args=list(argv), standalone_mode=False)
    return status if isinstance(status, int) else 0


@pytest.fixture(autouse=True)
def _in_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operators_read_once: None
) -> None:
    monkeypatch.chdir(tmp_path)


def export_json(capsys: Output, *argv: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run(*argv, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def refused(match: str, *argv: str) -> None:
    before = sorted(Path().iterdir())
    with pytest.raises(PrecropError, match=match) as caught:
        run(*argv)
    assert "\n" not in str(caught.value)
    assert sorted(Path().iterdir()) == before


def test_the_module_imports_light() -> None:
    code = "import sys, precrop.cli.export; "
    code += "assert not {'torch', 'onnx', 'onnxruntime', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_model_by_name(capsys: Output) -> None:
    found = export_json(capsys, NET, *SHAPE, "--arg", "num_classes=4")
    path = Path("tests.training.small_runs-batch_net.onnx")
    assert found["path"] == str(path)
    assert found["files"] == [str(path)]
    assert found["bytes"] == path.stat().st_size
    assert (found["format"], found["batch"], found["batches"]) == ("onnx", None, [1, 3])
    assert found["difference"] <= 1e-4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.run(None, {"input": torch.ones(2, 3, 16, 16).numpy()})[0].shape == (2, 4)


def test_onnx_runtime_reports_to_nobody() -> None:
    """It would keep a number for that in the home folder, and have a thread of its own."""
    command = [sys.executable, "-m", "precrop", "export", NET, *SHAPE, "-o", "net.onnx"]
    environment = {**os.environ, "HOME": str(Path.cwd()), "PYTHONPATH": str(ROOT)}
    for name in ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY"):
        environment.pop(name, None)
    subprocess.run(command, check=True, env=environment, capture_output=True)
    assert Path("net.onnx").is_file()
    assert list(Path().rglob("*deviceid*")) == []


def test_a_factory_in_a_file_of_a_folder(capsys: Output) -> None:
    Path("nets").mkdir()
    Path("nets/own.py").write_text("from torch import nn\ndef net(): return nn.Conv2d(3, 4, 1)\n")
    found = export_json(capsys, "nets/own.py:net", *SHAPE, "--format", "pt2", "-o", "net.pt2")
    assert Path(found["path"]).is_file()


def test_inputs_of_a_function_of_ones_own(capsys: Output) -> None:
    text = """
    import torch
    def net(): return torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 3))
    def tokens(): return torch.tensor([[1, 8, 3]])
    """
    Path("token_nets.py").write_text(textwrap.dedent(text))
    words = ("token_nets:net", "--format", "pt2")
    made = (*words, "--input", "token_nets:tokens")
    found = export_json(capsys, *made, "-o", "net.pt2")
    assert found["batches"] == [1, 3]
    program = torch.export.load(found["path"]).module()
    assert program(torch.tensor([[1, 8, 3], [0, 0, 0]])).shape == (2, 3, 3)
    refused("no input shape is known", *words)
    refused("--input is like module:factory", *made, *SHAPE)
    refused("--input is like module:factory", *words, "--input", "token_nets.py")


def test_the_format_of_a_name(capsys: Output) -> None:
    assert export_json(capsys, NET, *SHAPE, "-o", "net.pt2")["format"] == "pt2"
    refused("under the suffix of pt2: write e.onnx", NET, *SHAPE, "--format", "onnx", "-o", "e.pt2")
    refused("net.pt says no format: name it .onnx, .pt2, ", NET, *SHAPE, "-o", "net.pt")
    assert export_json(capsys, NET, *SHAPE, "-o", ".", "--format", "pt2")["path"].endswith(".pt2")


def test_a_line(capsys: Output) -> None:
    assert run(NET, *SHAPE, "--format", "pt2", "-o", "net.pt2", "--batch", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("net.pt2: ")
    assert "for batches of 2; run by torch.export at batch 2" in lines[0]


def test_seeds(capsys: Output) -> None:
    for seed in ("1", "1", "2"):
        name = f"{len(list(Path().iterdir()))}.safetensors"
        export_json(capsys, NET, *SHAPE, "--format", "safetensors", "--seed", seed, "-o", name)
    first, same, other = (load_file(f"{i}.safetensors")["0.weight"] for i in range(3))
    assert first.equal(same)
    assert not first.equal(other)


def test_a_plan_with_weights(capsys: Output) -> None:
    model = load_model("resnet20", {})
    plan = precrop.plan(model, (3, 32, 32), macs=0.4)
    built = plan.build(model).eval()
    save_built(built, plan, Path(), "half")
    given = ["half.json", "--model", "resnet20", "--weights", "half.safetensors"]
    found = export_json(capsys, *given)
    assert found["path"] == "half.onnx"
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = built(x)
    session = onnxruntime.InferenceSession("half.onnx", providers=["CPUExecutionProvider"])
    torch.testing.assert_close(
        torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), wanted, rtol=1e-4, atol=1e-5
    )
    export_json(capsys, *given, "--format", "safetensors", "-o", "again.safetensors")
    with torch.no_grad():
        assert load_safetensors(Path("again.safetensors"))(x).equal(wanted)
    refused("does not say which model", "half.json")
    refused("--arg is for", "half.json", "--arg", "num_classes=3")
    refused("half.onnx is there already: say -o half.onnx", *given)


def test_a_masked_run_keeps_its_zeros(capsys: Output) -> None:
    done = train(
        small_run(settings={"epochs": 1}, mask=MaskSpec("uniform", "weight", params=0.5), seed=1),
        data=digits(),
        output=Path("runs"),
        loggers=("none",),
    )
    folder = Path(done.folder)
    found = export_json(capsys, str(folder), "--model", NET, "--format", "safetensors")
    assert found["path"] == f"{folder.name}.safetensors"
    state = load_file(found["path"])
    trained = load_file(folder / "last" / "model.safetensors")
    assert state.keys() == trained.keys()
    assert all(value.equal(trained[name]) for name, value in state.items())
    assert 0.4 < float((state["3.weight"] == 0).float().mean()) < 0.6
    made = export_json(capsys, str(folder / "last"), "--trust", "-o", "net.onnx")
    assert made["difference"] <= 1e-4
    assert made["telling"]
    refused("drop --weights", str(folder), "--weights", found["path"])
    refused("not run unasked", str(folder / "last" / "checkpoint.json"), "--model", "resnet20")


def test_what_the_network_must_be_fed_goes_along(capsys: Output) -> None:
    """In every format, for whoever has the file alone."""
    images = digits()
    told: dict[str, Any] = {"mean": images.mean, "std": images.std, "crop_pct": images.crop_pct}
    done = train(
        small_run(settings={"epochs": 1}, **told), data=images, output=Path("runs"),
        loggers=("none",),
    )  # fmt: skip
    wanted = {
        "network": NET,
        "input_shape": [3, 8, 8],
        "mean": list(images.mean),
        "std": list(images.std),
        "crop_pct": 1.0,
        "classes": list(images.classes),
        "run": done.run,
    }
    for name in ("onnx", "pt2", "safetensors"):
        export_json(capsys, str(done.folder), "--trust", "--format", name, "-o", f"net.{name}")
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    props = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(value) for name, value in props.items()} == wanted
    files = {"precrop": ""}
    torch.export.load("net.pt2", extra_files=files)
    assert json.loads(files["precrop"]) == wanted
    with safe_open("net.safetensors", framework="pt") as file:
        record = json.loads(file.metadata()["precrop"])
    assert record == {**wanted, "name": NET, "args": {"num_classes": 10}}
    export_json(capsys, NET, "--input-shape", "3,12,12", "-o", "plain.onnx")
    session = onnxruntime.InferenceSession("plain.onnx", providers=["CPUExecutionProvider"])
    props = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(value) for name, value in props.items()} == {
        "network": NET,
        "input_shape": [3, 12, 12],
    }


def test_state_dicts_of_torch_save(capsys: Output) -> None:
    trained = load_model(NET, {}).eval()
    torch.save({"model": trained.state_dict(), "epoch": 3}, "net.pth")
    words = [NET, *SHAPE, "--weights", "net.pth", "--format", "safetensors", "-o", "a.safetensors"]
    export_json(capsys, *words)
    assert load_file("a.safetensors")["0.weight"].equal(trained.get_parameter("0.weight"))
    torch.save(trained, "whole.pt")
    refused("not a plain state_dict: it holds an object", NET, *SHAPE, "--weights", "whole.pt")


def test_bad_input() -> None:
    Path("empty").mkdir()
    Path("broken.json").write_text("{")
    refused("unknown model 'resnet21'", "resnet21")
    refused("cannot read none.json: there is no such file", "none.json")
    refused("cannot read runs/none: there is no such file", "runs/none")
    refused("empty is not a checkpoint", "empty")
    refused("not a plan file", "broken.json")
    refused("--model names a plan's original", "resnet20", "--model", "resnet20")
    refused("no input shape is known", NET)
    refused("'3,a' is not like", NET, "--input-shape", "3,a")
    refused("cannot write none/net.onnx", NET, *SHAPE, "-o", "none/net.onnx")
    refused("cannot read none", NET, *SHAPE, "--weights", "none.safetensors")
    refused("batch=0 is not a batch size", NET, *SHAPE, "--batch", "0")
    with pytest.raises(typer.TyperException, match="tflite"):
        run(NET, *SHAPE, "--format", "tflite")


def test_a_folder_for_the_file(capsys: Output) -> None:
    Path("out").mkdir()
    found = export_json(capsys, NET, *SHAPE, "-o", "out", "--format", "pt2")
    assert found["path"] == "out/tests.training.small_runs-batch_net.pt2"
    assert Path(found["path"]).is_file()
