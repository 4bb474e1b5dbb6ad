"""Which integers of a module may be sizes."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from precrop.errors import PlanError
from precrop.fit.attributes import apply_edits, integers


class Listing(nn.Module):
    """A module that keeps a list of integers."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.width, self.listed = 8, [*range(length)]


def test_lists_of_sizes_are_probed_and_tables_of_positions_are_not() -> None:
    assert len(dict(integers(Listing(48)))) == 1 + 48
    assert dict(integers(Listing(256))) == {"width": 8}


def test_the_nearest_of_many_are_found_in_any_tangle() -> None:
    module: Any = Listing(2)
    module.deep = [[[[[[[[5]]]]]]]]
    module.words = {str(index): index for index in range(50_000)}
    module.itself = {"width": 6}
    module.itself["self"] = module.itself
    module.many = [{"size": index, "name": "x"} for index in range(1000)]
    found = list(integers(module))
    assert found[0] == ("width", 8)
    assert {"listed.1": 1, "itself.width": 6, "many.300.size": 300}.items() <= dict(found).items()
    assert len(found) < 4096
    assert not any(path.startswith(("words", "deep")) for path, _ in found)


def test_numbers_keep_their_type_and_its_limits() -> None:
    module: Any = Listing(2)
    module.small, module.array, module.share = np.uint8(200), np.array([3, 200], np.uint8), 32.0
    apply_edits(module, [("", "small", 250), ("", "array.1", 250), ("", "share", 16)])
    assert (module.small, module.array[1], module.share) == (250, 250, 16.0)
    assert [type(one) for one in (module.small, module.share)] == [np.uint8, float]
    for path in ("small", "array.1"):
        with pytest.raises(PlanError, match="which this network refuses"):
            apply_edits(module, [("", path, 300)])


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
