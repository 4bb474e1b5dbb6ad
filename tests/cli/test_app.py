"""The command line, from ``--help`` to files on disk."""

import errno
import io
import json
import multiprocessing
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file

import precrop
from precrop.cli.app import main
from precrop.model_spec import ModelSpec
from precrop.own import UNGUARDED
from precrop.plans.plan import Plan
from precrop.zoo import load_model
from tests.plan_files import PLAN

Output = pytest.CaptureFixture[str]

NETWORK = ["resnet20", "--arg", "shortcut=projection", "--arg", "num_classes=7"]
HALF = ["--params", "0.5", "--macs", "50%"]


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(capsys: Output, *argv: str) -> str:
    """The one line that a wrong request gets; nothing is written."""
    before = sorted(Path().iterdir())
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("precrop: error: ")
    assert err.count("\n") == 1
    assert sorted(Path().iterdir()) == before
    return err


def test_version(capsys: Output) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"precrop {precrop.__version__}\n"


def test_help_does_not_import_torch() -> None:
    code = "import sys; from precrop.cli.app import main; main(['plan', '--help']); "
    code += "assert not {'torch', 'scipy', 'timm'} & set(sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--params" in run.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    with pytest.raises(SystemExit, match="^0$"):
        main(["--show-completion", shell])
    assert "_PRECROP_COMPLETE" in capsys.readouterr().out


def test_a_reading_process_that_ends_is_one_line(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(path: Path) -> NoReturn:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(Plan, "load", ended)
    assert "a process that reads images was ended" in refused(capsys, "show", "half.json")


def test_stopped_while_commands_are_read(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(typer.main, "get_command", stopped)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "precrop: stopped\n"


def test_module_exits_with_the_status() -> None:
    command = [sys.executable, "-m", "precrop", "show", "none.json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr == "precrop: error: cannot read none.json: No such file or directory\n"


def test_nobody_reads_on() -> None:
    """As of ``precrop show plan.json | head -1``, which ends before the table does."""
    PLAN.save("plan.json")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "precrop", "show", "plan.json"]
    with os.fdopen(write, "w") as out:
        run = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert (run.returncode, run.stderr) == (1, "")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "Missing command"),
        (["plan"], "Missing argument 'MODEL'"),
        (["plan", "resnet20", "--parms", "1"], "No such option: --parms"),
        (["plan", "resnet20", "--flops", "1"], "; MACs are half of FLOPs: macs='1G' (in a shell"),
        (["plan", "resnet20", "--groups", "drop"], "Invalid value for '--groups'"),
        (["plan", "resnet20", "--divisor", "two"], "--divisor two is not a number of channels"),
        (["plan", "resnet21", *HALF], "unknown model 'resnet21'; did you mean"),
        (["plan", "resnet20", "--input-shape", "3,a", *HALF], "'3,a' is not like 3,224,224"),
        (["plan", "resnet20", "--input-shape", "3,0,9", *HALF], "'3,0,9' is not like 3,224,224"),
        (["plan", "resnet20", "--arg", "five", *HALF], "'five' is not like name=value"),
        (["plan", "resnet20", "--arg", "a=[", *HALF], "resnet20 could not be built: TypeError"),
        (["plan", "resnet20", "--arg", "a=16", "--arg", "a=32"], "a is given twice: 16 and 32"),
        (["plan", "resnet20", "--cost", "a=0.5", "--cost", "a=9"], "a is given twice: 0.5 and 9"),
        (
            ["densities", "resnet20", "--option", "rounds=1", "--option", "rounds=2"],
            "rounds is given twice: 1 and 2",
        ),
        (["show", "none.json"], "cannot read none.json"),
        (["build", "none.json"], "cannot read none.json"),
    ],
)
def test_wrong_requests(argv: list[str], message: str, capsys: Output) -> None:
    assert message in refused(capsys, *argv)


def test_show(capsys: Output) -> None:
    PLAN.save("plan.json")
    assert main(["show", "plan.json"]) == 0
    assert "Frozen: fc" in capsys.readouterr().out
    assert main(["show", "plan.json", "--json"]) == 0
    assert Plan.from_json(capsys.readouterr().out) == PLAN
    assert "one plan file is named twice" in refused(capsys, "show", "plan.json", "plan.json")


def test_show_plot(capsys: Output) -> None:
    pytest.importorskip("matplotlib")
    PLAN.save("plan.json")
    assert main(["show", "plan.json", "--plot", "widths.png"]) == 0
    assert Path("widths.png").stat().st_size > 1000
    capsys.readouterr()
    assert "is a .png or an .svg file" in refused(capsys, "show", "plan.json", "--plot", "a.gif")


