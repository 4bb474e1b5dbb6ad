"""Claims are read from studies' files; what is wrong in one is a line that says where."""

from pathlib import Path

import pytest

from precrop.errors import PrecropError
from precrop.report.claims import Claims, read_claims
from precrop.study.entries import read_entry
from precrop.study.spec import Part, StudyFile, read_study
from tests.report.made_study import CLAIMS, STUDIES

CLAIM = "{claim: c, text: It is better., source: Us, compare: ours, with: theirs, shows: better}"
STUDY = """study: s
description: Which is better?
data: digits
recipe: cifar-quick
seeds: [0]
networks: [resnet20]
budgets: [{params: 0.5}]
variants:
  - {name: PreCrop, role: ours, plan: {}}
  - {name: flat, role: theirs, uniform: {}}
  - {name: ours again, role: ours, plan: {}, match: flat}
  - {name: dense}
"""


def write(folder: Path, claims: str = "", name: str = "s.yaml") -> Path:
    path = folder / name
    path.write_text(STUDY + claims)
    return path


def read(folder: Path, claims: str) -> Claims:
    return read_claims([write(folder, claims)], ["s"])


def test_claims_stand_in_the_file_or_beside_it(tmp_path: Path) -> None:
    within = read(tmp_path, f"claims:\n  - {CLAIM}\n")
    (tmp_path / "c.yaml").write_text(f"- {CLAIM}\n")
    assert read(tmp_path, "claims: c.yaml\n") == within
    (claim,) = within.claims
    assert (claim.name, claim.compare, claim.against) == ("c", ["ours"], ["theirs"])
    assert within.parts == {
        ("s", "PreCrop"): Part("ours"),
        ("s", "flat"): Part("theirs"),
        ("s", "ours again"): Part("ours", "flat"),
    }


def test_a_retired_variant_keeps_its_role(tmp_path: Path) -> None:
    retired = "retired:\n  - {name: old, role: theirs}\n"
    found = read(tmp_path, retired)
    assert found.parts["s", "old"] == Part("theirs")
    assert [one.variant.name for one in read_study(tmp_path / "s.yaml").series][-1] == "dense"
    path = write(tmp_path, retired.replace("old", "flat"))
    with pytest.raises(PrecropError, match="flat is among variants and retired"):
        read_study(path)


def test_only_studies_whose_runs_are_there_count(tmp_path: Path) -> None:
    write(tmp_path, f"claims:\n  - {CLAIM}\n")
    (tmp_path / "notes.yaml").write_text("- no study\n")
    assert read_claims([tmp_path], ["other"]) == Claims()
    assert [claim.name for claim in read_claims([tmp_path], ["s", "other"]).claims] == ["c"]


def test_of_a_folder_only_what_is_wanted_need_be_readable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, f"claims:\n  - {CLAIM}\n")
    (tmp_path / "a.yaml").write_text("study: other\nvariants: 3\n")
    (tmp_path / "b.yaml").write_text("a: &x 1\nb: *x\n")
    assert [claim.name for claim in read_claims([tmp_path], ["s"]).claims] == ["c"]
    said = capsys.readouterr().err
    assert "b.yaml" in said
    assert "it is passed over" in said
    with pytest.raises(PrecropError, match=r"a\.yaml: description is missing"):
        read_claims([tmp_path], ["other"])


def test_two_files_of_one_study_must_agree(tmp_path: Path) -> None:
    write(tmp_path)
    copy = write(tmp_path, name="copy.yaml")
    assert len(read_claims([tmp_path], ["s"]).parts) == 3
    copy.write_text(STUDY.replace("role: theirs", "role: others"))
    with pytest.raises(PrecropError, match="flat has another role in another file of this study"):
        read_claims([tmp_path], ["s"])


def test_a_study_without_roles_opens(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(STUDY.replace("role: ours, ", "").replace("role: theirs, ", ""))
    assert read_claims([path], ["s"]) == Claims()
    assert len(read_study(path).series) == 4


def test_a_role_is_no_part_of_what_a_cell_is(tmp_path: Path) -> None:
    from precrop.study.cells import expand

    bare = tmp_path / "bare.yaml"
    bare.write_text(STUDY.replace("role: ours, ", "").replace("role: theirs, ", ""))
    full = write(tmp_path, f"claims:\n  - {CLAIM}\n")
    ids = [[cell.id for cell in expand(read_study(path))] for path in (bare, full)]
    assert ids[0] == ids[1]


def test_two_studies_may_not_mean_different_things_by_a_claim(tmp_path: Path) -> None:
    write(tmp_path, f"claims:\n  - {CLAIM}\n")
    other = write(tmp_path, f"claims:\n  - {CLAIM.replace('better}', 'equal}')}\n", "t.yaml")
    other.write_text(other.read_text().replace("study: s", "study: t"))
    with pytest.raises(PrecropError, match="claims, c: another study means another"):
        read_claims([tmp_path], ["s", "t"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("shows: better", "shows: beter", "claims, c: shows is 'beter', not 'better', 'no worse'"),
        ("shows: better", "metric: better", "metric is 'better'"),
        (", shows: better", "", "claims, c: shows is missing"),
        ("with: theirs", "with: []", r"with is \[\], not a list of 1 or more"),
        ("with: theirs", "with: theirs, loss: 1", "loss goes with shows: no worse"),
        ("with: theirs", "with: theirs, margin: 0", "margin is 0, not above 0"),
        ("with: theirs", "with: theirs, margin: 1.0e+308", "margin is 1e.308, not at most 100"),
        ("with: theirs", "with: theirs, macs: yes", "macs is True, not a number"),
        (
            "with: theirs",
            "with: theirs, at: sise",
            "at is 'sise', not 'budget', 'size' or 'densities'",
        ),
        ("with: theirs", "agianst: theirs", "claims, c: unknown key 'agianst'"),
        ("with: theirs", "with: theirs, untestable: no", "exclude one another"),
        ("claim: c", "claim: [c]", "claim is"),
    ],
)
def test_a_mistake_is_a_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(PrecropError, match=said) as raised:
        read(tmp_path, f"claims:\n  - {CLAIM.replace(old, new)}\n")
    assert "\n" not in str(raised.value)
    assert "s.yaml" in str(raised.value)


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ("claims: ../c.yaml", "name a file beside this one"),
        ("claims: ''", "name a file beside this one"),
        ("claims: .", "name a file beside this one"),
        ("claims: 3", "claims is 3, not a text or a list"),
        ("claims: none.yaml", "cannot read"),
        ("claims: s.yaml", "not a list"),
        (f"claims: [{CLAIM}, {CLAIM}]", "claims: c is written twice"),
        ("retired: [{name: old}]", "retired, old: role is missing"),
    ],
)
def test_a_wrong_list_is_a_line(tmp_path: Path, claims: str, said: str) -> None:
    with pytest.raises(PrecropError, match=said):
        read(tmp_path, claims + "\n")


def test_a_role_is_a_text(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(STUDY.replace("role: ours, plan", "role: [ours], plan"))
    with pytest.raises(PrecropError, match="variants, PreCrop: role is"):
        read_study(path)


def test_roles_that_claims_name_are_those_of_the_studies_here() -> None:
    """Both ways: a claim on a role that no variant has could never be judged."""
    files = [path for path in STUDIES.glob("*.yaml") if path.name != "claims.yaml"]
    asked = [read_entry(StudyFile, path) for path in files]
    given = {part.role for one in asked for part in one.parts.values()}
    named = {role for claim in CLAIMS.values() for role in (*claim.compare, *claim.against)}
    assert given == named
    assert {one.claims for one in asked} == {"claims.yaml"}
