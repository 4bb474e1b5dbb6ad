"""Computing apart: nothing that is set around a call reaches into it.

What PyTorch keeps for each thread (gradients on or off, inference mode, autocast, the default
device, modes that watch or change operations, transforms of `torch.func`, hooks of saved tensors,
tracing and compiling) is as in a new thread while a network is read, and as it was afterwards, also
after an error. What belongs to the whole process (random numbers, hooks of all modules, the default
type, flags of backends) is never set: other threads may train or serve meanwhile. There are three
exceptions: garbage collection waits (`uncollected`), which changes its time alone; what seeds
PyTorch's generators leaves them alone in threads that draw from others (`own_seeds`); and float32
is multiplied in full precision (`full_precision`).
"""

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from traceback import walk_tb
from typing import Any, ParamSpec, TypeVar

import torch
from torch._C import _autograd, _len_torch_dispatch_stack, _len_torch_function_stack
from torch._C._dynamo import eval_frame
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.overrides import _pop_mode, _push_mode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._python_dispatch import _pop_mode as _pop_dispatch_mode

from precrop.forking import WithinAny
from precrop.modules.precision import full_precision
from precrop.modules.random import own_seeds

P = ParamSpec("P")
T = TypeVar("T")
_AUTOCAST = ("cpu", "cuda", "xpu", "mps")


class _Apart:
    """For ``with``, or around a function, of which `torch.compile` then compiles nothing."""

    def __enter__(self) -> None:
        self._within = _as_in_new_thread()
        self._within.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._within.__exit__(*error)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """What `torch.compiler.disable` makes of a function; importing that takes seconds."""

        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            compiling = eval_frame.set_eval_frame(None)
            try:
                with apart():
                    return function(*args, **kwargs)
            finally:
                eval_frame.set_eval_frame(compiling)

        functools.update_wrapper(called, function)
        vars(called)["_torchdynamo_disable"] = True
        skipped, others = eval_frame._FrameAction.SKIP, eval_frame._FrameAction.DEFAULT
        how = eval_frame._FrameExecStrategy(skipped, others)
        eval_frame.set_code_exec_strategy(called.__code__, how)
        return called


apart = _Apart
"""Compute as in a new thread: ``with apart():`` or ``@apart()``."""


@contextmanager
def _as_in_new_thread() -> Iterator[None]:
    tracing: Any = torch._C
    hooks: Any = _autograd
    with ExitStack() as stack:
        stack.enter_context(own_seeds)
        stack.enter_context(full_precision)
        stack.callback(tracing._set_tracing_state, tracing._get_tracing_state())
        tracing._set_tracing_state(None)  # without `torch.jit.trace`
        stack.enter_context(temporarily_clear_interpreter_stack())
        stack.enter_context(_disable_current_modes())
        while _len_torch_function_stack():  # the default device is one of these modes
            stack.callback(_push_mode, _pop_mode())  # type: ignore[no-untyped-call]
        # Without hooks of what backward passes need, and with leave to set some.
        refusal = hooks._saved_tensors_hooks_get_disabled_error_message()
        if refusal is not None:
            stack.callback(hooks._saved_tensors_hooks_disable, refusal)
        hooks._saved_tensors_hooks_enable()
        while pair := hooks._top_saved_tensors_default_hooks(True):
            stack.callback(hooks._push_saved_tensors_default_hooks, *pair)
            hooks._pop_saved_tensors_default_hooks()
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


@WithinAny
@contextmanager
def uncollected() -> Iterator[None]:
    """Pauses garbage collection.

    A trace makes many objects that live to its end: collecting meanwhile would look at all of them,
    and at all of PyTorch's, again and again, for up to half of the time. Around a whole function it
    ends when what the function made is gone.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
