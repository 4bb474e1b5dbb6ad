"""Counts the documentation's words of prose, without code, tables and comments.

``python -m scripts.docs_words`` counts README.md and every page of docs/.
"""

import re
from pathlib import Path

from scripts.docs_site import ROOT, prose


def words(text: str) -> int:
    """Return the number of words in a page's prose."""
    lines = [line for line in prose(text).splitlines() if not line.startswith(("    ", "|"))]
    return len(re.sub(r"<!--.*?-->", "", "\n".join(lines), flags=re.DOTALL).split())


def pages() -> list[Path]:
    """List README.md and the pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> None:
    """Print the number of words of every page, and in all."""
    counted = {
        str(page.relative_to(ROOT)): words(page.read_text(encoding="utf-8")) for page in pages()
    }
    for name, count in {**counted, "in all": sum(counted.values())}.items():
        print(f"{count:>7,}  {name}")


if __name__ == "__main__":
    main()
