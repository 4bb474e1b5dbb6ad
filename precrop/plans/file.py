"""Plans as text: dataclasses as JSON with a digest, read back without running any code."""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from precrop.errors import MALFORMED, PlanError, brief
from precrop.files import is_sound

T = TypeVar("T")


def to_text(value: Any, schema: int) -> str:
    """Return a dataclass as JSON, one line per entry; equal values give equal text.

    Raises:
        PlanError: the value holds something that JSON cannot store.
    """
    content = {"schema": schema, **_encode(value)}
    return _layout({"digest": digest(content), **content})


def from_text(text: str, kind: type[T], schema: int) -> T:
    """Read what `to_text` wrote, without running any code from it.

    Raises:
        PlanError: the text is truncated, altered, or of another schema version.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except MALFORMED as error:
        raise PlanError(f"this is not a plan file, or a truncated one: {error}") from error
    if not isinstance(content, dict) or "schema" not in content:
        raise PlanError("this is not a plan file: it has no schema version")
    if content["schema"] != schema:
        found = brief(content["schema"])
        raise PlanError(f"this plan has schema version {found}; precrop reads {schema}")
    if content.pop("digest", None) != digest(content):
        raise PlanError("this plan was altered after it was written: make it again")
    del content["schema"]
    read = _decode(content, kind, "plan")
    assert isinstance(read, kind)
    return read


def _encode(value: Any) -> Any:
    """Return a value in JSON's types: tuples as arrays, and lists marked to tell them apart."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        optional = {f.name for f in dataclasses.fields(value) if _is_optional(f)}
        return {n: _encode(item) for n, item in fields.items() if n not in optional or item}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        if set(value) != {"list"}:
            return {key: _encode(item) for key, item in value.items()}
    elif isinstance(value, tuple):
        return [_encode(item) for item in value]
    elif isinstance(value, list):
        return {"list": [_encode(item) for item in value]}
    raise PlanError(f"a plan cannot store {brief(value)} ({type(value).__name__})")


def _is_optional(field: "dataclasses.Field[Any]") -> bool:
    """Whether a file may lack a field, because the file may be older than the field."""
    return field.default_factory is not dataclasses.MISSING or field.default == ()


def _free(value: Any) -> Any:
    """Decode a value of any type: the inverse of `_encode`."""
    if isinstance(value, list):
        return tuple(_free(item) for item in value)
    if isinstance(value, dict):
        if set(value) == {"list"} and isinstance(value["list"], list):
            return [_free(item) for item in value["list"]]
        return {key: _free(item) for key, item in value.items()}
    return value


def _decode(value: Any, hint: Any, where: str) -> Any:
    """Decode a value of type ``hint``, the inverse of `_encode`; raise `PlanError` for others."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return _free(value)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        needed = {f.name for f in dataclasses.fields(hint) if not _is_optional(f)}
        if isinstance(value, dict) and needed <= set(value) <= set(hints):
            assert isinstance(hint, type)
            return hint(**{k: _decode(value[k], hints[k], f"{where}.{k}") for k in value})
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin is types.UnionType:
        for argument in arguments:
            try:
                return _decode(value, argument, where)
            except PlanError:
                continue
    elif origin is tuple and isinstance(value, list):
        items = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        if len(items) == len(value):
            return tuple(_decode(v, t, where) for v, t in zip(value, items, strict=True))
    elif origin is Mapping and isinstance(value, dict):
        return {k: _decode(v, arguments[1], f"{where}.{k}") for k, v in value.items()}
    elif (type(value) is hint or (hint is float and type(value) is int)) and is_sound(value):
        return value
    raise PlanError(f"{where} of this plan is broken: {brief(value)}")


def digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the content, independent of spacing and of the order of keys."""
    return hashlib.sha256(_dump(content).encode()).hexdigest()


def _dump(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except MALFORMED as error:
        raise PlanError(f"this does not fit in a plan: {error}") from error


def _layout(content: Mapping[str, Any]) -> str:
    """Return JSON with one line per layer, tensor and attribute, which is easy to read and diff."""
    fields = []
    for name, value in content.items():
        if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
            lines = ",\n  ".join(_dump(item) for item in value)
            text = f"[\n  {lines}\n ]"
        elif isinstance(value, dict) and value:
            lines = ",\n  ".join(f"{_dump(key)}: {_dump(value[key])}" for key in sorted(value))
            text = f"{{\n  {lines}\n }}"
        else:
            text = _dump(value)
        fields.append(f" {_dump(name)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")
