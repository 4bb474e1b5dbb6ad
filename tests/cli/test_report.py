"""The command ``report``, from a store's folder to files and lines."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml  # type: ignore[import-untyped]

from precrop.cli.report import report_command, stored_rows
from precrop.errors import PrecropError
from precrop.report.verdicts import MARGIN
from precrop.study.store import Store
from tests.report.made_study import CLAIMS, made_file
from tests.study.made_rows import made_row

Output = pytest.CaptureFixture[str]


def run(*argv: object) -> None:
    app = typer.Typer()
    app.command("report")(report_command)
    typer.main.get_command(app).main(args=list(map(str, argv)), standalone_mode=False)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    opened = Store.open(tmp_path / "store", create=True)
    rows = []
    for seed in range(3):
        rows.append(made_row(seed=seed, accuracy=0.84 + 0.0013 * seed))
        control = {"variant": "uniform width", "method": "uniform"}
        rows.append(made_row(seed=seed, accuracy=0.82 + 0.001 * seed, **control))
    opened.append(rows)
    return opened.path


def test_the_module_imports_light() -> None:
    code = "import sys, precrop.cli.report; "
    code += "assert not {'torch', 'pyarrow', 'altair', 'vl_convert', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_files_and_lines(store: Path, tmp_path: Path, capsys: Output) -> None:
    out = tmp_path / "deep" / "report"
    run(store, "-o", out)
    said = capsys.readouterr().out
    assert "6 finished runs" in said
    assert str(out / "report.md") in said
    assert (out / "report.md").is_file()
    assert (out / "index.html").stat().st_size > 500_000, "Vega is in it"
    assert list((out / "figures").glob("*.svg"))


def test_several_stores(store: Path, tmp_path: Path, capsys: Output) -> None:
    """A cell that both have counts once, as the first has it."""
    other = Store.open(tmp_path / "other", create=True)
    other.append([made_row(seed=0, accuracy=0.1), made_row(seed=3, accuracy=0.85)])
    run(store, other.path, "-o", tmp_path / "report")
    assert "7 finished runs" in capsys.readouterr().out
    text = (tmp_path / "report/report.md").read_text()
    assert "84.35 ± 0.45 | 4 |" in text


def test_a_cell_on_other_images_is_another_run(store: Path, tmp_path: Path) -> None:
    other = Store.open(tmp_path / "other", create=True)
    other.append([made_row(seed=0, data_digest="e" * 64), made_row(seed=0, variant="x")])
    assert len(stored_rows([store, other.path])) == 8
    assert len(stored_rows([store, store, other.path, other.path])) == 8


def test_a_finished_row_counts_before_a_failed_one(store: Path, tmp_path: Path) -> None:
    failing = Store.open(tmp_path / "failing", create=True)
    failing.append([made_row(seed=0, status="failed", error="no room")])
    run(failing.path, store, "-o", tmp_path / "report")
    assert "no room" not in (tmp_path / "report/report.md").read_text()


def test_json_is_the_verdicts(store: Path, tmp_path: Path, capsys: Output) -> None:
    run(store, "-o", tmp_path / "report", "--json", "--study", made_file(tmp_path))
    found = json.loads(capsys.readouterr().out)
    assert set(found) == set(CLAIMS)
    assert found["uniform-width"]["verdict"] == "holds"
    (comparison,) = found["uniform-width"]["comparisons"]
    assert comparison["n"] == 3
    assert comparison["difference"] == pytest.approx(2.03, abs=0.01)


def test_the_folder_studies_is_looked_into(
    store: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(store)
    assert "No claim was judged" in capsys.readouterr().out
    (tmp_path / "studies").mkdir()
    made_file(tmp_path / "studies")
    claims = tmp_path / "studies/claims.yaml"
    content = yaml.safe_load(claims.read_text())
    for claim in content:
        claim["text"] = "[/b] [link] :cat:"
    claims.write_text(yaml.safe_dump(content))
    run(store)
    said = capsys.readouterr().out
    assert "holds    [/b] [link] :cat:" in said, "a claim's text is no markup"
    assert f"{len(CLAIMS) - 1} claims have no runs to be judged by here: " in said


def test_a_study_file_that_is_not_there(store: Path, tmp_path: Path) -> None:
    with pytest.raises(PrecropError, match="cannot read"):
        run(store, "-o", tmp_path / "report", "--study", tmp_path / "none.yaml")


def test_the_margin_is_said(store: Path, tmp_path: Path, capsys: Output) -> None:
    run(store, "-o", tmp_path / "report", "--margin", "3")
    capsys.readouterr()
    assert "The margin is 3 percentage points." in (tmp_path / "report/report.md").read_text()
    senseless = {"0": "0 is not above 0", "nan": "nan is not above 0", "inf": "inf is not at most"}
    for margin, said in {**senseless, "1e308": r"1e\+308 is not at most 100"}.items():
        with pytest.raises(PrecropError, match=f"margin={said}"):
            run(store, "-o", tmp_path / "report", "--margin", margin)


def test_the_usual_margin_is_the_claims() -> None:
    assert inspect.signature(report_command).parameters["margin"].default == MARGIN


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(PrecropError, match="is not a store"):
        run(tmp_path, "-o", tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_nothing_finished(tmp_path: Path) -> None:
    opened = Store.open(tmp_path / "store", create=True)
    with pytest.raises(PrecropError, match="no finished run, it is empty"):
        run(opened.path, "-o", tmp_path / "report")
    opened.append([made_row(status="failed", error="no")])
    with pytest.raises(PrecropError, match="no finished run, all of its 1 failed"):
        run(opened.path, "-o", tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_another_schema(store: Path, tmp_path: Path) -> None:
    (store / "store.json").write_text('{"schema": 99}')
    with pytest.raises(PrecropError, match="schema 99"):
        run(store, "-o", tmp_path / "report")


def test_a_torn_line_is_told(store: Path, tmp_path: Path, capsys: Output) -> None:
    (store / "rows-torn.jsonl").write_bytes(b"PAR1")
    run(store, "-o", tmp_path / "report")
    said = capsys.readouterr()
    assert said.err.startswith("precrop: warning:")
    assert "rows-torn.jsonl, line 1" in said.err
    assert "6 finished runs" in said.out


def test_a_folder_that_cannot_be_made(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PrecropError, match="cannot make the folder"):
        run(store, "-o", tmp_path / "file" / "report")
