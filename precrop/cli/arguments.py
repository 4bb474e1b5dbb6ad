"""Parses the values of arguments and options on the command line."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from precrop.errors import PrecropError, brief, check_once, check_seed
from precrop.progress import step
from precrop.trust import literal

if TYPE_CHECKING:
    from precrop.training.data import ImageData

_DIGITS = 18
"""Most digits of a size in an input shape."""


def input_shape(text: str) -> tuple[int, ...]:
    """Return ``3,224,224`` or ``3x224x224`` as a tuple."""
    numbers = [part.strip() for part in re.split(r"[x,]", text)]
    if not all(part.isdecimal() and len(part) <= _DIGITS and int(part) > 0 for part in numbers):
        raise PrecropError(f"input shape {brief(text)} is not like 3,224,224")
    return tuple(map(int, numbers))


def shapes(texts: Sequence[str] | None) -> Any:
    """Return the shape of one input, or a tuple of shapes of several; None if none is given."""
    read = [input_shape(text) for text in texts or ()]
    return read[0] if len(read) == 1 else tuple(read) or None


def arguments(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Return ``name=value`` pairs as keyword arguments; values that are no literals are strings."""
    found: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise PrecropError(f"argument {pair!r} is not like name=value")
        check_once(name, value, found)
        found[name] = literal(value)
    return found


def set_seed(seed: int | None) -> None:
    """Seed PyTorch, if a seed is given."""
    if seed is None:
        return
    import torch

    check_seed(seed, "--seed")
    torch.manual_seed(seed)


def file_stem(model: str) -> str:
    """Return a model's name as the stem of a file name."""
    return re.sub(r"[^\w.-]", "-", model)


def load_images(data: str, shape: Sequence[Any] | None) -> "ImageData":
    """Load the images, in the given shape unless it is None."""
    from precrop.training.data import MixedSizes, load_data, load_shaped

    with step(f"reading the images of {data}"):
        try:
            return load_data(data) if shape is None else load_shaped(data, shape)
        except MixedSizes as error:
            raise MixedSizes(error.found, "--input-shape 3,224,224") from error
