"""What belongs to all threads of the process: changed for a while, then as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads_restored() -> Iterator[None]:
    """Within it PyTorch's number of threads may be changed."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
