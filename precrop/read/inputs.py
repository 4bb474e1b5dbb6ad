"""The network's inputs, as users give them: shapes without the batch axis, or examples."""

import copy
import dataclasses
import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from precrop.errors import PrecropError, brief, errors_as
from precrop.modules.hooks import unwrapped
from precrop.modules.names import parameters_of
from precrop.read.examples import LARGEST, Example, leaves, mapped, recorded, unrecorded

_EXAMPLE = "example"
"""Key of a recorded example; no shape is a mapping."""
LARGEST_BATCH = 2**20
"""The largest batch of one pass; with more inputs, sizes would be too large to count."""


def _is_shape(value: Any) -> bool:
    if not isinstance(value, Sequence) or not value:
        return False
    return all(isinstance(n, Integral) and not isinstance(n, bool) for n in value)


def _of_shape(shape: Any) -> Example:
    """Return an example that is filled with ones of the network's own floating type."""
    if not _is_shape(shape) or any(n < 1 for n in shape) or prod(map(int, shape)) > LARGEST:
        raise _no_shape(shape)
    return Example((1, *map(int, shape)), None, 0, 1)


def _no_shape(value: Any) -> PrecropError:
    return PrecropError(
        f"input_shape {brief(value)} is not a shape: give positive integers without the batch, "
        "such as (3, 224, 224), or a list or dict of such shapes for several inputs; "
        "example_inputs= takes tensors, numbers and whatever else the network does"
    )


def _shapes(value: Any, whole: Any) -> Any:
    """Return examples for shapes in lists and dicts; an empty shape is one number per input."""
    if isinstance(value, Mapping) and value:
        return {str(name): _shapes(one, whole) for name, one in value.items()}
    if isinstance(value, tuple) and not value:
        return Example((1,), None, 0, 1)
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return _of_shape(value) if _is_shape(value) else [_shapes(one, whole) for one in value]
    raise _no_shape(whole)


def given(
    model: Any, input_shape: Any, example_inputs: Any = None, example_kwargs: Any = None
) -> "Inputs":
    """Return the inputs that a caller gave as shapes or as examples.

    Raises:
        PrecropError: these are not inputs, or ``model`` is not a network.
    """
    network = unwrapped(model)
    if isinstance(input_shape, Inputs):
        return input_shape
    return Inputs(input_shape, example_inputs, example_kwargs, network)


