"""Files that are written whole or not at all, and paths that are refused before any work."""

import ast
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import precrop
from precrop.errors import PrecropError
from precrop.files import check_writable, drawn_name, figures, json_text, read_json, write_text


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", ["new.json", "file", "folder/new.json"])
def test_nothing_changes_where_a_file_can_be_written(path: str) -> None:
    before = sorted(Path().rglob("*"))
    check_writable(path)
    assert sorted(Path().rglob("*")) == before
    assert Path("file").read_text() == "old"
    write_text(path, "new")
    assert Path(path).read_text() == "new"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none/new.json", "none/new.json: No such file or directory"),
        ("file/new.json", "file/new.json: Not a directory"),
        ("folder", "folder: it is a folder, name a file in it"),
        (".", ".: it is a folder, name a file in it"),
        ("/proc/new.json", "/proc/new.json: "),
        ("x" * 300, "File name too long"),
    ],
)
def test_the_check_says_what_writing_would(path: str, reason: str) -> None:
    with pytest.raises(PrecropError) as written:
        write_text(path, "new")
    with pytest.raises(PrecropError) as checked:
        check_writable(path)
    assert str(checked.value) == str(written.value)
    assert str(checked.value).startswith("cannot write ")
    assert reason in str(checked.value)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_keeps_its_permissions(mode: int) -> None:
    Path("file").chmod(mode)
    write_text("file", "new")
    assert Path("file").stat().st_mode & 0o777 == mode


def test_a_new_file_has_the_permissions_of_any_other() -> None:
    Path("other").touch()
    write_text("new", "text")
    assert Path("new").stat().st_mode == Path("other").stat().st_mode


def test_the_umask_is_never_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that of all threads: one that sets it for a moment may leave another one's behind."""
    monkeypatch.delattr(os, "umask")
    write_text("fresh", "a")
    write_text("fresh", "b")
    assert sorted(path.name for path in Path().iterdir()) == ["file", "folder", "fresh"]


def test_names_as_long_as_a_file_system_has_them() -> None:
    name = "x" * 250 + ".json"
    write_text(name, "new")
    assert Path(name).read_text() == "new"


def test_a_mark_of_windows_editors_is_no_part_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf[1,\r\n2]\r\n")
    assert read_json(path) == [1, 2]


def test_a_link_is_replaced_by_the_file() -> None:
    Path("link").symlink_to("nowhere")
    write_text("link", "new")
    assert not Path("link").is_symlink()
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("name", "drawn"), [("conv1", "conv1"), ("a\x1b[2J", "a\\x1b[2J"), ("x" * 10**6, "x" * 200)]
)
def test_names_of_strangers_as_pictures_show_them(name: str, drawn: str) -> None:
    assert drawn_name(name) == drawn


def test_numbers_that_json_has_not() -> None:
    content = {"loss": math.nan, "rows": ({"x": -math.inf, "y": 0.1}, [math.inf, 2, True, "nan"])}
    found = json.loads(json_text(content), parse_constant=pytest.fail)
    assert found == {"loss": None, "rows": [{"x": None, "y": 0.1}, [None, 2, True, "nan"]]}
    assert math.isnan(figures(found)["loss"])
    assert figures({"x": 0.1, "y": 0}) == {"x": 0.1, "y": 0}


def test_texts_of_any_length() -> None:
    with Path("long.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(PrecropError, match=r"long.json is not JSON: it has more than 32 MiB"):
        read_json(Path("long.json"))


def test_a_backend_that_matplotlib_does_not_have(tmp_path: Path) -> None:
    """In a process of its own: matplotlib looks once, when it is imported."""
    code = "from precrop.files import new_figure; new_figure(1, 1)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MPLBACKEND": "foo"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PrecropError: matplotlib does not start: Key backend: 'foo'" in run.stderr


OPENERS = {"ParquetFile", "read_table", "safe_open", "load_file", "InferenceSession", "loadtxt"} | {
    f"{library}.{name}"
    for library in ("torch", "export", "np", "onnx", "Image", "jit", "json", "yaml", "pickle", "pd")
    for name in ("load", "open", "memmap", "fromfile", "load_model", "read_csv", "read_parquet")
}
"""What libraries call the functions that open a file where they are given a path."""
OPENED = {"checked_path", "BytesIO", "BufferReader", "decode"}
"""What is a path that was looked at, or content that is in memory already."""


def test_no_library_opens_a_path_that_was_not_looked_at() -> None:
    """What is opened is checked or given by `open_plain`: a pipe or a device never ends."""
    assert precrop.__file__
    found = 0
    for path in Path(precrop.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        handles = {"encoded"} | {
            item.optional_vars.id
            for node in ast.walk(tree)
            if isinstance(node, ast.With)
            for item in node.items
            if isinstance(item.optional_vars, ast.Name)
            and called(item.context_expr) == "open_plain"
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and OPENERS & names(node):
                (given, *_) = node.args
                safe = called(given) in OPENED or (
                    isinstance(given, ast.Name) and given.id in handles
                )
                assert safe, f"{path.name}:{node.lineno}"
                found += 1
    assert found > 5


def names(call: ast.Call) -> set[str]:
    """What is called, alone and with what it belongs to."""
    whole = ast.unparse(call.func).split(".")
    return {whole[-1], ".".join(whole[-2:])}


def called(node: ast.AST) -> str:
    return ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
