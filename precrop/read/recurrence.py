"""Traces only two steps of a recurrent layer, since the sizes are the same at every step.

PyTorch's recurrent layers run as one function over a whole sequence, and a trace would see every
step. Here the step runs twice: the first run stands for all steps but the last, and the second,
which takes the first one's state, for the last.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from precrop.modules.instead import FunctionMode
from precrop.modules.streams import resized

RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
# With fewer steps than this, folding would save no calls.
LEAST_STEPS = 3


class FoldedSteps(FunctionMode):
    """Runs recurrent layers for two steps; each recorded call says for how many steps it stands.

    The trace appends the calls to ``calls``, where this mode finds and marks them.
    """

    def __init__(self, calls: Sequence[Any]) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # Arguments are (sequence, state, weights, has biases, …), except for a packed sequence.
        padded = len(args) > 3 and type(args[3]) is bool
        if function in RECURRENT and not kwargs and padded:
            dim = 1 if args[-1] else 0
            if args[0].is_meta and args[0].shape[dim] >= LEAST_STEPS:
                return self._folded(function, args, dim)
        return function(*args, **(kwargs or {}))

    def _folded(self, function: Any, args: tuple[Any, ...], dim: int) -> Any:
        sequence, state, *rest = args
        steps = sequence.shape[dim]
        step = torch.ops.precrop.steps(sequence, dim, 1)
        _, *state = self._repeated(steps - 1, function, step, state, rest)
        state = tuple(state) if len(state) > 1 else state[0]
        output, *state = self._repeated(1, function, step, state, rest)
        return torch.ops.precrop.steps(output, dim, steps), *state

    def _repeated(
        self, times: int, function: Any, step: Tensor, state: Any, rest: Sequence[Any]
    ) -> Any:
        start = len(self.calls)
        result = function(step, state, *rest)
        for call in self.calls[start:]:
            call.times = times
        return result


@torch.library.custom_op("precrop::steps", mutates_args=())
def _steps(x: Tensor, dim: int, steps: int) -> Tensor:
    """Return the first step of a sequence, repeated ``steps`` times."""
    return x.narrow(dim, 0, 1).repeat_interleave(steps, dim)


_steps.register_fake(resized)
