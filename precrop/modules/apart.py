"""Computing apart: nothing that is set around a call reaches into it.

What PyTorch keeps for each thread (gradients on or off, inference mode, autocast, the default
device, modes that watch or change operations) is as in a new thread while a network is read, and
as it was afterwards, also after an error. What belongs to the whole process (random numbers, hooks
of all modules, the default type, flags of backends) is never set: other threads may train or serve
meanwhile. Only garbage collection waits (`uncollected`), which changes its time alone, and what
seeds PyTorch's generators leaves them alone in threads that draw from others (`own_seeds`).
"""

import gc
import threading
from collections.abc import Iterator
from contextlib import ContextDecorator, ExitStack, contextmanager, suppress
from traceback import walk_tb

import torch
from torch._C import _len_torch_dispatch_stack, _len_torch_function_stack
from torch.overrides import _pop_mode, _push_mode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._python_dispatch import _pop_mode as _pop_dispatch_mode

from precrop.modules.random import own_seeds

_AUTOCAST = ("cpu", "cuda", "xpu", "mps")


@contextmanager
def apart() -> Iterator[None]:
    """Compute as in a new thread; also a decorator."""
    with ExitStack() as stack:
        stack.enter_context(own_seeds)
        stack.enter_context(_disable_current_modes())
        stack.enter_context(_no_function_modes())
        stack.callback(_leave_modes)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in _AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        try:
            yield
        except BaseException as error:
            _end_suspended(error)
            raise


@contextmanager
def _no_function_modes() -> Iterator[None]:
    """Without `TorchFunctionMode`s, of which the default device is one."""
    modes = [_pop_mode() for _ in range(_len_torch_function_stack())]  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for mode in reversed(modes):
            _push_mode(mode)  # type: ignore[no-untyped-call]


def _end_suspended(error: BaseException) -> None:
    """End the context managers that Ctrl-C came into, which the error's traceback holds.

    PyTorch takes a mode off within one: what ends when the error is forgotten puts it back then.
    """
    behind: BaseException | None = error
    seen: set[int] = set()
    while behind is not None and id(behind) not in seen:  # one may be raised from itself
        seen.add(id(behind))
        for frame, _ in walk_tb(behind.__traceback__):
            if frame.f_code.co_filename == contextmanager.__code__.co_filename:
                with suppress(RuntimeError):  # it still runs: it is around us
                    frame.clear()
        behind = behind.__cause__ or behind.__context__


def _leave_modes() -> None:
    """Leave the modes that Ctrl-C kept from being left: it may come at the head of their exit."""
    while _len_torch_dispatch_stack():
        _pop_dispatch_mode()
    while _len_torch_function_stack():
        _pop_mode()  # type: ignore[no-untyped-call]


class _Uncollected(ContextDecorator):
    """Pauses garbage collection while any thread is within; the last one lets it go on.

    A trace makes many objects that live to its end: collecting meanwhile would look at all of them,
    and at all of PyTorch's, again and again, for up to half of the time. Around a whole function it
    ends when what the function made is gone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0
        self._enabled = False

    def __enter__(self) -> None:
        with self._lock:
            if self._within == 0:
                self._enabled = gc.isenabled()
                gc.disable()
            self._within += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._within -= 1
            if self._within == 0 and self._enabled:
                gc.enable()


uncollected = _Uncollected()
"""For ``with`` or as a decorator, in any thread and within itself."""