def test_altered_and_truncated_plans(capsys: Output) -> None:
    Path("altered.json").write_text(PLAN.to_json().replace("1143", "1144"))
    assert "altered.json: this plan was altered" in refused(capsys, "show", "altered.json")
    Path("short.json").write_text(PLAN.to_json()[:-200])
    assert "short.json: this is not a plan file" in refused(capsys, "build", "short.json")


def plan_to(path: str, *options: str) -> Plan:
    assert main(["plan", *NETWORK, *HALF, *options, "-o", path]) == 0
    return Plan.load(path)


def test_plan(capsys: Output) -> None:
    plan = plan_to("half.json")
    out = capsys.readouterr().out
    assert "layer3.2.conv1" in out or ".conv1" in out
    assert "Planned in" in out
    shares = (plan.params / plan.base_params, plan.macs / plan.base_macs)
    assert 0.97 * 0.5 < max(shares) <= 0.5
    assert plan.source == ModelSpec("resnet20", {"shortcut": "projection", "num_classes": 7})
    assert plan.input_shape == (3, 32, 32)


def test_no_classes_are_no_cause_for_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["plan", "resnet20", "--arg", "num_classes=0", "--params", "0.5"]) == 0


def test_plan_json_and_options(capsys: Output) -> None:
    options = ["--divisor", "4", "--min-width", "8", "--ignore", "layer3.*", "--json"]
    assert main(["plan", *NETWORK, "--params", "0.9", *options, "--input-shape", "3x24x24"]) == 0
    plan = Plan.from_json(capsys.readouterr().out)
    assert plan.input_shape == (3, 24, 24)
    for layer in plan.layers:
        if layer.name.startswith("layer3"):
            assert layer.out_channels == layer.base_out
        elif layer.name != "fc":
            assert layer.out_channels % 4 == 0
            assert layer.out_channels >= 8


def test_build_writes_the_state_dict_and_the_plan(capsys: Output) -> None:
    plan = plan_to("half.json")
    capsys.readouterr()
    Path("out").mkdir()
    assert main(["build", "half.json", "-o", "out", "--seed", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "weights": "out/half.safetensors",
        "plan": "out/half.json",
        "params": plan.params,
        "macs": plan.macs,
    }
    assert Plan.load("out/half.json") == plan
    network = plan.build(load_model("resnet20", {"num_classes": 7}))
    network.load_state_dict(load_file("out/half.safetensors"))
    assert sum(p.numel() for p in network.parameters()) == plan.params
    assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_build_of_other_classes_says_so_in_its_plan(capsys: Output) -> None:
    assert main(["plan", "resnet20", *HALF, "-o", "half.json"]) == 0
    capsys.readouterr()
    other = ["--model", "resnet20", "--arg", "num_classes=37"]
    assert main(["build", "half.json", *other, "-o", "pets", "--json"]) == 0
    tensors, plan = load_file("pets.safetensors"), Plan.load("pets.json")
    assert json.loads(capsys.readouterr().out)["params"] == plan.params
    assert plan.source == ModelSpec("resnet20", {"num_classes": 37})
    network = plan.build(load_model("resnet20", {"num_classes": 37}))
    network.load_state_dict(tensors)
    assert plan.params == sum(p.numel() for p in network.parameters())


def test_build_slices_trained_weights(capsys: Output) -> None:
    plan = plan_to("half.json")
    original = load_model("resnet20", {"num_classes": 7})
    save_file(original.state_dict(), "trained.safetensors")
    assert main(["build", "half.json", "--weights", "trained.safetensors", "-o", "small"]) == 0
    expected = plan.build(original).state_dict()
    given = load_file("small.safetensors")
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], expected[name]) for name in given)
    capsys.readouterr()
    save_file({"conv1.weight": torch.zeros(3)}, "other.safetensors")
    assert "does not fit the model: conv1.weight has shape (3,)" in refused(
        capsys, "build", "half.json", "--weights", "other.safetensors"
    )
    Path("broken.safetensors").write_bytes(b"no weights")
    assert "is not a safetensors file" in refused(
        capsys, "build", "half.json", "--weights", "broken.safetensors"
    )
    assert "cannot read none.safetensors" in refused(
        capsys, "build", "half.json", "--weights", "none.safetensors"
    )


def test_channels_ranked_by_initial_weights_are_told(capsys: Output) -> None:
    assert main(["crop", "resnet20", *HALF, "--init", "l1"]) == 0
    assert "--init l1 ranks the weights that the network is made with" in capsys.readouterr().err


