"""The user's own code by name: ``package.module:function``, or ``./file.py:function``.

Looking a name up executes its module. So it is done only for names that the user typed, or that
come from a file that the user trusts (`precrop.trust`), and never for names in other files.
Whatever such code raises when it is called is reported in one line (`calling_own`).
"""

import multiprocessing
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from precrop.errors import PrecropError, brief, hint, typed_reason
from precrop.sources import sources

_PACKAGE = __name__.partition(".")[0]
_SHOWN = 5
"""Number of a module's names that a message lists."""
UNGUARDED = 77
"""Exit status of a process that ends because of `started_by_import`."""
OWN_ERRORS = (Exception, SystemExit, GeneratorExit)
"""What a user's code may raise: everything but Ctrl-C, which is nobody's error."""


def started_by_import() -> bool:
    """Whether this process of ours is still importing the script that started the program.

    What a script does when it is imported, it repeats in every process: if it calls precrop then,
    it needs a guard, ``if __name__ == "__main__":``.
    """
    return getattr(multiprocessing.current_process(), "_inheriting", False)


def own_function(name: str, kind: str = "function") -> Callable[..., Any]:
    """Return a user's function by its name; the module may lie in the current folder.

    Args:
        name: ``package.module:function`` or ``./file.py:function``.
        kind: what messages call the function.

    Raises:
        PrecropError: the module or the function is missing, or the module raises.
    """
    module_name, _, function_name = name.rpartition(":")
    with calling_own(f"cannot import {module_name}"):  # looking into it may run its code, too
        module = own_module(module_name)
        found = getattr(module, function_name, None)
        if callable(found):
            return found  # type: ignore[no-any-return]
        if function_name in vars(module):
            raise PrecropError(f"{name} is {brief(found)}, no {kind}: name one")
        own = [n for n, value in vars(module).items() if _is_of(value, module)]
        close = hint(function_name, dir(module)) or (
            f": it has {', '.join(own[:_SHOWN])}" if own else ""
        )
        raise PrecropError(f"unknown {kind} in {module_name} {function_name!r}{close}")


@contextmanager
def calling_own(failure: str, function: Callable[..., Any] | None = None) -> Iterator[None]:
    """Turn whatever the user's code raises in the block into one line, even `sys.exit()`.

    A `PrecropError` passes unchanged, and so do errors if the function is one of precrop's.

    Args:
        failure: the first words of the line: ``method ./mine.py:score fails``.
        function: what is called, if the line is to say where in its file it failed.

    Raises:
        PrecropError: the block raised anything but Ctrl-C.
    """
    try:
        yield
    except PrecropError:
        raise
    except OWN_ERRORS as error:
        if function is not None and is_ours(function):
            raise
        place = "" if function is None else f" ({_place(function, error)})"
        raise PrecropError(f"{failure}{place}: {typed_reason(error)}") from error


def is_ours(function: Callable[..., Any]) -> bool:
    """Whether a function or class is precrop's; what others return must be checked."""
    return str(getattr(function, "__module__", None)).partition(".")[0] == _PACKAGE


def _place(function: Callable[..., Any], error: BaseException) -> str:
    """Return where a user's function failed: the innermost line in the function's own file."""
    module = sys.modules.get(str(getattr(function, "__module__", None)))
    code = getattr(function, "__code__", None)
    own = getattr(code, "co_filename", None) or getattr(module, "__file__", None)
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
    return f"{Path(frame.filename).name}, line {frame.lineno}"


def _is_of(value: object, module: ModuleType) -> bool:
    """Whether a value is a function or class that the module itself defines."""
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def own_module(name: str) -> ModuleType:
    """Import a user's module by its name or file; it can import what lies beside it.

    It raises whatever the module raises, and `ImportError` if there is none.
    """
    module = _found(name)
    sources(module)  # record them as they are now, as they may be edited while the program runs
    return module


def own_sources(names: Iterable[str]) -> dict[str, str]:
    """Return digests of a user's modules by file, as `sources` does; names as for `own_module`.

    Raises:
        PrecropError: there is no such module, or it raises.
    """
    found: dict[str, str] = {}
    for name in names:
        with calling_own(f"cannot import {name}"):
            module = own_module(name)
        for file, digest in sources(module).items():
            if found.setdefault(file, digest) != digest:  # a namesake in another folder
                found[f"{name}: {file}"] = digest
    return found


def _found(name: str) -> ModuleType:
    file = Path(name)
    if file.suffix != ".py":
        _search(Path.cwd())
        return import_module(name)
    file = file.resolve()
    _search(file.parent)
    known = sys.modules.get(file.stem)
    # A file may have the same name as another module.
    mine = known is None or getattr(known, "__file__", None) == str(file)
    key = file.stem if mine else str(file)
    if key not in sys.modules:
        spec = spec_from_file_location(key, file)
        if spec is None or spec.loader is None or not file.is_file():
            raise ImportError("there is no such file")
        sys.modules[key] = module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[key])
        except BaseException:
            del sys.modules[key]
            raise
    return sys.modules[key]


def _search(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
