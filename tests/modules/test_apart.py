"""Nothing that is set around a call reaches into it, and nothing within it stays behind."""

from typing import Any

import pytest
import torch
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode

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
