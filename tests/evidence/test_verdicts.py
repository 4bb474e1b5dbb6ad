"""The page is what the committed results say, and its verdicts follow their rules."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from precrop.evidence.candidates import UNIFORM
from precrop.evidence.page import NAMES
from precrop.report.comparisons import Comparison
from precrop.report.grouping import frame_of
from scripts import verdicts
from scripts.evidence_page import TEXT, page, places, summary
from scripts.verdicts import Sources, answer, rows, streams, table
from tests.study.made_rows import made_row

ROOT = Path(__file__).parent.parent.parent
ANSWERS = ("holds", "holds partly", "does not hold")
Measured = dict[str, tuple[float, float, float]]


@pytest.fixture(scope="module")
def known() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        found = Sources.load()
        assert found.reported
        return found


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_page_and_the_readme_are_those_of_the_results(known: Sources) -> None:
    assert page(TEXT.read_text(), known) == Path("docs/evidence.md").read_text()
    assert summary(known, "docs/evidence.md") in Path("README.md").read_text()


def test_every_place_is_used(known: Sources) -> None:
    text = TEXT.read_text()
    assert [name for name in places(known) if f"{{{{{name}}}}}" not in text] == []
    with pytest.raises(KeyError, match="nowhere"):
        page("{{nowhere}}", known)


def test_every_row_has_a_verdict_and_a_command(known: Sources) -> None:
    found = rows(known)
    assert len({row.claim for row in found}) == len(found) > 30
    for row in found:
        assert row.verdict in (*ANSWERS, "undecided", "not measured")
        assert row.command.startswith("`")
        assert row.figure or row.verdict == "not measured"
        for study in [part for part in row.command.strip("`").split() if part.endswith(".yaml")]:
            assert Path(study).is_file()
    assert table(found).count("\n") == len(found) + 1


def measured(*ends: tuple[float, float, float]) -> Measured:
    return dict(zip(NAMES, ends, strict=True))


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (measured((1, 0.5, 1.5), (1, 0.5, 1.5), (1, 0.5, 1.5)), "holds"),
        (measured((1, 0.5, 1.5), (1, -0.5, 2.5), (-1, -2, -0.5)), "holds partly"),
        (measured((1, -0.5, 2.5), (-1, -2, -0.5), (1, -0.5, 2.5)), "does not hold"),
        (measured((0.001, 0.0005, 0.0015), (1, -1, 3), (1, -1, 3)), "does not hold"),
        (measured((1, -0.5, 2.5), (1, -0.5, 2.5), (1, -0.5, 2.5)), "undecided"),
    ],
)
def test_the_rule(known: Sources, found: Measured, verdict: str) -> None:
    assert known.judged(found) == verdict


def test_answers() -> None:
    assert [answer(n, 2) for n in range(3)] == ["does not hold", "holds partly", "holds"]


def test_differences_are_paired_by_budget(known: Sources) -> None:
    frame = known.found.regret
    drawn = frame.sample(frac=1, random_state=0)
    again = dataclasses.replace(known.found, regret=drawn)
    other = dataclasses.replace(known, found=again)
    one = frame[(frame["data set"] == "cifar10") & (frame["strategy"] == "synexp")]
    two = frame[(frame["data set"] == "cifar10") & (frame["strategy"] == UNIFORM)]
    wanted = np.mean(two["regret"].to_numpy() - one["regret"].to_numpy())
    for source in (known, other):
        assert source.ahead("synexp", UNIFORM)["cifar10"][0] == pytest.approx(wanted)
    few = known.ahead("synexp", "exact")["cifar10"][0]
    assert few == pytest.approx(
        frame[(frame["data set"] == "cifar10") & (frame["strategy"] == "exact")]["regret"].mean()
        - one[one["budget"] < 20]["regret"].mean()
    )


def streams_of(
    leads: list[float], monkeypatch: pytest.MonkeyPatch, known: Sources
) -> tuple[str, str]:
    """Verdict and figure where cropped streams are so many points ahead, by seed from 7 on."""
    rows = [
        made_row(variant=variant, seed=7 + index, accuracy=(65 + lead * ahead + noise) / 100)
        for index, lead in enumerate(leads)
        for variant, ahead, noise in (("PreCrop", 0, index % 3 / 10), ("cropped", 1, 0))
    ]
    groups = {group.variant: group for group in frame_of(rows).groups}
    found = Comparison(groups["cropped"], groups["PreCrop"])
    monkeypatch.setattr(verdicts, "streams_compared", lambda study: [found])
    row = streams()
    return row.verdict, row.figure


def test_streams_are_judged_by_all_of_their_seeds(
    known: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert streams_of([2.0] * 9, monkeypatch, known)[0] == "does not hold"
    assert streams_of([-2.0] * 9, monkeypatch, known)[0] == "holds"
    verdict, figure = streams_of([2.0, -2.0, 2.0] * 3, monkeypatch, known)
    assert verdict == "undecided"
    assert "undecided, and by the study's rule the default stays" in figure
    verdict, figure = streams_of([2.0] * 8, monkeypatch, known)
    assert verdict == "not measured"
    assert figure.startswith("8 of 9 seeds")


@pytest.mark.parametrize(
    ("lead", "verdict"), [(2.0, "does not hold"), (0.0, "does not hold"), (-2.0, "holds")]
)
def test_a_classifier_is_starved_where_plans_are_behind(
    lead: float, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        made_row(variant=variant, seed=seed, accuracy=(65 + ahead + noise) / 100)
        for seed in range(5)
        for variant, ahead, noise in (("PreCrop", lead, seed % 3 / 10), ("uniform width", 0, 0))
    ]
    groups = {group.variant: group for group in frame_of(rows).groups}
    found = Comparison(groups["PreCrop"], groups["uniform width"])
    monkeypatch.setattr(verdicts, "params_alone", lambda: [found])
    row = verdicts.starved()
    assert row.verdict == verdict
    assert f"{lead + 0.08:+.2f} (95% interval" in row.figure


def test_streams_without_a_store(known: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "RESULTS", Path("nowhere"))
    row = streams()
    assert (row.verdict, row.figure[:12]) == ("not measured", "0 of 9 seeds")


def test_intervals_of_before_were_too_narrow() -> None:
    """What the page says of the rule that it gave up."""
    draws = np.random.default_rng(1).normal(size=(4000, 6))
    held = np.mean([low <= 0 <= high for _, low, high in map(verdicts.resampled, draws)])
    assert held == pytest.approx(0.85, abs=0.02)


def test_a_claim_of_no_runs_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "repairs", list)
    monkeypatch.setattr(verdicts, "params_alone", list)
    for row in (verdicts.repaired(), verdicts.starved()):
        assert (row.verdict, row.figure) == ("not measured", "no network has all of its seeds")
