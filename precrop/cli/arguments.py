"""What commands share: arguments that several take, and how what is written there is read."""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from precrop.errors import PrecropError, printable
from precrop.trust import check_named

if TYPE_CHECKING:
    from rich.text import Text

    from precrop.plans.plan import Plan


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

Trusted = Annotated[
    bool,
    typer.Option("--trust", help="Run code of others that the file names as module:factory."),
]


_DIGITS, _SHOWN = 18, 60
"""Of the longest size that is looked at; characters of a text that a message repeats."""


def input_shape(text: str) -> tuple[int, ...]:
    """``3,224,224`` or ``3x224x224`` as a tuple."""
    parts = re.split(r"[x,]", text)
    numbers = [part.strip() for part in parts]
    if not all(part.isdecimal() and len(part) <= _DIGITS and int(part) > 0 for part in numbers):
        shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
        raise PrecropError(f"input shape {shown!r} is not like 3,224,224")
    return tuple(map(int, numbers))


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


def plain(text: str) -> "Text":
    """A cell of a table that shows a name from a file: it is no markup and moves no cursor."""
    from rich.text import Text

    return Text(printable(text))


def set_seed(seed: int | None) -> None:
    """Seed PyTorch, if a seed was said."""
    if seed is None:
        return
    import torch

    if not 0 <= seed < 2**64:
        raise PrecropError(f"--seed {seed} is no seed: write a number from 0 up, below 2**64")
    torch.manual_seed(seed)


def plan_source(
    plan: "Plan", model: str | None, pairs: Sequence[str] | None, trust: bool
) -> tuple[str, Mapping[str, Any]]:
    """The name and arguments of a plan's original.

    Args:
        plan: it names a model, which is the original unless another one is said.
        model: what ``--model`` says. A plan's own model is not built if that runs a user's code.
        pairs: what ``--arg`` says of that model.
        trust: whether ``--trust`` was said.
    """
    if model:
        return model, arguments(pairs)
    if pairs:
        raise PrecropError("--arg is for the builder of another original: name it with --model")
    source = plan.source or {}
    name, args = source.get("name"), source.get("args")
    if not isinstance(name, str) or not isinstance(args, Mapping):
        raise PrecropError("this plan does not say which model it is for: name it with --model")
    check_named(name, args, trust, f"say --model {name}, or --trust")
    return name, args
