import json
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import typer
from typer.testing import CliRunner

import precrop
from precrop.cli.app import main
from precrop.cli.bench import bench_command
from precrop.deployment import benching, timing
from precrop.deployment.benching import DENSE, Bench, BenchRow
from precrop.deployment.speed_plot import plot_bench
from precrop.errors import PrecropError
from precrop.read.inputs import Inputs
from tests.deployment.benched import SHAPE, image, small

MODEL = "tests.deployment.benched:small"
HERE = [MODEL, "--input-shape", "3,8,8", "--rounds", "1"]

app = typer.Typer()
app.command()(bench_command)


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refusal(*words: str) -> str:
    """The error's message; a mistake of typer's own would be another exception."""
    with pytest.raises(PrecropError) as caught:
        CliRunner().invoke(app, [*HERE, *words], catch_exceptions=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "half.json"
    precrop.plan(small(), SHAPE, macs=0.5).save(path)
    return path


def test_a_table_for_every_setting(plan_file: Path) -> None:
    text = run(
        MODEL, "--rounds", "1", "--plan", str(plan_file), "--masked", "--sparse", "bsr",
        "--runtime", "eager", "--batch", "1,2",
    )  # fmt: skip
    assert "eager, batch 1, 1 thread, cpu" in text
    assert "eager, batch 2, 1 thread, cpu" in text
    for variant in (DENSE, "cropped", "masked", "masked bsr"):
        assert sum(line.startswith(f"{variant}  ") for line in text.splitlines()) == 2
    assert "masked bsr: on dense kernels stay 2 layers: conv1, depthwise" in text
    assert "of ideal" in text


def test_what_cannot_run_is_said_once_for_all_runtimes(
    plan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)  # which takes long
    text = run(*HERE, "--plan", str(plan_file), "--sparse", "csr,bsr", "--runtime", "compiled,ort")
    for layout in ("csr", "bsr"):
        said = f"masked {layout} (compiled, ort): sparse kernels run in eager PyTorch only"
        assert text.count(said) == 1
    assert text.count("not run") == 2 * 2


def test_json_is_what_is_written(plan_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    text = run(*HERE, "--plan", str(plan_file), "--json", "-o", str(path), "--channels-last")
    found = json.loads(text)
    assert found == json.loads(path.read_text())
    assert found["model"] == MODEL
    assert found["input_shape"] == list(SHAPE)
    assert found["channels_last"] is True
    assert [row["variant"] for row in found["rows"]] == [DENSE, "cropped"]
    assert found["rows"][1]["macs"] <= found["rows"][0]["macs"] / 2
    assert found["machine"]["versions"]["precrop"] == precrop.__version__


def test_one_plan_for_each_divisor() -> None:
    found = json.loads(run(*HERE, "--macs", "0.5", "--divisors", "1,8", "--json"))
    rows = {row["variant"]: row for row in found["rows"]}
    assert list(rows) == [DENSE, "cropped /1", "cropped /8"]
    wanted = [precrop.plan(small(), SHAPE, macs=0.5, divisor=d).params for d in (1, 8)]
    assert [rows["cropped /1"]["params"], rows["cropped /8"]["params"]] == wanted


def test_inputs_of_a_function_of_ones_own() -> None:
    words = ("--rounds", "1", "--batch", "2", "--macs", "0.5", "--json")
    text = run(MODEL, "--input", "tests.deployment.benched:image", *words)
    found = json.loads(text)
    assert found["input_shape"] == json.loads(json.dumps(Inputs(example=image()).spec))
    assert [row["variant"] for row in found["rows"]] == [DENSE, "cropped"]


def test_the_usual_step_is_a_divisor_too() -> None:
    found = json.loads(run(*HERE, "--macs", "0.5", "--divisors", "1,auto", "--json"))
    rows = {row["variant"]: row for row in found["rows"]}
    assert list(rows) == [DENSE, "cropped /1", "cropped /auto"]
    wanted = precrop.plan(small(), SHAPE, macs=0.5, divisor="auto")
    assert rows["cropped /auto"]["params"] == wanted.params != rows["cropped /1"]["params"]


def test_no_plan_is_lost_to_another_of_its_name(
    plan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    words = []
    # Names of files without their suffixes, whole names, and ours: each is met twice.
    for name in ("sub/planned.json", "planned.json", "sub/a.json", "a.json.json", "a.json"):
        (tmp_path / name).write_text(plan_file.read_text())
        words += ["--plan", name]
    found = json.loads(run(*HERE, *words, "--macs", "0.3", "--json"))
    rows = {row["variant"]: row for row in found["rows"]}
    names = ["sub/planned.json", "planned.json", "a", "a.json", "a.json 2", "planned"]
    assert list(rows) == [DENSE, *(f"cropped {name}" for name in names)]
    assert rows["cropped planned"]["macs"] < rows["cropped planned.json"]["macs"]


def test_without_a_plan_only_dense_is_measured() -> None:
    found = json.loads(run(*HERE, "--json"))
    assert [row["variant"] for row in found["rows"]] == [DENSE]


def test_a_picture(plan_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "speed.svg"
    run(*HERE, "--plan", str(plan_file), "--batch", "1,2", "--plot", str(path))
    text = path.read_text()
    assert text.startswith("<?xml")
    assert "</svg>" in text


def test_names_of_plans_are_shown_as_they_are(plan_file: Path, tmp_path: Path) -> None:
    words, path = [], tmp_path / "speed.svg"
    for name in ("$x_{$", "[link]", ":cat:"):
        (tmp_path / f"{name}.json").write_bytes(plan_file.read_bytes())
        words += ["--plan", str(tmp_path / f"{name}.json")]
    text = run(*HERE, *words, "--plot", str(path))
    for name in ("$x_{$", "[link]", ":cat:"):
        assert f"cropped {name} " in text
        assert f"<!-- cropped {name} -->" in path.read_text()


def test_a_picture_of_dense_alone_is_refused(tmp_path: Path) -> None:
    row = BenchRow(DENSE, "eager", 1, 1, "cpu", 1, 1, 1.0, latency=1.0, speedup=1.0)
    path = tmp_path / "speed.svg"
    with pytest.raises(PrecropError, match="there is no speed-up to draw"):
        plot_bench(Bench({}, [1], False, (row,), {}), path, "none")
    assert not path.exists()


@pytest.fixture
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    def bench(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("it is measured first")

    monkeypatch.setattr(benching, "bench", bench)


@pytest.mark.usefixtures("no_measuring")
def test_files_are_checked_before_anything_is_measured(plan_file: Path, tmp_path: Path) -> None:
    none = tmp_path / "none"
    half = ["--plan", str(plan_file)]
    said = f"cannot write {none / 'b.json'}: No such file or directory"
    assert refusal("-o", str(none / "b.json")) == said
    assert "it is a folder" in refusal("-o", str(tmp_path))
    assert f"cannot write {none / 'b.svg'}" in refusal(*half, "--plot", str(none / "b.svg"))
    alone = refusal("--plot", str(tmp_path / "b.svg"))
    assert alone == "--plot draws speed-ups: give a plan, or a budget to make one"
    with pytest.raises(AssertionError, match="it is measured first"):
        refusal(*half, "--plot", str(tmp_path / "b.svg"), "-o", str(tmp_path / "b.json"))
    assert not list(tmp_path.iterdir())


def test_the_table_comes_before_the_files(
    plan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    measure = benching.bench

    def bench(*args: Any, **options: Any) -> Bench:
        folder.rmdir()
        return measure(*args, **options)

    monkeypatch.setattr(benching, "bench", bench)
    words = [*HERE, "--plan", str(plan_file), "-o", str(folder / "b.json")]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, PrecropError)
    assert "cropped" in result.stdout


@pytest.mark.parametrize("settings", [0, 1])
def test_ctrl_c_costs_one_setting_alone(
    settings: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left, measure = [True] * settings, timing.interleaved

    def stopped(*args: Any, **options: Any) -> Any:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return measure(*args, **options)

    monkeypatch.setattr(benching, "interleaved", stopped)
    path = tmp_path / "bench.json"
    assert main(["bench", *HERE, "--batch", "1,2,4", "-o", str(path)]) == 130
    said = capsys.readouterr()
    if not settings:
        assert (said.out, said.err) == ("", "precrop: stopped\n")
        assert not path.exists()
        return
    assert said.err == "precrop: stopped after 1 of 3 settings\n"
    assert "eager, batch 1, 1 thread, cpu" in said.out
    assert "batch 2" not in said.out
    assert [row["batch"] for row in json.loads(path.read_text())["rows"]] == [1]


def test_bad_input_is_one_line(plan_file: Path, tmp_path: Path) -> None:
    half = str(plan_file)
    assert "runtime 'tvm' is unknown" in refusal("--runtime", "tvm")
    assert "device cuda:99 is not there" in refusal("--device", "cuda:99")
    assert "--threads '0' is not like 1,8" in refusal("--threads", "0")
    assert "--batch '1,x' is not like 1,8" in refusal("--batch", "1,x")
    assert "layout 'coo' is unknown" in refusal("--plan", half, "--sparse", "coo")
    assert "--sparse ',' names no layout" in refusal("--plan", half, "--sparse", ",")
    assert "is for PyTorch" in refusal("--runtime", "ort", "--channels-last")
    assert "--seed -1 is not a seed" in refusal("--seed", "-1")
    assert "give a plan, or a budget" in refusal("--masked")
    assert "--divisors needs a budget" in refusal("--divisors", "1,8")
    assert "--divisors '' is not like 1,8,auto" in refusal("--macs", "0.5", "--divisors", "")
    assert "--divisors '0,auto' is not" in refusal("--macs", "0.5", "--divisors", "0,auto")
    assert "--rounds 0 makes no sense" in refusal("--rounds", "0")
    assert "a picture is a .png or an .svg" in refusal("--plot", str(tmp_path / "a.txt"))
    assert "cannot read" in refusal("--plan", str(tmp_path / "none.json"))


def test_a_plan_for_another_network_is_one_line(plan_file: Path) -> None:
    with pytest.raises(PrecropError) as caught:
        CliRunner().invoke(app, ["resnet20", "--plan", str(plan_file)], catch_exceptions=False)
    assert "\n" not in str(caught.value)
