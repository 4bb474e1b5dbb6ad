"""What a user's code is made of: its files, each with a digest, to be kept beside what came of it.

Names of runs and cells say which function was called, not what it did on that day.
"""

import ast
import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

_OURS, _PYTHONS = Path(__file__).parent, Path(ast.__file__).parent
_INSTALLED = ("site-packages", "dist-packages")
_DIGITS = 12
_kept: WeakKeyDictionary[ModuleType, tuple[Any, dict[str, str]]] = WeakKeyDictionary()
"""By module its spec, which a reload replaces, and `sources`."""


def sources(module: object) -> dict[str, str]:
    """By file a digest of a module's source, and of those beside it that it imports, in their turn.

    Of an installed package it is the version, by name. The files are read once, at the first call:
    what is edited later is not what this process runs.
    """
    if not isinstance(module, ModuleType):  # a module may put anything in its place
        return {}
    kept = _kept.get(module)
    if kept is None or kept[0] is not module.__spec__:
        _kept[module] = kept = module.__spec__, _read(module)
    return kept[1]


def changed(then: object, now: Mapping[str, str]) -> str:
    """The files, in words, that were others when a result was made; empty if there are none.

    Args:
        then: what was kept beside the result, by file; nothing beside older ones.
        now: `sources` of the same code, or of a part of it.
    """
    if not isinstance(then, Mapping) or not then:
        return ""
    files = [file for file, digest in now.items() if then.get(file) != digest]
    return ", ".join(files[:3]) + (f" and {len(files) - 3} more" if files[3:] else "")


def _read(module: ModuleType) -> dict[str, str]:
    file = getattr(module, "__file__", None)
    if file is None:
        return {}
    path = Path(file).absolute()
    # A module that was loaded by its file may be called by that.
    parts = [path.stem] if module.__name__ == str(path) else module.__name__.split(".")
    root = [*path.parents][: len(parts) + (path.stem == "__init__")][-1]
    if root.name in _INSTALLED:
        return {name: version(name) for name in packages_distributions().get(parts[0], ())}
    found: dict[str, str] = {}
    pending = [] if root == _PYTHONS else [path, *_files(root, parts[:-1])]
    while pending:
        path = pending.pop()
        name = path.relative_to(root).as_posix()
        if name not in found and not path.is_relative_to(_OURS):
            with suppress(OSError):
                text = path.read_bytes().replace(b"\r\n", b"\n")
                found[name] = hashlib.sha256(text).hexdigest()[:_DIGITS]
                for imported in _imported(text, path.parent.relative_to(root).parts):
                    pending += _files(root, imported)
    return found


def _files(root: Path, name: Sequence[str]) -> Iterator[Path]:
    """The files below a folder of a module, by the parts of its name, and of its packages."""
    for end in range(1, len(name) + 1):
        place = root.joinpath(*name[:end])
        yield from filter(Path.is_file, (place / "__init__.py", place.parent / f"{place.name}.py"))


def _imported(text: bytes, package: Sequence[str]) -> Iterator[Sequence[str]]:
    """What a module of a package may import, in its functions too, as the parts of names."""
    with (
        warnings.catch_warnings(action="ignore"),  # Python has warned of the user's code before
        suppress(SyntaxError, ValueError, RecursionError),  # it may be no Python at all
    ):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".") for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else ()
                within = (*above, *(node.module or "").split("."))
                yield from ((*filter(None, within), alias.name) for alias in node.names)
