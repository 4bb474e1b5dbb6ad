"""Modes of PyTorch's functions, and other functions in the place of some, in one thread."""

from collections.abc import Callable, Mapping
from typing import Any

from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode


class FunctionMode(TorchFunctionMode):
    """A mode that ends well wherever Ctrl-C came.

    PyTorch takes a mode off while it handles a call, and may not have come to put it back, or to
    take off another one above it.
    """

    def __exit__(self, *error: object) -> None:
        """Take the mode off if it is there, with all above it."""
        if self in _get_current_function_mode_stack():  # type: ignore[no-untyped-call]
            while _pop_mode() is not self:  # type: ignore[no-untyped-call]
                pass


class Instead(FunctionMode):
    """Within it, calls of some of PyTorch's functions are calls of others.

    Args:
        others: by PyTorch's function, what is called with the same arguments.
    """

    def __init__(self, others: Mapping[Callable[..., Any], Callable[..., Any]]) -> None:
        super().__init__()
        self.others = others

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the other function where there is one."""
        return self.others.get(function, function)(*args, **(kwargs or {}))
