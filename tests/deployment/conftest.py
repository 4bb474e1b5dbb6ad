"""What tests of exports share."""

import pytest


@pytest.fixture(autouse=True)
def exporter(operators_read_once: None) -> None:
    """Every test here may export."""
