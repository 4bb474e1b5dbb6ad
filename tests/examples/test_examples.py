"""Every example runs as it stands, and what it saves is the cropped network."""

import ast
import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import precrop
from precrop.cli.app import main
from precrop.plans.plan import Plan
from precrop.training.data import Images, load_data
from precrop.training.evaluate import load_trained

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "trainers.md"
LONGEST = 60
"""Lines: more is no example that one reads."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs an example in an empty folder; gives its variables."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        torch.manual_seed(0)
        return runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run


def assert_cropped(model: nn.Module, plan: Plan) -> None:
    """The plan's size, and trained: no weight is missing or broken."""
    assert sum(p.numel() for p in model.parameters()) == plan.params <= 0.5 * plan.base_params
    assert all(p.isfinite().all() for p in model.parameters())


def assert_same(first: nn.Module, second: nn.Module) -> None:
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())


def test_plain_loop(run: Any) -> None:
    found = run("plain_loop.py")
    assert_cropped(found["again"], found["plan"])
    assert_same(found["again"], found["model"])


@pytest.mark.filterwarnings("ignore")  # Lightning's, of workers and of logs
def test_lightning_module(run: Any) -> None:
    found = run("lightning_module.py")
    assert found["trainer"].global_step == 4
    assert_cropped(found["again"], found["plan"])
    assert_same(found["again"], found["module"])


def test_timm_registry(run: Any) -> None:
    found = run("timm_registry.py")
    plan = found["plan"].for_outputs(found["timm"].create_model("resnet18", num_classes=37))
    assert_cropped(found["again"], plan)
    assert_same(found["again"], found["ema"].module)
    assert_cropped(found["model"], plan)


def test_torchvision_reference(run: Any) -> None:
    from torchvision.models import resnet18

    plan = precrop.plan(resnet18(), (3, 64, 64), params=0.5)
    plan.save("half.json")
    found = run("torchvision_reference.py", "--plan", "half.json", "--epochs", "1")
    assert_cropped(found["model"], plan.for_outputs(resnet18(num_classes=10)))
    again = plan.build(resnet18(num_classes=10))
    again.load_state_dict(torch.load("checkpoint.pth", weights_only=False)["model"])
    assert_same(again, found["model"])


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of the compiler's own
def test_compile_amp_ema(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKEND", "eager")
    found = run("compile_amp_ema.py")
    assert_cropped(found["again"], found["plan"])
    assert_same(found["again"], found["ema"].module)
    moved = [
        not torch.equal(p, q)
        for p, q in zip(found["model"].parameters(), found["again"].parameters(), strict=True)
    ]
    assert any(moved)


def test_torchrun(tmp_path: Path) -> None:
    """Two processes on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(EXAMPLES / "torchrun_ddp.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert "in 2 processes" in done.stdout
    network = precrop.from_pretrained(tmp_path / "resnet18-half")
    assert_cropped(network, Plan.load(tmp_path / "resnet18-half" / "plan.json"))


@pytest.mark.filterwarnings("ignore")  # of transformers' own
def test_hugging_face_trainer(run: Any) -> None:
    for package in ("transformers", "accelerate"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    found = run("hugging_face_trainer.py")
    assert_cropped(found["again"], found["plan"])
    assert_same(found["again"].cpu(), found["model"].cpu())


@pytest.mark.filterwarnings("ignore")  # of Ultralytics' own
def test_ultralytics_trainer(run: Any) -> None:
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    found = run("ultralytics_trainer.py")
    original = tasks.DetectionModel("yolov8n.yaml", nc=1)
    assert_cropped(found["again"].model, precrop.plan(original, (3, 64, 64), params=0.5, macs=0.5))


def first_commands() -> list[list[str]]:
    """README's commands from the install to an answer in ONNX Runtime, of a small network."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("to ONNX Runtime\n")[1]
    block = section.partition("\n## ")[0]
    lines = [line for line in block.splitlines() if line.startswith("    ")]
    assert len(lines) <= 6
    return [shlex.split(line.replace("resnet18", "resnet20"), comments=True) for line in lines]


def test_onnx_runtime(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """README's way from an image folder to an answer in ONNX Runtime.

    Images are of several sizes: they are scaled to the plan's.
    """
    colours = {"cat": (200, 80, 40), "dog": (30, 90, 220)}
    drawn = torch.Generator().manual_seed(0)
    for split, count in (("train", 8), ("val", 3)):
        for name, colour in colours.items():
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = 40 + 3 * number, 50 - number
                noise = torch.randint(-20, 21, (height, width, 3), generator=drawn)
                pixels = (torch.tensor(colour) + noise).clamp(0, 255).byte()
                Image.fromarray(pixels.numpy()).save(folder / f"{number}.jpg")
    *commands, last = first_commands()
    for words in commands:
        if words[0] == "precrop":
            given = [[*Path().glob(word)] if "*" in word else [word] for word in words[1:]]
            assert main([str(word) for words in given for word in words]) == 0
    said = capsys.readouterr().err
    assert "16 training images are fewer than the batch size 256: trained in batches of 8" in said
    assert "at learning rate 0.0031" in said
    assert "on photos at 3x32x32, the plan's input size, 2 epochs" in said
    program, example, file, _ = last
    assert (program, example) == ("python", "examples/onnx_runtime.py")
    (folder,) = Path("runs").glob("resnet20-photos-*")
    images, network = load_data("photos", image_size=32), load_trained(folder).network.eval()
    assert not isinstance(images.test, Images)
    mean, std = (torch.tensor(values)[:, None, None] for values in (images.mean, images.std))
    paths = [path for name in colours for path in sorted(Path("photos/val", name).iterdir())]
    for number, path in enumerate(paths):
        image, label = images.test[number]
        with torch.no_grad():
            scores = network(((image / 255 - mean) / std)[None])[0]
        answer = torch.from_numpy(run("onnx_runtime.py", file, str(path))["scores"][0])
        torch.testing.assert_close(answer, scores, rtol=0, atol=0.1)  # of another resampling
        assert images.classes[label] == path.parent.name
        assert capsys.readouterr().out.strip() == images.classes[int(answer.argmax())]


def test_the_lines_that_feed_an_exported_file_are_the_examples() -> None:
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    lines = (EXAMPLES / "onnx_runtime.py").read_text(encoding="utf-8").partition("session = ")
    assert "".join(lines[1:]) in page


# --- the page -----------------------------------------------------------------------------------


def test_every_example_has_a_test_and_is_short() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    for path in sorted(EXAMPLES.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert f'"{path.name}"' in tests, path.name
        assert len(text.splitlines()) < LONGEST, path.name
        assert ast.get_docstring(ast.parse(text)), path.name


def test_the_page_shows_the_examples_as_they_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(
        r"\(\.\./examples/(\w+\.py)\)\n+```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL
    )
    assert page.count("```python") == len(blocks)
    assert sorted(name for name, _ in blocks) == sorted(p.name for p in EXAMPLES.glob("*.py"))
    for name, block in blocks:
        assert block == (EXAMPLES / name).read_text(encoding="utf-8"), name
