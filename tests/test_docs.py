"""The documentation's code runs, and what it lists is what there is."""

import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import typer.main

import precrop
import precrop.models
from precrop.cli.app import app, main
from precrop.costs.layered import COSTS
from precrop.linear.readings.table import READINGS
from precrop.pruning.methods import METHODS
from precrop.read.ops import HANDLERS
from precrop.strategies.objectives import OBJECTIVES
from scripts.docs_site import beside, links, moved, origin, place, prose, target

ROOT = Path(__file__).parent.parent
TUTORIALS = sorted(f"docs/tutorials/{path.name}" for path in (ROOT / "docs/tutorials").glob("*.md"))
PAGES = ["README.md", "docs/api.md", "docs/extending.md", "docs/trained-weights.md"]
EVERY_PAGE = [str(path) for path in beside() if path.suffix == ".md"]
EVERY_PAGE += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.fixture
def clean_tables() -> Iterator[None]:
    """What a recipe registers is gone afterwards."""
    tables: list[dict[str, Any]] = [HANDLERS, READINGS, OBJECTIVES, COSTS, METHODS]
    before = [dict(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


@pytest.mark.usefixtures("clean_tables")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:`isinstance")
@pytest.mark.parametrize("page", [*PAGES, *TUTORIALS])
def test_code_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python, and in blocks of a shell every command, one after the other in one folder.

    A block that begins with a comment of a file's name is that file, too.
    """
    monkeypatch.chdir(tmp_path)
    content = text(page)
    names: dict[str, Any] = {"__name__": "page"}
    blocks = list(
        re.finditer(r"^```(python|sh|yaml)\n(.*?)^```$", content, re.MULTILINE | re.DOTALL)
    )
    assert blocks
    for block in blocks:
        if named := re.match(r"# (\w+\.\w+)\n", block[2]):
            Path(named[1]).write_text(block[2], encoding="utf-8")
        if block[1] == "python":
            line = content.count("\n", 0, block.start(2))
            exec(compile("\n" * line + block[2], str(ROOT / page), "exec"), names)
        elif block[1] == "sh":
            for command in block[2].replace("\\\n", " ").splitlines():
                program, *words = shlex.split(command, comments=True)
                assert program == "precrop"
                assert main(words) == 0, command


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_links_lead_somewhere(page: str) -> None:
    for link in links(text(page)):
        file, anchor = target(PurePosixPath(page), link[2])
        folder = file.name == "README.md" and (ROOT / file.parent).is_dir()
        assert folder or (ROOT / file).is_file(), link[0]
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(text(str(file))), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, link[0]


def slug(heading: str) -> str:
    """An anchor, as GitHub and mkdocs.yml make it."""
    words = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")


def test_links_stay_whole_in_the_site() -> None:
    page = PurePosixPath("docs/tutorials/script.md")
    for link, there in {
        "[a](../api.md#errors)": "[a](../api.md#errors)",
        "[a](../../README.md)": "[a](../index.md)",
        "[a `[b]` c](../../LICENSE)": "[a `[b]` c](../repo/LICENSE)",
        "[runs](../../results)": "[runs](../repo/results/README.md)",
        "[studies](../../studies), [there](https://a.b)": "studies, [there](https://a.b)",
        "```python\nwidths[0](x.md)\n```": "```python\nwidths[0](x.md)\n```",
    }.items():
        assert moved(link, page) == there
    assert moved("[a](docs/api.md)", PurePosixPath("README.md")) == "[a](api.md)"
    for path in beside():
        assert origin(place(path)) == path


def test_every_page_is_in_the_sites_navigation() -> None:
    named = set(re.findall(r": ([\w./-]+\.md)$", text("mkdocs.yml"), re.MULTILINE))
    assert {str(place(PurePosixPath(page))) for page in EVERY_PAGE if "docs/" in page} <= named
    assert all((ROOT / origin(PurePosixPath(name))).is_file() for name in named)


def test_docstrings_of_all_public_names_are_in_the_site() -> None:
    named = re.findall(r"^::: precrop\.(\w+)$", text("docs/reference.md"), re.MULTILINE)
    assert sorted(named) == sorted(precrop.__all__)


def test_every_public_name_and_argument_is_documented() -> None:
    page = text("docs/api.md")
    public = {name: getattr(precrop, name) for name in precrop.__all__}
    for name in public:
        assert f"precrop.{name}" in page or f"`{name}`" in page
    for name, function in public.items():
        if not inspect.isfunction(function):
            continue
        signature = re.search(rf"^    {name}\((.*?)\) ->", page, re.MULTILINE | re.DOTALL)
        assert signature is not None
        words = re.findall(r"\w+", signature[1])
        for argument in inspect.signature(function).parameters:
            assert argument in words, f"{name}({argument}=)"


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All commands with their whole names, those of groups included."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def test_every_command_and_option_is_documented() -> None:
    page = text("docs/api.md")
    found = dict(commands(typer.main.get_command(app)))
    assert "study run" in found
    for name, command in found.items():
        assert f"precrop {name} " in page
        for parameter in command.params:
            for option in parameter.opts:
                assert not option.startswith("--") or f"`{option}" in page, f"{name} {option}"


def test_every_field_of_a_plan_file_is_documented() -> None:
    page = text("docs/api.md").partition("# Plan files")[2]
    model = precrop.models.resnet20()
    plan = precrop.plan(model, (3, 32, 32), params=0.5)
    for field in vars(plan):
        assert f"`{field}`" in page
    for field in vars(plan.layers[0]):
        assert f"`{field}`" in page
