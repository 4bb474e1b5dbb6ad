"""A written report."""

import pytest

from precrop.report.words import Report
from precrop.report.writing import write_report
from tests.report.made_study import made_file, made_study


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    study = made_file(tmp_path_factory.mktemp("study"))
    return write_report(made_study(), tmp_path_factory.mktemp("report"), studies=[study])
