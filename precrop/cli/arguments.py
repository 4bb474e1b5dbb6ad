"""How what is written on a command line is read."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from precrop.errors import PrecropError, brief, check_once, check_seed
from precrop.progress import step
from precrop.trust import literal

if TYPE_CHECKING:
    from precrop.training.data import ImageData

_DIGITS = 18
"""Of the longest size that is looked at."""


def input_shape(text: str) -> tuple[int, ...]:
    """``3,224,224`` or ``3x224x224`` as a tuple."""
    numbers = [part.strip() for part in re.split(r"[x,]", text)]
    if not all(part.isdecimal() and len(part) <= _DIGITS and int(part) > 0 for part in numbers):
        raise PrecropError(f"input shape {brief(text)} is not like 3,224,224")
    return tuple(map(int, numbers))


def shapes(texts: Sequence[str] | None) -> Any:
    """The shape of one input, or those of several as a tuple; None if it is not given."""
    read = [input_shape(text) for text in texts or ()]
    return read[0] if len(read) == 1 else tuple(read) or None


def arguments(pairs: Sequence[str] | None) -> dict[str, Any]:
    """``name=value`` pairs as keyword arguments; a value that is not a literal is a string."""
    found: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise PrecropError(f"argument {pair!r} is not like name=value")
        check_once(name, value, found)
        found[name] = literal(value)
    return found


def set_seed(seed: int | None) -> None:
    """Seed PyTorch, if a seed was said."""
    if seed is None:
        return
    import torch

    check_seed(seed, "--seed")
    torch.manual_seed(seed)


def file_stem(model: str) -> str:
    """A model's name as the first part of a file's."""
    return re.sub(r"[^\w.-]", "-", model)


def load_images(data: str, shape: Sequence[Any] | None) -> "ImageData":
    """The images, in the shape that is asked for."""
    from precrop.training.data import MixedSizes, load_data, load_shaped

    with step(f"reading the images of {data}"):
        try:
            return load_data(data) if shape is None else load_shaped(data, shape)
        except MixedSizes as error:
            raise MixedSizes(error.found, "--input-shape 3,224,224") from error
