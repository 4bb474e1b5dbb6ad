from pathlib import Path
from typing import Any

import pytest

from precrop.evidence.nats import Table, load_tables

SAMPLE = Path(__file__).parent
"""Two thousand networks of the size space, drawn at random (NATS-Bench, MIT licence)."""


@pytest.fixture(scope="session")
def tables() -> Any:
    return load_tables(SAMPLE)


@pytest.fixture(scope="session")
def table(tables: list[Table]) -> Any:
    return tables[0]


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands wide enough for a sample of the networks."""
    monkeypatch.setattr("precrop.evidence.sizes.BAND", 0.15)
