"""What a file may say about a network: a name in a fixed table, and plain builder arguments.

Checkpoints, plans, studies and exported weights name their network. Such a file may be untrusted,
so the name is looked up, never imported: a ``package.module:factory`` runs only if the user allows
it, and no argument may name another network, a file or an address.
"""

import ast
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from precrop.errors import PrecropError, brief
from precrop.own import is_ours, own_sources

Trust = bool | str
"""The factory that a file may have run, or True for any that it names, or False for none."""

_WORD = re.compile(r"[A-Za-z0-9_+-]{0,64}")
"""Texts that an argument may have: none of them is a path or an address."""
_CHOOSES = (
    "cfg checkpoint cls config custom dir file filter fn hub load model name path pretrained repo "
    "source state url weights"
)
"""Words in the names of arguments that, if their value is a text, may choose what is loaded."""
_LARGEST, _LARGEST_INSIDE = 2**20, 2**14
"""Limits: on a number and on the sum of all numbers, and on a number in a list."""
_REPEATS, _MOST_REPEATS = {"blocks", "depth", "depths", "layers", "repeats"}, 1000
"""Words in the names of arguments that say how often something repeats, and a limit on those."""
_LONGEST, _DEEPEST = 1000, 4


def runs_user_code(name: str) -> bool:
    """Whether a name is that of a factory outside precrop, torchvision and timm."""
    return ":" in name and not name.startswith("timm:")


def code_of(named: Mapping[str, Callable[..., Any] | None]) -> dict[str, str]:
    """Return digests by file (`precrop.sources`) of the user's code that these names stand for.

    precrop's own code is left out. The modules are executed, so the names must be trusted.

    Args:
        named: names, with the function that a plug-in registered under each, or None.

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
    """Refuse what a file says about a network unless it is harmless to build or the user trusts it.

    The message ends with ``say``, which tells users how to trust it.
    """
    ways = "give the network and its arguments yourself"
    if runs_user_code(name):
        check_code(name, trust, say)
        if trust is True:
            return  # True trusts the whole file, with its arguments
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
    """Refuse a ``package.module:function`` that a file names unless the user trusts it."""
    if trust is not True and trust != name:
        raise PrecropError(f"the file names code, {name}, which is not run unasked: {say}")


def is_finite(value: float) -> bool:
    """Whether a number, which may be an integer of any length, fits into a float."""
    return abs(value) <= sys.float_info.max


def literal(text: str) -> Any:
    """Return the value of a Python literal, such as ``[1, 2]``; of other texts, the text itself."""
    try:
        value = ast.literal_eval(text)
        repr(value)  # fails for a hexadecimal number of thousands of digits
        return value
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def _is_plain(name: str, value: Any, depth: int) -> bool:
    """Whether an argument can neither choose what is loaded nor, on its own, take much memory."""
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
    """Return the sum of all numbers in plain arguments, as many moderate ones take much, too."""
    if isinstance(value, Mapping):
        return _total(list(value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_total, value))
    return abs(value) if isinstance(value, (int, float)) else 0
