"""The command ``deploy``, from a shell's words to a table."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from precrop.cli.app import main
from precrop.deployment import deploying
from precrop.deployment.deploying import Deployed, Times
from precrop.deployment.quiet import Quiet
from precrop.model_spec import ModelSpec
from tests.plan_files import PLAN

Output = pytest.CaptureFixture[str]
NET = "tests.training.small_runs:batch_net"
ROOT = Path(__file__).parents[2]
HERE = [NET, "--input-shape", "3,8,8", "--latency", "0.8"]
FOUND = Deployed(
    file=Path("out/network.onnx"),
    plan=PLAN,
    asked="8ms",
    limit=8e-3,
    dense=Times(14.5e-3, 14e-3, 15e-3),
    deployed=Times(7.8e-3, 7.6e-3, 8.1e-3),
    difference=2e-6,
    accuracy=0.75,
    images=1200,
    quiet=Quiet(0.02, 0.4),
    reused=(),
)


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was asked of `precrop.deployment.deploy`, which comes to what stands under ``found``."""
    given: dict[str, Any] = {"found": FOUND}

    def deploy(model: ModelSpec, latency: str, output: Path, **options: Any) -> Deployed:
        given.update(model=model, latency=latency, output=output, **options)
        found = given["found"]
        if isinstance(found, BaseException):
            raise found
        assert isinstance(found, Deployed)
        return found

    monkeypatch.setattr(deploying, "deploy", deploy)
    return given


def test_words_become_arguments(called: dict[str, Any], capsys: Output) -> None:
    words = ["--arg", "num_classes=5", "--params", "2M", "--divisor", "8", "--data", "images"]
    words += ["--epochs", "3", "--batch-size", "16", "--set", "flip=true", "--threads", "2"]
    assert main(["deploy", *HERE, *words, "--init", "reset", "--seed", "4", "--format", "pt2"]) == 0
    assert called["model"] == ModelSpec(NET, {"num_classes": 5})
    assert (called["latency"], called["params"], called["divisor"]) == ("0.8", "2M", 8)
    assert called["changes"] == {"epochs": 3, "batch_size": 16, "flip": "true"}
    assert called["input_shape"] == (3, 8, 8)
    assert (called["threads"], called["init"], called["seed"]) == (2, "reset", 4)
    assert (called["format"], called["data"], called["device_profile"]) == ("pt2", "images", None)
    assert called["output"] == Path("deployed/tests.training.small_runs-batch_net-0.8")
    assert capsys.readouterr().err.startswith(f"precrop: {NET}(num_classes=5) within 0.8, in dep")


def test_the_table_has_both_networks(called: dict[str, Any], capsys: Output) -> None:
    assert main(["deploy", *HERE, "--epochs", "0", "--out", "out"]) == 0
    assert called["output"] == Path("out")
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert ["original", "deployed"] in rows
    times = "ms 14.500 (14.000 to 15.000) 7.800 (7.600 to 8.100) asked 8.000: 98% of it"
    assert times.split() in rows
    assert ["parameters", f"{PLAN.base_params:,}", f"{PLAN.params:,}", "22.0%"] in rows
    assert "accuracy 75.00% on 1,200 held-out images" in out
    assert "largest difference from PyTorch 2.0e-06" in out
    assert "busy" not in out


def test_json_ends_with_one_line(called: dict[str, Any], capsys: Output) -> None:
    assert main(["deploy", *HERE, "--epochs", "0", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    content = json.loads(out)
    assert content["file"] == "out/network.onnx"
    assert content["dense"]["median"] == 14.5e-3
    assert content["accuracy"] == 0.75
    assert content["used"] == pytest.approx(0.975)


def test_what_should_not_be_trusted_is_said(called: dict[str, Any], capsys: Output) -> None:
    late = Times(9e-3, 9e-3, 9e-3)
    called["found"] = dataclasses.replace(
        FOUND, deployed=late, quiet=Quiet(1.7, 5.3), accuracy=None, images=0
    )
    assert main(["deploy", *HERE, "--epochs", "0", "--init", "l1"]) == 0
    output = capsys.readouterr()
    ranked = "warning: --init l1 ranks the weights that the network is made with: for trained ones"
    assert ranked in output.err
    assert "warning: the file takes 112% of the asked time: measure again" in output.err
    busy = "The machine was busy: the times of one computation vary by 170%, load 5.3."
    assert busy in output.out
    assert "network.onnx: initial weights; largest difference" in output.out


def test_stopped_it_says_how_to_go_on(called: dict[str, Any], capsys: Output) -> None:
    called["found"] = KeyboardInterrupt()
    assert main(["deploy", *HERE, "--epochs", "0", "--out", "out"]) == 130
    assert "stopped; the same command goes on from out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([NET, "--data", "digits"], "give the time that is to be met: --latency 8ms"),
        ([*HERE], "give the training images with --data, or skip the training with --epochs 0"),
        ([*HERE, "--data", "nowhere"], "nowhere"),
        ([*HERE, "--data", "digits", "--epochs", "-1"], "epochs=-1 is not from 1"),
        ([*HERE, "--data", "digits", "--recipe", "none"], "none"),
        ([*HERE, "--epochs", "0", "--threads", "0"], "on 0 threads"),
        ([*HERE, "--epochs", "0", "--rounds", "0"], "0 rounds measure nothing"),
        ([*HERE, "--epochs", "0", "--seed", "-1"], "seed -1 is not a seed"),
        ([*HERE, "--epochs", "0", "--format", "tflite"], "tflite"),
        ([*HERE, "--epochs", "0", "--init", "zeros"], "zeros"),
        ([*HERE, "--epochs", "0", "--profile", "none.json"], "'none.json' is not there"),
        ([*HERE, "--epochs", "0", "--out", "taken"], "cannot make the folder taken"),
        ([*HERE, "--epochs", "0", "--divisor", "x"], "--divisor x is not a number of channels"),
        ([*HERE, "--epochs", "0", "--params", "many"], "params='many'"),
        ([NET, "--latency", "8 apples", "--epochs", "0"], "latency='8 apples'"),
        ([NET, "--latency", "8ms", "--epochs", "0"], "no input shape is known for"),
        (["no_such_net", "--latency", "8ms", "--epochs", "0"], "unknown model 'no_such_net'"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else None,
)
def test_refusals_are_one_line(words: list[str], message: str, capsys: Output) -> None:
    Path("taken").write_text("mine")
    assert main(["deploy", *words]) == 2
    *announced, error = capsys.readouterr().err.splitlines()
    assert error.startswith("precrop: error: ")
    assert message in error
    assert len(announced) <= 1


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from precrop.cli.app import main\n"
        "assert main(['deploy', '--help']) == 0 and main(['plan', '--help']) == 0\n"
        "assert not {'torch', 'scipy', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
