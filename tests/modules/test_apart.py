"""Nothing that is set around a call reaches into it, and nothing within it stays behind."""

import contextlib
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode

import precrop
from precrop.modules.apart import apart


class Watch(TorchDispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        return op(*args, **(kwargs or {}))


def test_modes_that_were_never_left_stay_within() -> None:
    """Ctrl-C may come at the head of a mode's exit."""
    within, around = Watch(), Watch()

    @apart()
    def stopped() -> None:
        within.__enter__()
        DeviceContext(torch.device("meta")).__enter__()
        raise KeyboardInterrupt

    with around:
        with pytest.raises(KeyboardInterrupt):
            stopped()
        assert torch.ones(2).device.type == "cpu"
    torch.ones(2)
    assert (within.seen, around.seen) == (0, 1)


TAKEN_OFF = ("_pop_mode_temporarily", "_pop_mode")
"""PyTorch has just taken a mode off, and is not yet bound to put it back."""
BETWEEN = ("__enter__", "_pop_mode_temporarily")
"""PyTorch has taken a mode off, and has not yet begun to handle a call without it."""


@contextlib.contextmanager
def interrupted(moment: tuple[str, str], count: int) -> Iterator[None]:
    """Ctrl-C when it is so many times that a function goes on right after another."""
    left, last = count, ""
    files = torch.overrides.__file__, contextlib.contextmanager.__code__.co_filename

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left, last
        if frame.f_code.co_filename not in files:
            return None
        name, frame.f_trace_opcodes = frame.f_code.co_name, True
        left -= event == "opcode" and (name, last) == moment
        last = name
        if left == 0:
            raise KeyboardInterrupt  # which ends tracing
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("count", [1, 12, 25])
@pytest.mark.parametrize("moment", [TAKEN_OFF, BETWEEN])
def test_ctrl_c_while_a_mode_is_off_leaves_none(moment: tuple[str, str], count: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardsigmoid(), nn.Flatten(), nn.Linear(144, 3))
    data = [(torch.ones(2, 3, 8, 8), torch.arange(2))]
    with pytest.raises(KeyboardInterrupt), interrupted(moment, count):
        precrop.densities(model, (3, 8, 8), method="grasp", params=0.5, data=data)
    assert _get_current_function_mode_stack() == []
    found = precrop.densities(model, (3, 8, 8), method="grasp", params=0.5, data=data)
    assert set(found) == {"0", "3"}
