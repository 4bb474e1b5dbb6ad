"""What a file may say of a network: a name in a fixed table, and plain arguments for its builder.

Checkpoints, plans, studies and exported weights name the network that they are of. Such a file may
come from a stranger, so what it says is looked up, never imported: a ``package.module:factory``
runs only if the user says so, and no argument may name another network, a file or an address.
"""

import ast
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from precrop.errors import PrecropError, brief
from precrop.own import is_ours, own_sources

Trust = bool | str
"""The one factory that a file may have run, or True for whichever it names, or False for none."""

_WORD = re.compile(r"[A-Za-z0-9_+-]{0,64}")
"""What an option may say in letters: nothing that is a path or an address."""
_CHOOSES = (
    "cfg checkpoint cls config custom dir file filter fn hub load model name path pretrained repo "
    "source state url weights"
)
"""Parts of the names of arguments whose value, if it is a text, may say what is loaded."""
_LARGEST, _LARGEST_INSIDE = 2**20, 2**14
"""Of a number, or of all together, and of one in a list."""
_REPEATS, _MOST_REPEATS = {"blocks", "depth", "depths", "layers", "repeats"}, 1000
"""Parts of the names of arguments that say how often a network repeats something."""
_LONGEST, _DEEPEST = 1000, 4


def runs_user_code(name: str) -> bool:
    """Whether a name means a factory in a module that is neither ours, torchvision's nor timm's."""
    return ":" in name and not name.startswith("timm:")


def code_of(named: Mapping[str, Callable[..., Any] | None]) -> dict[str, str]:
    """What the user's code that names mean is made of (`precrop.sources`); nothing of ours.

    Their modules are run, so the names are trusted.

    Args:
        named: by name what a plug-in registered under it, or None.

    Raises:
        PrecropError: a module cannot be imported.
    """
    modules: dict[str, None] = {}  # in order
    for name, function in named.items():
        if runs_user_code(name):
            modules[name.rpartition(":")[0]] = None
        elif function is not None and not is_ours(function):
            modules[function.__module__] = None
    return own_sources(modules)


def check_named(name: str, args: Mapping[str, Any], trust: Trust, say: str) -> None:
    """Refuse what a file says of a network, unless it is harmless to build or the user trusts it.

    The message ends with ``say``: how the user does.
    """
    ways = "give the network and its arguments yourself"
    if runs_user_code(name):
        check_code(name, trust, say)
        if trust is True:
            return  # the whole file, with its arguments
        ways += ", or trust the whole file"
    for argument, value in args.items():
        if not argument.isidentifier() or not _is_plain(argument, value, _DEEPEST):
            raise PrecropError(
                f"argument {argument} of {name} is not taken from a file: {brief(value)} is "
                f"no plain number, word or list of them: {ways}"
            )
    if _total(args) > _LARGEST:
        raise PrecropError(
            f"the arguments of {name} are not taken from a file: their numbers add up to more than "
            f"{_LARGEST:,}: {ways}"
        )


def check_code(name: str, trust: Trust, say: str) -> None:
    """Refuse ``package.module:function`` of a file, unless the user trusts it."""
    if trust is not True and trust != name:
        raise PrecropError(f"the file names code, {name}, which is not run unasked: {say}")


def is_finite(value: float) -> bool:
    """Whether a float can hold a number, which may be an integer of any length."""
    return abs(value) <= sys.float_info.max


def literal(text: str) -> Any:
    """The value that a text writes in Python's way, such as ``[1, 2]``; else the text itself."""
    try:
        value = ast.literal_eval(text)
        repr(value)  # which a hexadecimal number of thousands of digits has not
        return value
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def _is_plain(name: str, value: Any, depth: int) -> bool:
    """Whether a value cannot say what is loaded, nor how much memory is taken by itself."""
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, (int, float)):
        parts = {*name.split("_")}
        if not parts.isdisjoint(_REPEATS):
            return abs(value) <= _MOST_REPEATS
        return abs(value) <= (_LARGEST if depth == _DEEPEST else _LARGEST_INSIDE)
    if isinstance(value, str):
        chooses = not {*_CHOOSES.split()}.isdisjoint(name.split("_"))
        return _WORD.fullmatch(value) is not None and not chooses
    if not isinstance(value, (list, tuple, Mapping)) or len(value) > _LONGEST or not depth:
        return False
    if isinstance(value, Mapping):
        return all(
            isinstance(key, str) and key.isidentifier() and _is_plain(key, item, depth - 1)
            for key, item in value.items()
        )
    return all(_is_plain(name, item, depth - 1) for item in value)


def _total(value: Any) -> float:
    """The sum of all numbers in plain arguments: lists of them multiply what each asks for."""
    if isinstance(value, Mapping):
        return _total(list(value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_total, value))
    return abs(value) if isinstance(value, (int, float)) else 0
