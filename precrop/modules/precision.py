"""Computes float32 products in full precision, even if the process allows TF32 or bfloat16."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch

from precrop.forking import WithinAny

_FULL = ("none", "ieee")
_GENERAL = (("generic", "all"), ("cuda", "all"), ("mkldnn", "all"))
"""Settings that apply to operations whose own setting is ``none``."""
_SINGLE = [(device, op) for device in ("mkldnn", "cuda") for op in ("matmul", "conv", "rnn")]
_OLDER: tuple[tuple[Callable[[], Any], Callable[[Any], None], Any], ...] = (
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
    (torch._C._get_cudnn_allow_tf32, torch._C._set_cudnn_allow_tf32, False),
)
"""Functions that get and set several at once, and full precision; getting fails if they differ."""


def _precision(one: tuple[str, str]) -> str:
    said: str = torch._C._get_fp32_precision_getter(*one)
    return said


def _set(one: tuple[str, str], precision: str) -> None:
    if _precision(one) != precision:
        torch._C._set_fp32_precision_setter(*one, precision)


@WithinAny
@contextmanager
def full_precision() -> Iterator[None]:
    """Multiply float32 in full precision within the context, in other threads too.

    Nothing is set if that is so already, as it is by default without a GPU.
    """
    gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    single = [one for one in _SINGLE if gpu or one[0] != "cuda"]
    if all(_precision(one) in _FULL for one in single):
        yield
        return
    with ExitStack() as back:
        for one in _GENERAL:
            back.callback(_set, one, _precision(one))
            _set(one, "none")
        for one in _SINGLE:  # restored after the older settings, which change them too
            back.callback(_set, one, _precision(one))
        for tell, change, full in _OLDER if gpu else _OLDER[:1]:
            with suppress(RuntimeError):
                before = tell()
                if before != full:
                    back.callback(change, before)
                    change(full)
        for one in single:
            if _precision(one) not in _FULL:
                _set(one, "ieee")
        yield
