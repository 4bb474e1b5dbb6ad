"""Mappings of a YAML file whose keys are all known; a mistake is one line that says where."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from precrop.errors import PrecropError, suggestion

T = TypeVar("T")
_LONGEST_TEXT = 300


@contextmanager
def within(place: str) -> Iterator[None]:
    """Say where in the file a mistake is."""
    try:
        yield
    except PrecropError as error:
        raise PrecropError(f"{place}: {error}") from error


@dataclass(frozen=True)
class Entry:
    """A mapping in the file whose keys are all known."""

    content: Mapping[str, Any]

    @classmethod
    def of(cls, content: Any, keys: Sequence[str], what: str) -> "Entry":
        """A mapping of these keys and no others.

        Raises:
            PrecropError: it is none, or has another key.
        """
        if not isinstance(content, Mapping):
            raise PrecropError(f"{brief(content)} is not {what}: write {', '.join(keys[:3])}: …")
        for key in content:
            if key not in keys:
                raise PrecropError(f"{what} has no {key!r}; {suggestion(key, keys)}")
        return cls(content)

    def needed(self, key: str) -> Any:
        """A value that must be there."""
        if self.content.get(key) is None:
            raise PrecropError(f"{key} is missing")
        return self.content[key]

    def text(self, key: str) -> str:
        """A text that must be there, of one line unless it is a description."""
        value = self.needed(key)
        if not isinstance(value, str) or not value.strip():
            raise PrecropError(f"{key} is {brief(value)}, not a text")
        if key != "description" and (len(value) > _LONGEST_TEXT or not value.isprintable()):
            raise PrecropError(f"{key} is {brief(value)}, longer than a line")
        return value

    def items(self, key: str) -> list[Any]:
        """A list that is not empty."""
        value = self.needed(key)
        if not isinstance(value, list):
            raise PrecropError(f"{key} is {brief(value)}, not a list")
        if not value:
            raise PrecropError(f"{key} is an empty list")
        return value

    def each(self, key: str, read: Callable[[Any], T]) -> tuple[T, ...]:
        """Every item of a list, read; a mistake is said with the item's name or number."""
        found = []
        for number, item in enumerate(self.items(key), start=1):
            name = item.get("name", item.get("model")) if isinstance(item, Mapping) else None
            with within(f"{key}, {name or f'entry {number}'}"):
                found.append(read(item))
        return tuple(found)


def brief(value: Any) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
