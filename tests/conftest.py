"""What every test runs under."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tests run side by side, and their networks are small: more threads only wait."""
    torch.set_num_threads(1)
