"""Which integers of a module may be sizes."""

from torch import nn

from precrop.fit.attributes import integers


def with_list(length: int) -> nn.Module:
    module = nn.Module()
    module.width, module.listed = 8, [*range(length)]
    return module


def test_lists_of_sizes_are_probed_and_tables_of_positions_are_not() -> None:
    assert len(dict(integers(with_list(48)))) == 1 + 48
    assert dict(integers(with_list(256))) == {"width": 8}
