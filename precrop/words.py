"""What commands share: arguments that several take, and how what is written there is read."""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from precrop.errors import PrecropError

if TYPE_CHECKING:
    from precrop.plans import Plan


ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="resnet50 (torchvision), resnet20 (ours), timm:NAME, or module:factory",
    ),
]
Args = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="An argument for the model's builder; repeatable."),
]


def input_shape(text: str) -> tuple[int, ...]:
    """``3,224,224`` or ``3x224x224`` as a tuple."""
    parts = re.split(r"[x,]", text)
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise PrecropError(f"input shape {text!r} is not like 3,224,224")
    return tuple(int(part) for part in parts)


def arguments(pairs: Sequence[str] | None) -> dict[str, Any]:
    """``name=value`` pairs as keyword arguments; a value that is no Python literal is a string."""
    found: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise PrecropError(f"argument {pair!r} is not like name=value")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def plan_source(plan: "Plan") -> tuple[str, Mapping[str, Any]]:
    """The name and arguments of a plan's own model, unless building it would run a user's code."""
    from precrop.zoo import runs_user_code

    source = plan.source or {}
    name, args = source.get("name"), source.get("args")
    if not isinstance(name, str) or not isinstance(args, Mapping):
        raise PrecropError("this plan does not say which model it is for: name it with --model")
    if runs_user_code(name):
        raise PrecropError(f"this plan is for {name}, which is not run unasked: say --model {name}")
    return name, args
