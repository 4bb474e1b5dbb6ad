"""Other functions in the place of some of PyTorch's, for the calls of one thread."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode


class Instead(TorchFunctionMode):
    """Within it, calls of some of PyTorch's functions are calls of others.

    Args:
        others: by PyTorch's function, what is called with the same arguments.
    """

    def __init__(self, others: Mapping[Callable[..., Tensor], Callable[..., Tensor]]) -> None:
        super().__init__()
        self.others = others

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the other function where there is one."""
        return self.others.get(function, function)(*args, **(kwargs or {}))
