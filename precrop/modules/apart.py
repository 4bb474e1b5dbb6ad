"""Isolates a computation from the PyTorch state that is set around it.

While a network is read, PyTorch's state per thread (grad mode, inference mode, autocast, default
device, function and dispatch modes, `torch.func` transforms, saved-tensor hooks, tracing and
compiling) is that of a new thread; it is restored afterwards, also after an error. State of the
whole process (random generators, hooks of all modules, default dtype, backend flags) is never
changed, since other threads may train or serve meanwhile. There are three exceptions: garbage
collection is paused (`uncollected`), which only affects when it runs; in threads that draw from
generators of their own, seeding leaves PyTorch's generators alone (`own_seeds`); and float32 is
multiplied in full precision (`full_precision`).
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
    """A context manager and a decorator; `torch.compile` compiles nothing of what is decorated."""

    def __enter__(self) -> None:
        self._within = _as_in_new_thread()
        self._within.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._within.__exit__(*error)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Decorate as `torch.compiler.disable` does, whose import takes seconds."""

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
        tracing._set_tracing_state(None)  # suspends `torch.jit.trace`
        stack.enter_context(temporarily_clear_interpreter_stack())
        stack.enter_context(_disable_current_modes())
        while _len_torch_function_stack():  # the default device is one of these modes
            stack.callback(_push_mode, _pop_mode())  # type: ignore[no-untyped-call]
        # Remove saved-tensor hooks and allow new ones, which some function transforms disable.
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
    """Close the context managers that Ctrl-C interrupted, whose frames the error's traceback holds.

    PyTorch pops a mode within one; if that ended only when the error is freed, it would push the
    mode back then.
    """
    behind: BaseException | None = error
    seen: set[int] = set()
    while behind is not None and id(behind) not in seen:  # the chain may be a cycle
        seen.add(id(behind))
        for frame, _ in walk_tb(behind.__traceback__):
            if frame.f_code.co_filename == contextmanager.__code__.co_filename:
                with suppress(RuntimeError):  # it is still running, around this call
                    frame.clear()
        behind = behind.__cause__ or behind.__context__


def _leave_modes() -> None:
    """Pop modes that were left on the stack because Ctrl-C came at the start of their exit."""
    while _len_torch_dispatch_stack():
        _pop_dispatch_mode()
    while _len_torch_function_stack():
        _pop_mode()  # type: ignore[no-untyped-call]


@WithinAny
@contextmanager
def uncollected() -> Iterator[None]:
    """Pause garbage collection.

    A trace makes many objects that live to its end: collections would scan all of them, and all of
    PyTorch's, for up to half of the time. Around a function, the pause ends when they are gone.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
