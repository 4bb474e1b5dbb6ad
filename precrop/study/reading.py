"""YAML files that may come from a stranger: plain values only, each key written once."""

import math
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from precrop.errors import PrecropError, errors_as
from precrop.files import open_plain

_MOST = 1 << 18
"""Most bytes of a file; studies have a few thousand."""
_LONGEST, _LARGEST = 10_000, 2**63


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML without what studies do not need.

    Aliases are refused, as nested ones can fill any memory; so are keys that are written twice, of
    which YAML keeps the last one, and tags, which make values of other types.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node; refuse aliases and tags."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise _refused(f"*{event.anchor}: write it out, aliases are not taken", event)
        tag = getattr(self.peek_event(), "tag", None)
        if tag is not None:
            raise _refused(f"the tag {tag!r}: write the value without it", self.peek_event())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping; refuse keys that are no plain values, or are written twice."""
        found = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a key is a list or a mapping, not a name", key)
            if key.value in found:
                raise _refused(f"{key.value!r} is written twice", key)
            found.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


# Merging keys would hide that one is written twice.
_UNTOLD = [f"tag:yaml.org,2002:{name}" for name in ("merge", "value")]
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in _UNTOLD]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _refused(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


def read_yaml(path: Path) -> Any:
    """Read a YAML file: lists, mappings, texts, finite numbers, dates.

    Raises:
        PrecropError: it cannot be read, or holds something else.
    """
    with errors_as(f"cannot read {path}", OSError), open_plain(path) as file:
        raw = file.read(_MOST + 1)
    if len(raw) > _MOST:
        raise PrecropError(f"{path} is larger than any study: {_MOST >> 10} kB is the most")
    try:
        content = yaml.load(raw.decode("utf-8"), _Loader)
        problem = _odd(content)
    except RecursionError as error:
        raise PrecropError(f"{path} is nested too deeply") from error
    # Numbers that Python cannot represent raise arithmetic errors.
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:
        found = str(error).replace('in "<unicode string>", line', "in line")
        raise PrecropError(f"{path} is not YAML: {found}") from error
    if problem is not None:
        raise PrecropError(f"{path} holds {problem}")
    return content


def _odd(value: Any) -> str | None:
    """Describe a value that is too large or not finite, or a text that may control a terminal."""
    if isinstance(value, dict):
        return next((odd for pair in value.items() for each in pair if (odd := _odd(each))), None)
    if isinstance(value, list):
        return next((odd for each in value if (odd := _odd(each))), None)
    if isinstance(value, str):
        if len(value) > _LONGEST:
            return f"a text of {len(value):,} characters, more than {_LONGEST:,}"
        return None if "".join(value.split()).isprintable() else f"the control characters {value!r}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}, which is not a number"
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return "a number of more than 64 bits"
    return None
