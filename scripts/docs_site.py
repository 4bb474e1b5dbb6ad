"""A hook of mkdocs that turns the repository's Markdown into one site; see mkdocs.yml.

Pages of ``docs/`` stay where they are. README.md becomes the first page, and all other files that a
page links to (results, studies, examples) are added under ``repo/``, so that no link leaves the
site or is dead. Links in fenced code do not count.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).parent.parent
FIRST = PurePosixPath("README.md")

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:)([^)\s]+)\)")


def prose(text: str) -> str:
    """Blank out a page's fenced code; every other character keeps its place."""
    return _FENCED.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def links(text: str) -> Iterator[re.Match[str]]:
    """Yield the relative links of a page: their words and targets."""
    return _LINK.finditer(prose(text))


def target(page: PurePosixPath, link: str) -> tuple[PurePosixPath, str]:
    """Return the file of the repository that a page's link leads to, and the anchor in it."""
    path, _, anchor = link.partition("#")
    if not path:
        return page, anchor
    found = PurePosixPath(os.path.normpath(page.parent / path))
    if (ROOT / found).is_dir():
        found = found / "README.md"
    return found, anchor


def place(path: PurePosixPath) -> PurePosixPath:
    """Return the path in the site of a file of the repository."""
    if path == FIRST:
        return PurePosixPath("index.md")
    if path.parts[0] == "docs":
        return path.relative_to("docs")
    return PurePosixPath("repo") / path


def origin(place: PurePosixPath) -> PurePosixPath:
    """Return the file of the repository with this path in the site."""
    if place == PurePosixPath("index.md"):
        return FIRST
    if place.parts[0] == "repo":
        return place.relative_to("repo")
    return PurePosixPath("docs") / place


def moved(text: str, page: PurePosixPath) -> str:
    """Return a page with the site's links; one to a folder without a page becomes its words."""
    parts, end = [], 0
    for link in links(text):
        file, anchor = target(page, link[2])
        way = os.path.relpath(place(file), place(page).parent)
        inner = f"{way}#{anchor}" if anchor else way
        is_bare_folder = file.name == "README.md" and not (ROOT / file).exists()
        words = text[link.start(1) : link.end(1)]
        parts += [text[end : link.start()], words if is_bare_folder else f"[{words}]({inner})"]
        end = link.end()
    return "".join([*parts, text[end:]])


def beside() -> list[PurePosixPath]:
    """List the files outside of ``docs/`` that the pages lead to, directly or by other pages."""
    pages = [PurePosixPath(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")]
    todo = [FIRST, *sorted(pages)]
    seen = set(todo)
    while todo:
        page = todo.pop()
        if page.suffix != ".md":
            continue
        for link in links((ROOT / page).read_text(encoding="utf-8")):
            file, _ = target(page, link[2])
            if file not in seen and (ROOT / file).is_file():
                seen.add(file)
                todo.append(file)
    return sorted(path for path in seen if path.parts[0] != "docs")


def on_files(files: Any, config: Any) -> Any:
    """Add these files to the site (called by mkdocs)."""
    from mkdocs.structure.files import File

    for path in beside():
        here = str(ROOT / path)
        files.append(File.generated(config, str(place(path)), abs_src_path=here))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Adapt a page's links before it becomes HTML (called by mkdocs)."""
    return moved(markdown, origin(PurePosixPath(page.file.src_uri)))