class Inputs:
    """Shapes of one or several inputs without the batch axis, or example inputs.

    A tuple of integers is one input; a list of shapes holds positional inputs, a dict inputs by
    name. Lists and dicts inside these are passed to the network as such. Tensors, and anything with
    tensors in it, are examples: a tuple holds positional arguments, a mapping keyword arguments if
    ``forward`` has such parameters, and anything else is one argument.
    """

    def __init__(
        self,
        shape: Any = None,
        example: Any = None,
        named: Mapping[str, Any] | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self.args: list[Any] = []
        self.kwargs: dict[str, Any] = {}
        self.examples = False
        if isinstance(shape, Mapping) and set(shape) == {_EXAMPLE}:
            self._read(shape[_EXAMPLE])
            return
        if example is None and named is None and _has_tensors(shape):
            shape, example = None, shape
        if example is not None or named is not None:
            if shape is not None:
                other = "example_kwargs=" if example is None else "example_inputs="
                raise PrecropError(f"give input_shape or {other}, not both")
            self._take(example, named or {}, model)
            return
        if isinstance(shape, Mapping) and shape:
            self.kwargs = _shapes(shape, shape)
        elif _is_shape(shape) or not isinstance(shape, Sequence) or isinstance(shape, str):
            self.args = [_of_shape(shape)]
        elif not shape:
            raise _no_shape(shape)
        else:
            self.args = [_shapes(one, shape) for one in shape]
        if self.kwargs and model is not None and not _takes(model, (), self.kwargs):
            _check_names(model, self.kwargs)
            self.args, self.kwargs = [self.kwargs], {}

    def _take(self, example: Any, named: Mapping[str, Any], model: nn.Module | None) -> None:
        """Set the arguments from examples, positional and by name."""
        if not isinstance(named, Mapping):
            raise PrecropError(
                f"example_kwargs={brief(named)} is not a mapping from names to inputs"
            )
        self.examples = True
        args: Any = () if example is None else (example,)
        if type(example) is tuple:
            args = example
        elif isinstance(example, Mapping) and all(isinstance(name, str) for name in example):
            by_name = {**example, **named}
            if model is None or _takes(model, (), by_name):
                args, named = (), by_name
        elif type(example) is list and model is not None and not _takes(model, args, named):
            args = tuple(example) if _takes(model, example, named) else args
        self.args = [mapped(one, _example) for one in args]
        self.kwargs = {name: mapped(one, _example) for name, one in named.items()}
        first = (e.shape[0] for e in self._tensors() if e.shape and e.shape[0])
        self._set_batch(0, next(first, 0))

    def _tensors(self) -> list[Example]:
        return [e for e in leaves([self.args, self.kwargs]) if isinstance(e, Example)]

    def _set_batch(self, axis: int, size: int) -> None:
        """Make ``axis`` the batch axis of examples in which it has this size; 0 means of none."""

        def choose(leaf: Any) -> Any:
            if not isinstance(leaf, Example):
                return leaf
            batched = len(leaf.shape) > axis and leaf.shape[axis] == size > 0
            return dataclasses.replace(leaf, batch=axis if batched else None)

        self.args, self.kwargs = mapped(self.args, choose), mapped(self.kwargs, choose)

    def batched(self) -> Iterator["Inputs"]:
        """Yield these inputs with each candidate for the batch axis, and at last without one."""
        if not self.examples or not any(e.shape for e in self._tensors()):
            yield self
            return
        for axis in (0, 1):
            sizes = [e.shape[axis] for e in self._tensors() if len(e.shape) > axis]
            for size in dict.fromkeys(size for size in sizes if size):
                yield self._with_batch(axis, size)
        yield self._with_batch(0, 0)

    def _with_batch(self, axis: int, size: int) -> "Inputs":
        made = copy.copy(self)
        made._set_batch(axis, size)
        return made

    @property
    def has_batch(self) -> bool:
        """Whether a batch of any size can be made."""
        return not self.examples or any(e.batch is not None for e in self._tensors())

    @property
    def axes(self) -> list[int | None]:
        """The batch axis of every tensor, in order; None for a tensor without one."""
        return [example.batch for example in self._tensors()]

    @property
    def spec(self) -> Any:
        """The shapes, or the record of the examples, as written to a plan file."""
        if self.examples:
            args = tuple(map(recorded, self.args))
            named = {name: recorded(one) for name, one in self.kwargs.items()}
            return {_EXAMPLE: {"args": args, "kwargs": named}}
        shapes = mapped(self.kwargs or self.args, lambda example: [*example.shape[1:]])
        alone = not self.kwargs and len(shapes) == 1 and isinstance(self.args[0], Example)
        return shapes[0] if alone and shapes[0] else shapes

    def _read(self, spec: Any) -> None:
        """Set the arguments from a recorded `spec`."""
        try:
            args, named = spec["args"], spec["kwargs"]
            self.args = [unrecorded(one) for one in args]
            self.kwargs = {str(name): unrecorded(one) for name, one in named.items()}
        except (LookupError, TypeError, AttributeError, RecursionError) as error:
            raise PrecropError(f"this is not a record of inputs: {brief(spec)}") from error
        self.examples = True

    @property
    def text(self) -> str:
        """The shapes, as a message shows them."""
        shapes = [e.shape if self.examples else e.shape[1:] for e in self._tensors()]
        return ", ".join("x".join(map(str, shape)) or "a number" for shape in shapes) or "no tensor"

    def make(self, batch: int, model: nn.Module, device: str) -> tuple[list[Any], dict[str, Any]]:
        """Make the arguments of a pass: examples, or ones of the network's own floating type.

        Raises:
            PrecropError: there is no memory for them.
        """
        dtype = floating_type(parameters_of(model).values())

        def made(leaf: Any) -> Any:
            is_example = isinstance(leaf, Example)
            return leaf.make(batch, device, dtype) if is_example else copy.copy(leaf)

        try:
            args: list[Any] = mapped(self.args, made)
            return args, mapped(self.kwargs, made)
        except RuntimeError as error:  # only the allocator can fail here
            raise PrecropError(f"no memory for inputs of {self.text} at batch {batch}") from error

    def without_first(self) -> "Inputs | None":
        """Return the shape without its first size, perhaps a batch's; None for several inputs."""
        shape = () if self.examples or self.kwargs or len(self.args) != 1 else self.spec
        return Inputs(shape[1:]) if len(shape) > 1 and _is_shape(shape) else None


def floating_type(parameters: Iterable[Tensor]) -> torch.dtype:
    """Return the floating type of most elements of the parameters; float32 if there are none."""
    elements = Counter[torch.dtype]()
    for parameter in parameters:
        if parameter.is_floating_point():
            elements[parameter.dtype] += parameter.numel()
    return max(elements, key=elements.__getitem__, default=torch.float32)


def _has_tensors(value: Any) -> bool:
    if isinstance(value, str | int | float) or value is None or _is_shape(value):
        return False
    return any(map(_is_tensor, leaves(value)))


def _is_tensor(value: Any) -> bool:
    """Whether a value is a tensor or an object of NumPy's, such as an array."""
    return isinstance(value, Tensor) or type(value).__module__ == "numpy"


def _example(leaf: Any) -> Any:
    """Return an example of a tensor or an array; return a copy of anything else."""
    if isinstance(leaf, Tensor) or (_is_tensor(leaf) and hasattr(leaf, "shape")):
        return Example.of(torch.as_tensor(leaf))
    with errors_as(f"an input of type {type(leaf).__name__} cannot be copied", Exception):
        return copy.copy(leaf)


def _check_names(model: nn.Module, given: Mapping[str, Any]) -> None:
    """Refuse inputs if some of their names are arguments of ``forward`` and others are not."""
    known = inspect.signature(model.forward).parameters
    wrong = [name for name in given if name not in known]
    if wrong and len(wrong) < len(given):
        names = ", ".join(known)
        raise PrecropError(f"forward has no argument {brief(wrong[0])}: its arguments are {names}")


def _takes(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the signature of ``forward`` accepts these arguments."""
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # functions written in C have no signature
        return True
    return True
