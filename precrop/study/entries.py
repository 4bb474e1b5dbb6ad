"""YAML files as pydantic models; a mistake is reported in one line that says where it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from precrop.errors import PrecropError, brief, flops_hint, suggestion, within
from precrop.study.reading import read_yaml

T = TypeVar("T")
E = TypeVar("E", bound="Entry")
_LONGEST_TEXT = 300
_WORDS = {
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "too_short": "a list of {min_length} or more",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "{ge} or more",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "invalid-json-value": "a number, text, list or mapping",
}
"""What a value should be, by the type of pydantic's error."""
_NAMES = ("name", "model", "claim")
"""Keys whose value names an entry in a list."""


class Entry(BaseModel):
    """A mapping in the file: unknown keys are refused, and values are taken without conversion.

    Attributes:
        SHORT: the key whose value may be written as a plain text in place of the mapping.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    SHORT: ClassVar[str | None] = None

    @model_validator(mode="before")
    @classmethod
    def _mapping(cls, content: Any) -> Any:
        if cls.SHORT is not None and isinstance(content, str):
            return {cls.SHORT: content}
        return known_keys(content, [cls._key(name) for name in cls.model_fields])

    @classmethod
    def _key(cls, name: str) -> str:
        """Return the key that the file uses for a field."""
        return str(cls.model_fields[name].validation_alias or name)

    @property
    def written(self) -> set[str]:
        """The keys that the file has, whatever their values."""
        return {self._key(name) for name in self.model_fields_set}


def known_keys(content: Any, keys: Sequence[str]) -> Any:
    """Return ``content`` if it is a mapping with no other keys than these.

    Raises:
        PrecropError: it is not a mapping, or has another key.
    """
    if not isinstance(content, Mapping):
        raise PrecropError(f"{brief(content)} is not a mapping: write {', '.join(keys[:3])}: …")
    for key in content:
        if key not in keys:
            raise PrecropError(f"unknown key {key!r}; {suggestion(key, keys)}{flops_hint(key)}")
    return content


def _one_line(text: str) -> str:
    if not text.strip():
        raise PrecropError("it is empty")
    if len(text) > _LONGEST_TEXT or not text.isprintable():
        raise PrecropError(f"{brief(text)} is longer than a line")
    return text


def _once(items: list[T]) -> list[T]:
    found = set()
    for name in (getattr(item, "name", str(item)) for item in items):
        if name in found:
            raise PrecropError(f"{name} is written twice")
        found.add(name)
    return items


Line = Annotated[str, AfterValidator(_one_line)]
"""A text of one line."""
Several = Annotated[list[T], Field(min_length=1), AfterValidator(_once)]
"""A list of at least one item, without duplicates."""


def read_entry(kind: type[E], path: Path) -> E:
    """Read a file whose content is one entry.

    Raises:
        PrecropError: one line with the file, the place in it and what is wrong there.
    """
    content = read_yaml(path)
    with within(str(path)):
        return as_entry(kind, content)


def as_entry(kind: type[E], content: Any) -> E:
    """Validate some content as an entry of a kind.

    Raises:
        PrecropError: one line with the place in the content and what is wrong there.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise PrecropError(_in_a_line(error, content)) from error


def _in_a_line(error: ValidationError, content: Any) -> str:
    """Describe the first mistake; if a value fits none of several types, name all of these."""
    first, *others = error.errors(include_url=False)
    place = _place(first["loc"], content)
    if first["type"] == "missing":
        return f"{place}: {first['loc'][-1]} is missing".removeprefix(": ")
    if first["type"] == "value_error":
        return f"{place}: {first['ctx']['error']}".removeprefix(": ")
    same = [first, *(each for each in others if _place(each["loc"], content) == place)]
    words = [_WORDS.get(each["type"], each["msg"]).format_map(each.get("ctx", {})) for each in same]
    return f"{place} is {brief(first['input'])}, not {' or '.join(dict.fromkeys(words))}"


def _place(loc: Sequence[int | str], content: Any) -> str:
    """Return where in the content a mistake is: ``variants, SynFlow: plan.divisor``."""
    place = ""
    for step in loc:
        if isinstance(content, Mapping) and step in content:
            content = content[step]
            place += f".{step}" if place and not place.endswith(": ") else str(step)
        elif isinstance(content, list) and isinstance(step, int):
            content = content[step]
            names = [content.get(key) for key in _NAMES] if isinstance(content, Mapping) else []
            name = next((name for name in names if isinstance(name, str)), f"entry {step + 1}")
            place = f"{place.removesuffix(': ')}, {name}: "
        # Any other step names one of the types that a value may have.
    return place.removesuffix(": ")
