from pathlib import Path

import pytest

from precrop.evidence.nats import load_tables

SAMPLE = Path(__file__).parent
"""Two thousand networks of the size space, drawn at random (NATS-Bench, MIT licence)."""


@pytest.fixture(scope="session")
def tables():
    return load_tables(SAMPLE)


@pytest.fixture(scope="session")
def table(tables):
    return tables[0]
