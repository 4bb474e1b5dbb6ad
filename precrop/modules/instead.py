"""Function modes of PyTorch that end well after Ctrl-C, and one that replaces functions."""

from collections.abc import Callable, Mapping
from typing import Any

from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode


class FunctionMode(TorchFunctionMode):
    """A function mode that ends well wherever Ctrl-C came.

    PyTorch pops a mode while it handles a call; when interrupted, it may not have pushed it back,
    or may have left another mode above it.
    """

    def __exit__(self, *error: object) -> None:
        """Pop the mode and all above it, if it is on the stack."""
        if self in _get_current_function_mode_stack():  # type: ignore[no-untyped-call]
            while _pop_mode() is not self:  # type: ignore[no-untyped-call]
                pass


class Instead(FunctionMode):
    """A context in which some of PyTorch's functions are replaced, in this thread.

    Args:
        others: by PyTorch's function, the function that is called with the same arguments.
    """

    def __init__(self, others: Mapping[Callable[..., Any], Callable[..., Any]]) -> None:
        super().__init__()
        self.others = others

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the replacement, or the function itself if there is none."""
        return self.others.get(function, function)(*args, **(kwargs or {}))
