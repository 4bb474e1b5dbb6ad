"""PyTorch's number of threads, which is one number for the whole process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads_restored() -> Iterator[None]:
    """Restore PyTorch's number of threads at the end of the context."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
