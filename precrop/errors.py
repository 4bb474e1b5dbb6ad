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
"""Characters of a message, of a reason and of a value in it, which may be of any length."""

MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What Python raises where a value from outside is not of the kind or size that is expected."""


class PrecropError(ValueError):
    """Something in the request is wrong: an unknown name, a wrong shape, a broken file."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class BudgetError(PrecropError):
    """A budget that is senseless (zero, negative, NaN) or that cannot be met.

    ``least`` is the smallest that can be, in the budget's units, where widths are to be chosen.
    """

    def __init__(self, message: str, least: int | None = None) -> None:
        super().__init__(message)
        self.least = least


class PlanError(PrecropError):
    """A plan file that is broken, or a plan for another network."""


def reason(error: BaseException) -> str:
    """What went wrong in a short line: as the system says it, else the error's text."""
    text = str(getattr(error, "strerror", None) or error)[: 4 * _SHORT]
    return " ".join(text.split())[:_SHORT] or type(error).__name__


def typed_reason(error: BaseException) -> str:
    """`reason` after the error's type, without which other people's messages are often unclear."""
    name, text = type(error).__name__, reason(error)
    return name if text == name else f"{name}: {text}"


@contextmanager
def errors_as(
    failure: str,
    *kinds: type[BaseException],
    told: Callable[[BaseException], str] = reason,
) -> Iterator[None]:
    """Errors of these kinds within it, in one line: ``cannot read x.json: Permission denied``.

    An error that is such a line already passes unchanged.

    Args:
        failure: the first words of the line, up to the reason.
        kinds: classes of errors; `Exception` where other people's code may raise anything.
        told: gives the reason.

    Raises:
        PrecropError: an error of these kinds was raised within it.
    """
    try:
        yield
    except PrecropError:
        raise
    except kinds as error:
        raise PrecropError(f"{failure}: {told(error)}") from error


@contextmanager
def within(place: str) -> Iterator[None]:
    """Errors of ours within it begin with where they are: ``study.yaml: seeds is …``."""
    try:
        yield
    except PrecropError as error:
        raise type(error)(f"{place}: {error}") from error


@contextmanager
def needs(what: str, package: str) -> Iterator[None]:
    """What imports within it lack, in one line: ``a plot needs matplotlib, which is not …``.

    ``what`` is the line up to the library's name, ``package`` what pip installs.
    """
    try:
        yield
    except ImportError as error:
        library = (error.name or str(error)).partition(".")[0]
        raise PrecropError(
            f"{what} {library}, which is not installed: pip install '{package}'"
        ) from error


def flops_hint(text: object) -> str:
    """The end of a message, for those who count FLOPs where we count MACs; empty for others."""
    counts = isinstance(text, str) and re.search("flop|mac", text, re.IGNORECASE)
    hint = "; MACs are half of FLOPs: macs='1G' (in a shell --macs 1G) stands for 2 GFLOPs"
    return hint if counts else ""


def one_line(text: str) -> str:
    """A message as one line of bounded length that does nothing to a terminal."""
    line = printable(" ".join(text[: 4 * _LONGEST].split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def printable(text: str) -> str:
    """A text whose control characters are written out, so that a terminal only shows them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def brief(value: object) -> str:
    """A value as a message shows it."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 1]}…"


def check_known(what: str, name: object, known: Collection[object]) -> None:
    """Refuse an unknown name; ``what`` is how a message shows it, such as ``rule='sqrt'``."""
    if not isinstance(name, Hashable) or name not in known:
        raise PrecropError(f"{what} is unknown: choose from {', '.join(map(str, known))}")


def check_kind(what: str, value: object, kind: type | tuple[type, ...], words: str) -> None:
    """Refuse the argument ``what`` if it is of another kind, which ``words`` describe."""
    if not isinstance(value, kind):
        raise PrecropError(f"{what}={brief(value)} is not {words}")


def check_once(name: str, value: object, given: Mapping[str, object]) -> None:
    """Refuse a value for a name that was given one before."""
    if name in given:
        raise PrecropError(f"{name} is given twice: {given[name]} and {value}")


def check_values(what: str, tensor: "Tensor") -> None:
    """Refuse a tensor without values; ``what`` is how a message shows it."""
    if tensor.is_meta:
        raise PrecropError(f"{what} has no values (device 'meta'): initialize the network first")


def check_seed(seed: SupportsIndex, word: str = "seed") -> None:
    """Refuse a number that no generator takes as a seed; ``word`` is what a message calls it."""
    if not isinstance(seed, SupportsIndex) or not 0 <= index(seed) < 2**64:
        raise PrecropError(
            f"{word} {brief(seed)} is not a seed: write a whole number from 0 up, below 2**64"
        )


def hint(name: str, known: Iterable[str]) -> str:
    """The known names close to an unknown one, as the end of a message; empty if there are none."""
    close = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def suggestion(name: object, known: Iterable[str]) -> str:
    """What may have been meant by an unknown name."""
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    return f"did you mean {close[0]}?" if close else f"choose from {', '.join(names)}"
