"""Which integers of a module may be sizes."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from precrop.fit.attributes import apply_edits, integers


class Listing(nn.Module):
    """A module that keeps a list of integers."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.width, self.listed = 8, [*range(length)]


def test_lists_of_sizes_are_probed_and_tables_of_positions_are_not() -> None:
    assert len(dict(integers(Listing(48)))) == 1 + 48
    assert dict(integers(Listing(256))) == {"width": 8}


class Pair(NamedTuple):
    """Two sizes with names."""

    first: int
    second: int


@pytest.mark.parametrize("sizes", [(8, 4), [8, 4], torch.Size([8, 4]), Pair(8, 4)])
def test_sizes_stay_in_a_container_of_their_kind(sizes: Any) -> None:
    module = Listing(2)
    module.listed = sizes
    apply_edits(module, [("", "listed.1", 3)])
    assert list(module.listed) == [8, 3]
    assert type(module.listed) is type(sizes)
