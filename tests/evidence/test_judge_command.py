import json
from pathlib import Path

import pytest

from precrop.cli import main
from precrop.evidence import judging, nats
from precrop.evidence.page import gains_table, order_table, regret_table, shares_table
from precrop.evidence.verdict import Evidence
from precrop.program import OBJECTIVES
from tests.evidence.conftest import SAMPLE


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One strategy beside uniform width, no method, two base networks."""
    chosen = [s for s in judging.strategies() if s.name in ("synexp", judging.UNIFORM)]
    monkeypatch.setattr(judging, "BAND", 0.15)
    monkeypatch.setattr(judging, "strategies", lambda: chosen)
    monkeypatch.setattr(judging, "slow_strategies", list)
    monkeypatch.setattr(judging, "OBJECTIVES", {"synexp": OBJECTIVES["synexp"]})
    monkeypatch.setattr(judging, "SENSIBLE", {"flat": (48, 48, 48, 48, 48)})
    monkeypatch.setattr(judging, "ILL_SHAPED", {"inverted": (64, 48, 32, 24, 16)})
    monkeypatch.setattr(judging, "SHARES", (0.6,))
    monkeypatch.setattr(judging, "PRECONFIG", {"both whole": (1.0, 1.0)})
    monkeypatch.setattr(nats, "DATA_SETS", nats.DATA_SETS[:1])


def test_it_prints_tables_and_writes_what_they_are_made_of(
    short: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    status = main(["judge", "--data", str(SAMPLE), "--budgets", "2", "-o", str(folder)])
    assert status == 0
    printed = capsys.readouterr().out
    for file in ("order.png", "gains.png"):
        assert (folder / file).read_bytes().startswith(b"\x89PNG")
    found = Evidence.load(folder / "evidence.json")
    for table in (order_table(found), regret_table(found), gains_table(found)):
        assert table in printed
    assert "| synexp |" in shares_table(found)
    assert set(found.regret["strategy"]) > {"synexp", "any network of the size"}


def test_json(short: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "--data", str(SAMPLE), "--budgets", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"order", "regret", "gains", "published", "noise"}


def test_no_table_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "--data", str(tmp_path)]) == 2
    assert "holds no nats-sss.parquet" in capsys.readouterr().err
