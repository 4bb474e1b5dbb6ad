"""Rows become groups that may be averaged."""

from datetime import timedelta
from statistics import fmean, stdev

import pytest

from precrop.errors import PrecropError
from precrop.plans.text import short_count
from precrop.report.grouping import frame_of, recipe_name
from precrop.training.recipes import RECIPES
from tests.report.made_study import made_study
from tests.study.made_rows import STARTED, made_row


def test_seeds_are_averaged() -> None:
    accuracies = [0.80, 0.83, 0.81]
    frame = frame_of(made_row(seed=n, accuracy=a, params=100 + n) for n, a in enumerate(accuracies))
    (group,) = frame.groups
    assert [row.seed for row in group.rows] == [0, 1, 2]
    assert group.accuracy.mean == pytest.approx(100 * fmean(accuracies))
    assert group.accuracy.deviation == pytest.approx(100 * stdev(accuracies))
    assert group.params == 101
    assert str(group.accuracy) == "81.33 ± 1.53"


def test_one_run_has_no_deviation() -> None:
    (group,) = frame_of([made_row(accuracy=0.8)]).groups
    assert group.accuracy.deviation is None
    assert str(group.accuracy) == "80.00"


@pytest.mark.parametrize(
    "change",
    [
        {"network": "vgg16_bn"},
        {"args": {"width": 2}},
        {"data": "cifar100", "data_digest": "e" * 64},
        {"data_digest": "e" * 64},
        {"recipe": RECIPES["cifar-160"].to_json()},
    ],
)
def test_what_differs_is_another_setting(change: dict) -> None:
    frame = frame_of([made_row(), made_row(**change, cell="other")])
    assert len(frame.settings) == len(set(map(str, frame.settings))) == 2


def test_images_under_two_names_are_one_set() -> None:
    rows = [made_row(), made_row(seed=1, data="cifar10 32x32", cell="other")]
    (group,) = frame_of(rows).groups
    assert group.setting.data == "cifar10 32x32"
    assert len(group.rows) == 2


def test_classes_follow_from_the_data_and_are_not_said() -> None:
    (setting,) = frame_of([made_row(args={"num_classes": 10, "width": 2})]).settings
    assert setting.network == "resnet20 (width=2)"


@pytest.mark.parametrize("change", [{"asked_params": 0.1}, {"asked_macs": None}, {"variant": "x"}])
def test_what_differs_is_another_group(change: dict) -> None:
    frame = frame_of([made_row(), made_row(**change)])
    assert len(frame.settings) == 1
    assert len(frame.groups) == 2


def test_a_recipe_is_named_by_what_is_different() -> None:
    assert recipe_name(RECIPES["cifar-quick"].to_json()) == "cifar-quick"
    changed = RECIPES["cifar-quick"].changed({"epochs": 3, "lr": 0.05})
    assert recipe_name(changed.to_json()) == "cifar-quick, epochs=3, lr=0.05"


def test_failed_rows_stand_aside() -> None:
    frame = frame_of([made_row(), made_row(variant="other", status="failed", error="no")])
    assert [row.variant for row in frame.failed] == ["other"]
    assert [row.variant for row in frame.rows] == ["PreCrop"]


@pytest.mark.parametrize(
    ("rows", "why"), [([], "it is empty"), ([made_row(status="failed")], "all of its 1 failed")]
)
def test_nothing_finished_is_said(rows: list, why: str) -> None:
    with pytest.raises(PrecropError, match=f"no finished run, {why}"):
        frame_of(rows)


def test_an_older_asking_of_the_same_name_is_left_out() -> None:
    old = [made_row(seed=n, cell=f"old{n}", started=STARTED) for n in range(3)]
    later = STARTED + timedelta(hours=1)
    new = made_row(seed=1, cell="new1", accuracy=0.9, started=later)
    frame = frame_of([new, *old])
    assert [row.cell for row in frame.rows] == ["new1"]
    assert sorted(row.cell for row in frame.replaced) == ["old0", "old1", "old2"]


def test_a_newer_asking_is_whole_in_whatever_order_its_seeds_ran() -> None:
    """Seeds 2 and 3 were asked for alone before; then all four were, of another network."""
    old = [made_row(seed=n, cell=f"old{n}", started=STARTED) for n in (2, 3)]
    times = [STARTED + timedelta(hours=n + 1) for n in range(4)]
    made = {"params": 90_000}
    new = [made_row(seed=n, cell=f"new{n}", started=times[n], **made) for n in range(4)]
    frame = frame_of([*new, *old])
    assert [row.cell for row in frame.rows] == ["new0", "new1", "new2", "new3"]
    # Not so where the seeds that ran before the others are of the old network.
    new[0] = made_row(seed=0, cell="old0", started=times[0])
    assert [row.cell for row in frame_of([*new, *old]).rows] == ["new1", "new2", "new3"]


def test_two_studies_may_mean_different_things_by_a_name() -> None:
    rows = [made_row(study="one", cell="a"), made_row(study="two", cell="b")]
    frame = frame_of(rows)
    assert frame.variants == ("PreCrop (one)", "PreCrop (two)")
    assert not frame.replaced


def test_seeds_of_two_studies_are_one_group_where_they_do_not_clash() -> None:
    frame = frame_of([made_row(study="one", seed=0), made_row(study="two", seed=1)])
    assert [len(group.rows) for group in frame.groups] == [2]


def test_the_order_does_not_depend_on_that_of_the_rows() -> None:
    rows = made_study()
    assert frame_of(rows) == frame_of(rows[::-1])
    first = [group.variant for group in frame_of(rows).groups][:3]
    assert first == ["dense", "uniform width", "PreCrop"]


def test_widths_and_densities_are_means_over_seeds() -> None:
    rows = [
        made_row(seed=n, widths={"a": (3, 8 + n), "b": (8, 4)}, densities={"a": 0.2 + 0.2 * n})
        for n in range(2)
    ]
    (group,) = frame_of(rows).groups
    assert group.widths == {"a": 8.5, "b": 4}
    assert group.densities == pytest.approx({"a": 0.3})


@pytest.mark.parametrize(
    ("count", "text"), [(7, "7"), (81_234, "81.2 k"), (2_500_000, "2.5 M"), (4.1e9, "4.1 G")]
)
def test_counts_are_short(count: float, text: str) -> None:
    assert short_count(count) == text
