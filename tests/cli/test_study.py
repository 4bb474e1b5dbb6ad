"""``precrop study`` as it is typed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import precrop
from precrop.cli.app import main
from precrop.study.cells import expand
from precrop.study.preparing import prepare
from precrop.study.spec import read_study
from precrop.study.store import Store
from precrop.training.loop import train
from tests.study.fake_work import row_of
from tests.study.made_rows import made_row
from tests.training.small_runs import batch_net, digits

ROOT = Path(__file__).parents[2]
EPOCHS = 6
"""Of runs that are stopped on the way."""
STUDY = """
study: small
description: Two networks that train in a moment.
data: digits
recipe: {{name: digits, epochs: {epochs}}}
seeds: [0, 1]
networks: ["tests.training.small_runs:batch_net"]
budgets:
  - {{params: 0.5}}
variants:
  - {{name: dense, seeds: [0]}}
  - {{name: PreCrop, plan: {{}}}}
"""


def study(folder: Path, epochs: int = 2) -> str:
    path = folder / "small.yaml"
    path.write_text(STUDY.format(epochs=epochs))
    return str(path)


def started(folder: Path, *words: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "precrop", "study", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.matrix)])
def test_interrupted_killed_and_done(
    killed: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same command again: Ctrl-C ends the first, SIGKILL perhaps the second."""
    path = study(tmp_path, EPOCHS)
    words = ["run", path, "--trust", "--json"]
    first = started(tmp_path, *words)
    seen = _epochs_after(tmp_path, 0, first)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=120)
    assert first.returncode == 130
    assert "stopped; the same command goes on" in said
    assert "Traceback" not in said
    store = Store.open(tmp_path / "results/small")
    assert not list((store.path / "claims").iterdir())

    if killed:
        second = started(tmp_path, *words)
        _epochs_after(tmp_path, seen, second)
        second.kill()
        second.communicate()

    monkeypatch.chdir(tmp_path)
    assert main(["study", *words]) == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert summary["done"] + summary["skipped"] == 3
    assert printed.err.count("left\n") == summary["done"]
    assert [one["done"] for one in store.tally().values()] == [1] * 3

    data, rows = digits(), {row.cell: row for row in store.rows()}
    for row in rows.values():
        assert len(row.history) == EPOCHS
        assert row.overhead > 0
        assert "cpu" in row.device
    for one in expand(read_study(Path(path), trust=True))[:1]:  # it was interrupted
        row, run = rows[one.id], prepare(one, data).run
        expected = train(run, data=data, output=tmp_path / "again", loggers=("csv",))
        assert (row.run, row.accuracy, row.loss) == (run.id, expected.accuracy, expected.loss)
        assert row.params == expected.params
    _status_and_show(path, tmp_path, capsys)


