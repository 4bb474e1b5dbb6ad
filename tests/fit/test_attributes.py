"""Which integers of a module may be sizes."""

from torch import nn

from precrop.fit.attributes import integers


class Listing(nn.Module):
    """A module that keeps a list of integers."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.width, self.listed = 8, [*range(length)]


def test_lists_of_sizes_are_probed_and_tables_of_positions_are_not() -> None:
    assert len(dict(integers(Listing(48)))) == 1 + 48
    assert dict(integers(Listing(256))) == {"width": 8}