def test_the_seed_decides_the_weights() -> None:
    plan_to("half.json")
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        main(["build", "half.json", "--init", "reset", "--seed", seed, "-o", name])
    a, b, c = (load_file(f"{name}.safetensors")["conv1.weight"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_crop_is_plan_and_build() -> None:
    assert main(["crop", *NETWORK, *HALF, "--seed", "0"]) == 0
    assert sorted(path.name for path in Path().iterdir()) == [
        "resnet20.json",
        "resnet20.safetensors",
    ]
    assert Plan.load("resnet20.json").widths == plan_to("half.json").widths


def test_a_plan_for_another_network(capsys: Output) -> None:
    plan_to("half.json")
    capsys.readouterr()
    refused(capsys, "build", "half.json", "--model", "resnet32")


def test_build_runs_no_code_that_a_plan_names(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("marking.py").write_text(
        "from pathlib import Path\nfrom precrop.models import resnet20 as net\n"
        "Path('ran').touch()\n"
    )
    assert main(["plan", "marking:net", "--input-shape", "3,32,32", *HALF, "-o", "p.json"]) == 0
    Path("ran").unlink()
    sys.modules.pop("marking")
    capsys.readouterr()
    assert "say --model marking:net" in refused(capsys, "build", "p.json")
    assert main(["build", "p.json", "--model", "marking:net"]) == 0
    assert Path("p.safetensors").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--params", "0"],
        ["--params", "nan"],
        ["--macs", "-1"],
        ["--params", "1"],
        ["--params", "much"],
        ["--params", "10"],
        [],
        [*HALF, "--ignore", "nothing_like_it"],
        [*HALF, "--divisor", "0"],
        [*HALF, "--balance", "-1"],
        [*HALF, "--input-shape", "4,32,32"],
        [*HALF, "--batch-size", "8"],
        [*HALF, "--profile", "cuda", "--divisor", "8"],
        [*HALF, "--seed", "-1"],
        [*HALF, "--seed", str(2**64)],
    ],
    ids=" ".join,
)
def test_senseless_requests(options: list[str], capsys: Output) -> None:
    refused(capsys, "plan", "resnet20", *options, "-o", "plan.json")


def test_a_folder_is_no_file_for_a_plan(capsys: Output) -> None:
    Path("folder").mkdir()
    message = refused(capsys, "plan", "resnet20", *HALF, "-o", "folder")
    assert "cannot write folder: it is a folder" in message
    assert not list(Path("folder").iterdir())


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever takes long is an error."""
    from precrop.deployment import calibrating

    def work(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("it is refused too late")

    for name in ("plan", "densities"):
        monkeypatch.setattr(precrop, name, work)
    for name in ("calibrate", "sessions"):
        monkeypatch.setattr(calibrating, name, work)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("argv", "refused_path"),
    [
        (["plan", "-o", "none/p.json"], "none/p.json: No such file"),
        (["plan", "-o", "none/p.json", "--calibrate"], "none/p.json: No such file"),
        (["plan", "-o", "."], ".: it is a folder"),
        (["crop", "-o", "none/small", "--calibrate"], "none/small.safetensors: No such file"),
        (["crop", "-o", "taken"], "taken/resnet20.json: it is a folder"),
        (["densities", "-o", "none/d.json"], "none/d.json: No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_path_is_refused_before_the_work(
    argv: list[str], refused_path: str, capsys: Output
) -> None:
    Path("taken/resnet20.json").mkdir(parents=True)
    command, *options = argv
    budget = ["--params", "0.5"] if command == "densities" else ["--latency", "0.5"]
    message = refused(capsys, command, "resnet20", *budget, *options)
    assert f"cannot write {refused_path}" in message


def test_what_is_found_is_shown_before_it_is_written(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> NoReturn:
        raise precrop.PrecropError("the disk is full")

    monkeypatch.setattr("precrop.cli.densities.write_text", full)
    monkeypatch.setattr(Plan, "save", full)
    assert main(["plan", "resnet20", *HALF, "-o", "half.json"]) == 2
    assert "Planned in" in capsys.readouterr().out
    assert main(["densities", "resnet20", "--params", "0.1", "-o", "d.json"]) == 2
    assert "layer1.0.conv1" in capsys.readouterr().out


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("latency", "message"),
    [
        ("abc", "latency='abc' is not understood"),
        ("8", "latency='8' has no unit"),
        ("0ms", "latency='0ms' is not a positive number"),
    ],
)
def test_a_time_is_read_before_it_is_measured(latency: str, message: str, capsys: Output) -> None:
    assert message in refused(capsys, "plan", "resnet20", "--latency", latency, "--calibrate")


def test_options_that_would_be_ignored(capsys: Output) -> None:
    plan_to("half.json")
    capsys.readouterr()
    assert "name it with --model" in refused(capsys, "build", "half.json", "--arg", "num_classes=9")
    anew = ["--init", "reset", "--weights", "any.safetensors"]
    assert "draws all weights anew" in refused(capsys, "build", "half.json", *anew)
    assert "draws all weights anew" in refused(capsys, "crop", "resnet20", *HALF, *anew)
    for method in ([], ["--method", "synflow"]):
        argv = ["densities", "resnet20", *method, "--params", "0.2", "--data", "any.safetensors"]
        assert "--data is for snip and grasp" in refused(capsys, *argv)
    unknown = ["densities", "resnet20", "--method", "none", "--params", "0.2", "--data", "a:b"]
    assert "method 'none' is unknown" in refused(capsys, *unknown)


def test_densities(capsys: Output) -> None:
    argv = ["densities", "resnet20", "--method", "synexp", "--params", "0.1"]
    assert main([*argv, "--json"]) == 0
    densities = json.loads(capsys.readouterr().out)
    assert len(densities) == 22
    assert all(0 < density <= 1 for density in densities.values())
    assert main(argv) == 0
    assert len(capsys.readouterr().out.splitlines()) == 22
    refused(capsys, "densities", "resnet20", "--method", "none", "--params", "0.1")


def test_densities_of_methods_become_a_plan(capsys: Output) -> None:
    method = ["--method", "synflow", "--option", "rounds=3", "--seed", "2"]
    argv = ["densities", "resnet20", *method, "--params", "0.2", "-o", "synflow.json", "--json"]
    assert main(argv) == 0
    densities = json.loads(capsys.readouterr().out)
    assert json.loads(Path("synflow.json").read_text()) == densities
    aimed = ["--densities", "synflow.json", "--params", "0.2", "--json"]
    assert main(["plan", "resnet20", *aimed]) == 0
    plan = Plan.from_json(capsys.readouterr().out)
    assert {layer.name: layer.target for layer in plan.layers} == densities
    assert 0.97 * 0.2 < plan.params / plan.base_params <= 0.2
    assert main(["plan", "resnet20", *aimed[:-1]]) == 0
    assert "target" in capsys.readouterr().out.splitlines()[0]


def test_data_from_a_file_and_from_a_factory(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    torch.manual_seed(0)
    inputs, targets = torch.randn(4, 3, 32, 32), torch.arange(4)
    save_file({"inputs": inputs, "targets": targets}, "batch.safetensors")
    Path("batches.py").write_text(
        "from safetensors.torch import load_file\n"
        "def load():\n"
        "    tensors = load_file('batch.safetensors')\n"
        "    return [(tensors['inputs'], tensors['targets'])]\n"
    )
    snip = ["densities", "resnet20", "--method", "snip", "--params", "0.2", "--seed", "1", "--json"]
    printed = []
    for data in ("batch.safetensors", "batches:load"):
        assert main([*snip, "--data", data]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    small = [*snip, "--input-shape", "3,8,8", "--data", "digits"]
    assert main(small) == main(small) == 0
    first, again = capsys.readouterr().out.split("}\n{")
    assert first.removeprefix("{") == again.removesuffix("}\n")
    assert "neither a data set nor a folder" in refused(capsys, *snip, "--data", "digit")
    assert "needs data: give data= (in a shell --data)" in refused(capsys, *snip)
    assert "cannot read none.safetensors" in refused(capsys, *snip, "--data", "none.safetensors")
    save_file({"inputs": inputs}, "half.safetensors")
    assert "no tensor 'targets'" in refused(capsys, *snip, "--data", "half.safetensors")
    assert "unknown factory in batches" in refused(capsys, *snip, "--data", "batches:lod")


def test_a_collapse_is_one_line(capsys: Output) -> None:
    argv = ["densities", "cifar_mobilenet_v2", "--method", "magnitude", "--params", "0.02"]
    assert main(argv) == 0
    err = capsys.readouterr().err
    assert err.startswith("precrop: warning: magnitude collapses ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read d.json"),
        ("{", "d.json is not JSON"),
        ("[1]", "is not like {layer name: density}"),
        ('{"schema": 1, "layers": []}', "d.json is a plan, not densities"),
        ("{}", "densities= is empty"),
        ('{"conv1": 0}', "the density of conv1 is 0: write a number in (0, 1]"),
        ('{"conv1": 1.5}', "the density of conv1 is 1.5: write a number in (0, 1]"),
        ('{"conv1": "1"}', "the density of conv1 is '1': write a number in (0, 1]"),
        ('{"conv1": NaN}', "the density of conv1 is nan: write a number in (0, 1]"),
        ('{"conv2": 0.5}', "densities name a layer 'conv2' that is not there; did you mean conv1?"),
    ],
)
def test_wrong_densities(content: str | None, message: str, capsys: Output) -> None:
    if content is not None:
        Path("d.json").write_text(content)
    assert message in refused(capsys, "plan", "resnet20", "--densities", "d.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--objective", "best"],
            "objective='best' is unknown: choose from synexp, dense-layers, inner-layers, "
            "exact, exact-output",
        ),
        (["--objective", "root-macs"], "objective='root-macs' was removed: it chose worse widths"),
        (["--rule", "min"], "rule='min' is unknown: choose from balanced, uniform, sqrt-min"),
        (["--objective", "exact", "--rule", "sqrt-min"], "excludes densities= and rule="),
        (["--residual", "pad"], "Invalid value for '--residual'"),
    ],
)
def test_wrong_ways(options: list[str], message: str, capsys: Output) -> None:
    assert message in refused(capsys, "plan", "resnet20", *HALF, *options)


def test_ways_reach_the_plan(capsys: Output) -> None:
    for options in (["--objective", "exact"], ["--rule", "sqrt-max"], ["--residual", "crop"]):
        name = options[0].strip("-")
        plan = plan_to("way.json", *options)
        assert plan.options[name] == options[1]
        assert plan.widths != plan_to("half.json").widths
    capsys.readouterr()


def test_budgets_above_the_original_are_said(capsys: Output) -> None:
    words = ["plan", "resnet20", "--params", "1.5"]
    assert main(words) == 0
    assert "nothing is cropped: params=1.5 is more than the original has; --expand" in (
        capsys.readouterr().err
    )
    for silent in (
        [*words, "--expand"],
        [*words, "--macs", "0.5"],
        ["plan", "resnet20", "--params", "1.0"],
    ):
        assert main(silent) == 0
        assert "nothing" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        *(
            ["--divisor", "9" * 5000],
            ["--divisor", "1" + "0" * 11],
            ["--min-width", "1" + "0" * 30],
        ),
        *(["--balance", "1e400"], ["--balance", "nan"], ["--input-shape", "9" * 5000]),
        *(["--input-shape", "3,-8,8"], ["--input-shape", "3,nan,8"], ["--input-shape", "3,1e9,8"]),
        ["--input-shape", "3," + "9" * 30 + ",8"],
    ],
)
def test_numbers_beyond_sense(words: list[str], capsys: Output) -> None:
    assert main(["plan", "resnet20", "--params", "0.5", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("precrop: error:")
    assert len(lines[0]) < 400


def test_preconfig_says_which_layers_widen(capsys: Output) -> None:
    argv = ["plan", *NETWORK, "--params", "0.8", "--macs", "1.0", "--expand"]
    assert main([*argv, "-o", "wide.json"]) == 0
    plan = Plan.load("wide.json")
    assert plan.widened
    assert f"Wider than the original: {next(iter(plan.widened))}" in capsys.readouterr().out


def test_a_script_without_a_guard_ends_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They import it before anything else, and it calls us then."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    assert main(["--version"]) == 0
    assert not ended
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    assert main(["--version"]) == 0
    assert ended == [UNGUARDED]


@pytest.mark.parametrize(
    "words",
    [
        ["plan", *NETWORK, *HALF],
        ["densities", *NETWORK, *HALF, "--json"],
        ["bench", *NETWORK, "--rounds", "1"],
    ],
)
def test_what_was_made_is_saved_where_it_cannot_be_printed(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    def full(*_: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(sys.stdout, "write", full)
    assert main([*words, "-o", "made.json"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert json.loads(Path("made.json").read_text())


def test_an_encoding_without_arrows_and_bars(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    PLAN.save("plan.json")
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "latin-1"))
    assert main(["show", "plan.json"]) == main(["show", "plan.json", "--summary"]) == 0
    sys.stdout.flush()
    assert b"16 ? 9" in printed.getvalue()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("folder", [".", "/", ".."])
def test_a_folder_is_no_plan(folder: str, capsys: Output) -> None:
    assert "it is a folder" in refused(capsys, "build", folder)


def test_names_of_files_do_nothing_to_a_terminal(capsys: Output) -> None:
    name = "\x1b[31mx"
    assert main(["plan", *NETWORK, *HALF, "-o", f"{name}.json", "--summary"]) == 0
    assert main(["build", f"{name}.json", "-o", name]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "Written to \\x1b[31mx.json" in out
    assert "\\x1b[31mx.safetensors" in out
