"""Steps that are kept in a folder, and done again where what they depend on changed."""

import json
from pathlib import Path
from typing import Any

import pytest

from precrop.deployment.book import RECORD, SCHEMA, Book
from precrop.errors import PrecropError
from precrop.files import digest_of


def opened(folder: Path) -> Book:
    return Book(folder, {"network": "resnet20"}, lambda _: None)


def written(book: Book, text: str) -> dict[str, Any]:
    """A step that writes a file."""

    def make() -> dict[str, Any]:
        (book.folder / "file").write_text(text)
        return {"text": text}

    return book.step("write", {"seed": 0}, make, book.folder / "file")


def test_a_step_is_done_once(tmp_path: Path) -> None:
    assert written(opened(tmp_path), "one") == {"text": "one"}
    again = opened(tmp_path)
    assert written(again, "two") == {"text": "one"}
    assert again.reused == ["write"]


def test_a_step_is_done_again_where_its_file_is_another(tmp_path: Path) -> None:
    written(opened(tmp_path), "one")
    for change in (lambda path: path.write_text("other"), Path.unlink):
        change(tmp_path / "file")
        again = opened(tmp_path)
        assert written(again, "two") == {"text": "two"}
        assert again.reused == []


def put(folder: Path, steps: Any) -> None:
    content = {"schema": SCHEMA, "about": {"network": "resnet20"}, "steps": steps}
    content["digest"] = digest_of(content)[:16]
    (folder / RECORD).write_text(json.dumps(content))


def test_an_older_book_does_not_say_what_its_files_hold(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one")
    put(tmp_path, {"write": {"key": {"seed": 0}, "result": {"text": "one"}}})
    assert written(opened(tmp_path), "two") == {"text": "one"}


def test_an_older_book_does_not_say_all_that_it_is_about(tmp_path: Path) -> None:
    written(opened(tmp_path), "one")
    about = {"network": "resnet20", "code": {"nets.py": "1"}}
    assert written(Book(tmp_path, about, lambda _: None), "two") == {"text": "one"}
    (tmp_path / "file").unlink()
    written(Book(tmp_path, about, lambda _: None), "two")
    about["code"] = {"nets.py": "2"}
    with pytest.raises(PrecropError, match="differs in its code: choose another folder"):
        Book(tmp_path, about, lambda _: None)


@pytest.mark.parametrize("step", [5, "key", [], {}, {"key": 1}, {"key": 1, "result": 5}])
def test_steps_of_no_sense(tmp_path: Path, step: Any) -> None:
    put(tmp_path, {"profile": step})
    with pytest.raises(PrecropError, match="was not written by precrop deploy"):
        opened(tmp_path)
