"""Errors that a user can cause. Each message is one line that says what to do."""

import difflib
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import index
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    from torch import Tensor

_LONGEST, _SHORT, _BRIEF = 2000, 300, 60
"""Limits on the characters of a message, of a reason and of a value in it."""

MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What Python raises if a value from outside is not of the expected kind or size."""


class PrecropError(ValueError):
    """An error in the request: an unknown name, a wrong shape, a broken file."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class BudgetError(PrecropError):
    """A budget that makes no sense (zero, negative, NaN) or cannot be met.

    ``least`` is the smallest budget that can be met, in its units, if widths are to be chosen.
    """

    def __init__(self, message: str, least: int | None = None) -> None:
        super().__init__(message)
        self.least = least


class PlanError(PrecropError):
    """A broken plan file, or a plan for another network."""


def reason(error: BaseException) -> str:
    """Return what went wrong in a short line: the system's words if any, else the error's text."""
    text = str(getattr(error, "strerror", None) or error)[: 4 * _SHORT]
    return " ".join(text.split())[:_SHORT] or type(error).__name__


def typed_reason(error: BaseException) -> str:
    """Return `reason` after the error's type, without which others' messages are often unclear."""
    name, text = type(error).__name__, reason(error)
    return name if text == name else f"{name}: {text}"


@contextmanager
def errors_as(
    failure: str,
    *kinds: type[BaseException],
    told: Callable[[BaseException], str] = reason,
) -> Iterator[None]:
    """Turn errors of these kinds into one line: ``cannot read x.json: Permission denied``.

    A `PrecropError`, which is such a line already, passes unchanged.

    Args:
        failure: the first words of the line, up to the reason.
        kinds: classes of errors; `Exception` if other people's code may raise anything.
        told: returns the reason.

    Raises:
        PrecropError: the block raised an error of these kinds.
    """
    try:
        yield
    except PrecropError:
        raise
    except kinds as error:
        raise PrecropError(f"{failure}: {told(error)}") from error


@contextmanager
def within(place: str) -> Iterator[None]:
    """Put the place before the messages of precrop's errors: ``study.yaml: seeds is …``."""
    try:
        yield
    except PrecropError as error:
        raise type(error)(f"{place}: {error}") from error


@contextmanager
def needs(what: str, package: str) -> Iterator[None]:
    """Turn failing imports into one line: ``a plot needs matplotlib, which is not …``.

    ``what`` is the line up to the library's name, ``package`` is what pip is to install.
    """
    try:
        yield
    except ImportError as error:
        library = (error.name or str(error)).partition(".")[0]
        raise PrecropError(
            f"{what} {library}, which is not installed: pip install '{package}'"
        ) from error


def flops_hint(text: object) -> str:
    """Return a hint, as the end of a message, if a text is about FLOPs or MACs; else nothing."""
    counts = isinstance(text, str) and re.search("flop|mac", text, re.IGNORECASE)
    hint = "; MACs are half of FLOPs: macs='1G' (in a shell --macs 1G) stands for 2 GFLOPs"
    return hint if counts else ""


def one_line(text: str) -> str:
    """Return a message as one line of bounded length that is safe to show on a terminal."""
    line = printable(" ".join(text[: 4 * _LONGEST].split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def printable(text: str) -> str:
    """Return a text with control characters escaped, so that a terminal only shows them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def brief(value: object) -> str:
    """Return a value as messages show it, cut if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 1]}…"


def check_known(what: str, name: object, known: Collection[object]) -> None:
    """Refuse an unknown name; ``what`` is how the message shows it, such as ``rule='sqrt'``."""
    if not isinstance(name, Hashable) or name not in known:
        raise PrecropError(f"{what} is unknown: choose from {', '.join(map(str, known))}")


def check_kind(what: str, value: object, kind: type | tuple[type, ...], words: str) -> None:
    """Refuse a value of the argument ``what`` if it is not of the kind that ``words`` describe."""
    if not isinstance(value, kind):
        raise PrecropError(f"{what}={brief(value)} is not {words}")


def check_once(name: str, value: object, given: Mapping[str, object]) -> None:
    """Refuse a second value for a name."""
    if name in given:
        raise PrecropError(f"{name} is given twice: {given[name]} and {value}")


def check_values(what: str, tensor: "Tensor") -> None:
    """Refuse a tensor without values; ``what`` is how the message shows it."""
    if tensor.is_meta:
        raise PrecropError(f"{what} has no values (device 'meta'): initialize the network first")


def check_seed(seed: SupportsIndex, word: str = "seed") -> None:
    """Refuse what no generator takes as a seed; ``word`` is what the message calls it."""
    if not isinstance(seed, SupportsIndex) or not 0 <= index(seed) < 2**64:
        raise PrecropError(
            f"{word} {brief(seed)} is not a seed: write a whole number from 0 up, below 2**64"
        )


def hint(name: str, known: Iterable[str]) -> str:
    """Return known names close to an unknown one, as the end of a message; empty if none are."""
    close = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def suggestion(name: object, known: Iterable[str]) -> str:
    """Return which known name was probably meant by an unknown one, or else all known names."""
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    return f"did you mean {close[0]}?" if close else f"choose from {', '.join(names)}"