def _status_and_show(path: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["study", "status", path, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["done"], status["left"], status["failures"]) == (3, 0, {})
    assert status["overhead"] > 0
    assert main(["study", "status", path]) == 0
    assert "% overhead; results/small" in capsys.readouterr().out
    assert main(["study", "show", path]) == 0
    shown = capsys.readouterr().out
    assert shown.count("batch_net") == 3
    assert main(["study", "show", str(folder / "results/small"), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3
    assert all(f"{line['accuracy']:.2%}" in shown for line in lines)
    assert len(lines[0]["history"]) == EPOCHS
    assert main(["study", "run", path, "--trust", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == 3


def _epochs_after(folder: Path, number: int, process: "subprocess.Popen[str]") -> int:
    """Wait until that many epochs and some more are trained; gives how many there are then."""
    while True:
        tables = list((folder / "runs").glob("*/metrics.csv"))
        found = sum(max(0, len(table.read_text().splitlines()) - 1) for table in tables)
        if found >= number + 2:
            return found
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, store = study(tmp_path), tmp_path / "store"
    words = ["study", "run", path, "--trust", "--store", str(store), "--dry-run"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["cells"], found["left"]) == (3, 3)
    dense, cropped = found["planned"]
    assert dense["params"] == dense["base_params"] == cropped["base_params"]
    assert cropped["params"] <= 0.5 * cropped["base_params"]
    assert cropped["seeds"] == [0, 1]
    assert main([*words, "--only", "PreCrop*seed 1"]) == 0
    shown = capsys.readouterr().out
    assert "1 of 1 cells would run" in shown
    assert f"{cropped['params']:,}" in shown
    assert not store.exists()


@pytest.mark.parametrize("data", ["cifar10", "photographs", "{name: cifar100, image_size: 16}"])
def test_a_dry_run_needs_no_images(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    data: str,
) -> None:
    """And downloads none: sizes are those for images as large, in as many classes."""
    monkeypatch.setenv("PRECROP_DATA", str(tmp_path / "nothing"))
    path = Path(study(tmp_path))
    more = "  - {name: snip, mask: 'snip:weight', seeds: [0]}\n"
    path.write_text(path.read_text().replace("data: digits", f"data: {data}") + more)
    words = ["study", "run", str(path), "--trust", "--store", str(tmp_path / "store")]
    assert main([*words, "--dry-run", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert said.err.count("\n") == 1
    assert "here (--data DIR says where they are): sizes are for noise in their place" in said.err
    classes, side = (100, 16) if "cifar100" in data else (10, 32 if data == "cifar10" else 224)
    counted = precrop.count(batch_net(num_classes=classes), (3, side, side))
    dense = found["planned"][0]
    assert (dense["params"], dense["macs"]) == (counted.params, counted.macs)
    assert all(one["params"] <= 0.5 * counted.params for one in found["planned"][1:])
    assert not (tmp_path / "nothing").exists()


def test_images_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(study(tmp_path))
    path.write_text(path.read_text().replace("data: digits", "data: photographs"))
    words = ["study", "run", str(path), "--trust", "--store", str(tmp_path / "store")]
    for more in ([], ["--data", str(tmp_path / "none"), "--dry-run"]):
        assert main([*words, *more]) == 2
        said = capsys.readouterr().err
        assert said.endswith("; --data DIR says where the study's images are\n")
        assert said.count("\n") == 1


def test_what_is_in_the_store_is_no_part_of_a_dry_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study(tmp_path)
    store = Store.open(tmp_path / "store", create=True)
    cells = expand(read_study(Path(path), trust=True))
    for one, status in zip(cells, ("done", "failed", "done"), strict=True):
        row = row_of(one, status, data_digest=digits().digest)
        store.append([row])
    words = ["study", "run", path, "--trust", "--store", str(store.path), "--dry-run"]
    assert main(words) == 0
    assert "0 of 3 cells would run" in capsys.readouterr().out
    assert main([*words, "--retry-failed"]) == 0
    assert "1 of 3 cells would run" in capsys.readouterr().out
    assert main(["study", "status", path, "--store", str(store.path)]) == 0
    status = capsys.readouterr().out
    assert "small: 2 done, 1 failed, 0 running, 0 left" in status
    assert "seed 0: it broke" in status


def test_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (Store.open(tmp_path / name, create=True) for name in ("one", "other"))
    same, changed, alone = (made_row(seed=seed) for seed in range(3))
    one.append([same, changed, alone])
    other.append([same, replace(changed, accuracy=0.1)])
    words = ["study", "diff", str(one.path), str(other.path)]
    assert main(words) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "accuracy 0.85 and 0.1" in lines[0]
    assert f"({alone.cell}): only in {one.path}" in lines[1]
    assert main([*words, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [entry["cell"] for entry in found] == [changed.cell, alone.cell]
    assert main(["study", "diff", str(one.path), str(one.path)]) == 0
    assert "3 runs, no difference" in capsys.readouterr().out


def test_cells_of_other_code_are_told(tmp_path: Path) -> None:
    net = "from torch import nn\n\nfrom blocks import WIDTH\n\n\ndef net(num_classes=10):\n"
    net += "    convs = nn.Conv2d(3, WIDTH, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
    (tmp_path / "mine.py").write_text(f"{net}    return nn.Sequential(*convs, nn.Linear(8, 10))\n")
    (tmp_path / "blocks.py").write_text("WIDTH = 8\n")
    (tmp_path / "goal.py").write_text("def late(structure):\n    return [1.0, 2.0]\n")
    text = STUDY.format(epochs=1).replace("tests.training.small_runs:batch_net", "./mine.py:net")
    text = text.replace("plan: {}", "plan: {objective: './goal.py:late'}")
    (tmp_path / "small.yaml").write_text(text)
    words = ["run", "small.yaml", "--trust", "--store", "store"]

    def said() -> tuple[str, list[str]]:
        process = started(tmp_path, *words)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return out, [line for line in err.splitlines() if "warning" in line]

    assert said()[1] == []
    rows = Store.open(tmp_path / "store").rows()
    files = {frozenset(row.code) for row in rows}
    assert files == {frozenset({"mine.py", "blocks.py", *more}) for more in ([], ["goal.py"])}
    out, warnings = said()
    assert "3 were in the store" in out
    assert warnings == []
    (tmp_path / "goal.py").write_text("def late(structure):\n    return [2.0, 1.0]\n")
    out, (warning,) = said()
    assert "3 were in the store" in out
    assert warning == (
        "precrop: warning: 2 of 3 cells ran with other code and are not run again: goal.py changed "
        "since; undo that, or name another --store and --output"
    )
    (tmp_path / "blocks.py").write_text("WIDTH = 2 * 4\n")
    _, (warning,) = said()
    assert "3 of 3 cells ran with other code" in warning


def test_torn_lines_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(tmp_path / "store", create=True)
    store.append([made_row(seed=0)])
    (store.path / "rows-9.jsonl").write_text("torn")
    assert main(["study", "show", str(store.path)]) == 0
    said = capsys.readouterr()
    assert "synexp" not in said.err
    assert said.err.count("warning: rows-9.jsonl, line 1 of ") == 1
    assert "resnet20" in said.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "none.yaml"], "cannot read none.yaml"),
        (
            ["run", "{study}", "--trust", "--only", "paper"],
            "--only 'paper' matches none of 3 cells",
        ),
        (
            ["run", "{study}", "--trust", "--only", "seed", "--only", "paper"],
            "--only 'paper' matches none of 3 cells",
        ),
        (
            ["run", "{study}", "--trust", "--address", "x:1", "--store", "{new}"],
            "--address is for --engine",
        ),
        (["run", "{study}", "--trust", "--processes", "0", "--store", "{new}"], "are 1 or more"),
        (["run", "{study}", "--trust", "--store", "{folder}"], "is not empty and no store"),
        (["show", "{folder}"], "is not a store of a study"),
        (["show", "{folder}", "--store", "{new}"], "--store is for the file of a study"),
        ([], "Missing command"),
        (["diff", "{folder}", "{folder}"], "is not a store of a study"),
    ],
)
def test_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    places = {"study": study(tmp_path), "folder": str(tmp_path), "new": str(tmp_path / "new")}
    assert main(["study", *(word.format(**places) for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_other_images_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = study(tmp_path)
    store = Store.open(tmp_path / "store", create=True)
    store.append([row_of(expand(read_study(Path(path), trust=True))[0], data_digest="0" * 64)])
    for only in ([], ["--only", "*seed 1"]):
        assert main(["study", "run", path, "--trust", "--store", str(store.path), *only]) == 2
        assert "has results on other images" in capsys.readouterr().err


def test_a_failed_cell_is_told_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also by a run that has nothing to do: exit status 1 and a line."""
    path = study(tmp_path)
    store = Store.open(tmp_path / "store", create=True)
    cells = expand(read_study(Path(path), trust=True))
    store.append([row_of(cells[0], "failed"), *map(row_of, cells[1:])])
    for _ in range(2):
        words = ["study", "run", path, "--trust", "--store", str(store.path)]
        assert main([*words, "--output", str(tmp_path / "runs")]) == 1
        said = capsys.readouterr()
        assert "1 of 3 cells have failed" in said.err
        assert "0 done, 0 failed, 3 were in the store" in said.out
    store.append([row_of(cells[0])])
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failing"] == 0


def test_a_damaged_lines_cell_runs_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study(tmp_path)
    store = Store.open(tmp_path / "store", create=True)
    digest = digits().digest
    for cell in expand(read_study(Path(path), trust=True)):
        store.append([row_of(cell, data_digest=digest)])
    (file,) = store.path.glob("*.jsonl")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    words = ["study", "run", path, "--trust", "--store", str(store.path), "--dry-run"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "1 of 3 cells would run" in said.out
    assert said.err.count(f"warning: {file.name}, line 2 of ") == 1


def test_names_that_would_move_the_cursor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.open(tmp_path / "store", create=True)
    store.append([made_row(variant="\x1b[2J[/b][red]", network="a\nb", error="\x07")])
    assert main(["study", "show", str(store.path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "\\x1b[2J[/b][red]" in out
