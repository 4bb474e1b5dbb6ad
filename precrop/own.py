"""Code of the user's own by name: ``package.module:function``, or ``./file.py:function``.

Looking a name up runs the module. So it is only done with names that the user typed, or that stand
in a file which the user trusts (`precrop.trust`); functions that take names from files never do.
"""

import multiprocessing
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from precrop.errors import PrecropError, brief, hint, typed_reason

_SHOWN = 5
"""Names of a module that a message lists."""
UNGUARDED = 77
"""Exit status of a process that has `started_by_import`."""


def started_by_import() -> bool:
    """Whether a process of ours only imports the script that started the program, to begin with.

    What such a script does when it is imported, it does again in every process: where it calls us,
    it needs a guard, ``if __name__ == "__main__":``.
    """
    return getattr(multiprocessing.current_process(), "_inheriting", False)


def own_function(name: str, kind: str = "function") -> Callable[..., Any]:
    """What a user calls by a name; the module may lie in the current folder.

    Args:
        name: ``package.module:function`` or ``./file.py:function``.
        kind: what it is to be, for messages.

    Raises:
        PrecropError: the module or the function is missing, or the module raises.
    """
    module_name, _, function_name = name.rpartition(":")
    try:
        module = own_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a user's module raises
        raise PrecropError(f"cannot import {module_name}: {typed_reason(error)}") from error
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


def _is_of(value: object, module: ModuleType) -> bool:
    """Whether a function or class is a module's own."""
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def own_module(name: str) -> ModuleType:
    """A user's module, by its name or by its file; what lies beside it can be imported by it.

    Raises:
        Exception: whatever the module raises, and `ImportError` if there is no such module.
    """
    file = Path(name)
    if file.suffix != ".py":
        _search(Path.cwd())
        return import_module(name)
    file = file.resolve()
    _search(file.parent)
    known = sys.modules.get(file.stem)
    # A file may have the name of a module that is something else.
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


def failure(function: Callable[..., Any], error: BaseException) -> str:
    """Where a user's function has failed, as deep in its own file as it was, and why."""
    own = getattr(getattr(function, "__code__", None), "co_filename", None)
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
    return f"fails ({Path(frame.filename).name}, line {frame.lineno}): {typed_reason(error)}"


def _search(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
