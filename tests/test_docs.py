"""The documentation's code runs, and what it lists is what there is."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import precrop
import precrop.models
from precrop.cli.app import app
from precrop.costs.layered import COSTS
from precrop.linear.readings import READINGS
from precrop.pruning.methods import NEED_DATA, RULES, SCORES
from precrop.read.ops import HANDLERS
from precrop.solve.program import OBJECTIVES

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/api.md", "docs/extending.md", "docs/trained-weights.md"]
EVERY_PAGE = [
    *PAGES,
    "docs/deployment.md",
    "docs/evidence.md",
    "docs/export.md",
    "docs/method.md",
    "docs/reading.md",
    "docs/speed.md",
    "docs/studies.md",
    "docs/trainers.md",
    "docs/training.md",
    "CONTRIBUTING.md",
]


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.fixture
def clean_tables() -> Iterator[None]:
    """What a recipe registers is gone afterwards."""
    tables: list[dict[str, Any]] = [HANDLERS, READINGS, OBJECTIVES, COSTS, RULES, SCORES]
    before, need_data = [dict(table) for table in tables], set(NEED_DATA)
    yield
    NEED_DATA.clear()
    NEED_DATA.update(need_data)
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


@pytest.mark.usefixtures("clean_tables")
@pytest.mark.parametrize("page", PAGES)
def test_code_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = text(page)
    names: dict[str, Any] = {"__name__": "page"}
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", content, re.MULTILINE | re.DOTALL))
    assert blocks
    for block in blocks:
        line = content.count("\n", 0, block.start(1))
        code = compile("\n" * line + block[1], str(ROOT / page), "exec")
        exec(code, names)


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]*)\)", text(page)):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, target


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


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
