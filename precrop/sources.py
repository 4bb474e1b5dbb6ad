"""Digests of the source files of a user's code, to be stored beside its results.

Names of runs and cells say which function was called, but not what its code was at the time.
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
"""The result of `sources` by module, with the module's spec, which a reload replaces."""


def sources(module: object) -> dict[str, str]:
    """Return digests by file of a module and of the modules beside it that it imports, recursively.

    For an installed package this is its version, by name. The files are read once, at the first
    call: what is edited later is not what this process runs.
    """
    if not isinstance(module, ModuleType):  # a module may replace itself in sys.modules
        return {}
    kept = _kept.get(module)
    if kept is None or kept[0] is not module.__spec__:
        _kept[module] = kept = module.__spec__, _read(module)
    return kept[1]


def changed(then: object, now: Mapping[str, str]) -> str:
    """List in words the files that have changed since a result was made; empty if none has.

    Args:
        then: digests by file as stored beside the result; older results have none.
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
    # A module that was loaded from a file may have the file's path as its name.
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
    """Yield a module's file and those of its packages below ``root``, from its name's parts."""
    for end in range(1, len(name) + 1):
        place = root.joinpath(*name[:end])
        yield from filter(Path.is_file, (place / "__init__.py", place.parent / f"{place.name}.py"))


def _imported(text: bytes, package: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the names, as parts, that a module may import, also within functions."""
    with (
        warnings.catch_warnings(action="ignore"),  # Python has already given these warnings
        suppress(SyntaxError, ValueError, RecursionError),  # the file may not be Python
    ):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".") for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else ()
                within = (*above, *(node.module or "").split("."))
                yield from ((*filter(None, within), alias.name) for alias in node.names)
