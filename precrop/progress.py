"""A progress bar on standard error."""

from collections.abc import Iterable
from typing import Any


def bar(items: Iterable[Any], title: str, total: int | None) -> Iterable[Any]:
    """`precrop.pruning.problem.Progress` as a bar that goes away when it is full."""
    from rich.console import Console
    from rich.progress import track

    return track(items, title, total, console=Console(stderr=True), transient=True)
