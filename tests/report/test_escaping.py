"""Names that come from a store do nothing in a report but be shown."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from precrop.report.markdown import escaped
from precrop.report.words import PICTURES
from precrop.report.writing import PAGE, TEXT, write_report
from tests.study.made_rows import made_row

EVIL = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[go](javascript:alert(1))",
    "![x](javascript:alert(1))",
    "</script><script>alert(2)</script>",
    "a|b `code` **bold** _it_ ~~no~~",
    "$\\frac{$ \\alpha$",
    "http://evil.example www.evil.example @everyone",
    "\x1b[2J\x07\u202e",
    "-- ]]> <!--",
    "_hidden",
    "x" * 300,
)


class Elements(HTMLParser):
    """Which elements and attributes a page has."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.found.append((tag, tuple(name for name, _ in attrs)))


def elements(folder: Path) -> list[tuple[str, tuple[str, ...]]]:
    parser = Elements()
    parser.feed((folder / PAGE).read_text(encoding="utf-8"))
    return parser.found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two reports on rows that are the same but for their names."""
    made = []
    for name, words in (("plain", [f"name{i}" for i in range(len(EVIL))]), ("evil", EVIL)):
        rows = [made_row(variant=word, seed=seed) for word in words for seed in (0, 1)]
        rows.append(made_row(network="".join(words), data="".join(words), variant="dense"))
        failed = made_row(variant="f", status="failed", error=" ".join(words))
        rows += [failed, made_row(device=words[0], versions={"a": words[1]}, seed=9)]
        rows.append(made_row(run=f"`{words[0]}`|", seed=10))
        folder = tmp_path_factory.mktemp(name)
        write_report(rows, folder)
        made.append(folder)
    return made[0], made[1]


def test_the_page_has_the_same_elements(folders: tuple[Path, Path]) -> None:
    plain, evil = map(elements, folders)
    assert evil == plain
    assert ("script", ()) in plain


def test_the_markdown_has_no_html_and_no_other_links(folders: tuple[Path, Path]) -> None:
    text = (folders[1] / TEXT).read_text(encoding="utf-8")
    assert not re.search(r"<[a-zA-Z/!]", text)
    assert not re.search(r"\x1b|\u202e|https?:|www\.", text)
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links
    assert all(link.startswith(f"{PICTURES}/") for link in links)
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) <= 1


def test_pictures_are_sound_and_stay_in_their_folder(folders: tuple[Path, Path]) -> None:
    pictures = list((folders[1] / PICTURES).iterdir())
    assert sorted(path.name for path in folders[1].iterdir()) == sorted([PAGE, TEXT, PICTURES])
    for picture in pictures:
        if picture.suffix == ".svg":
            names = {element.tag.rpartition("}")[2] for element in ET.parse(picture).iter()}
            assert not names & {"script", "a", "img", "foreignObject"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("cifar_vgg16_bn (num_classes=10)", "cifar_vgg16_bn (num_classes=10)"),
        ("a|b", r"a\|b"),
        ("_a_ b_", r"\_a\_ b\_"),
        ("<b>", "&lt;b&gt;"),
        ("&lt;", "&amp;lt;"),
        ("[x](y)", "&#91;x&#93;(y)"),
        ("a\n# b", "a # b"),
        ("2 * 3 \\", "2 \\* 3 \\\\"),
    ],
)
def test_what_is_escaped(text: str, wanted: str) -> None:
    assert escaped(text) == wanted
