"""Cells: which ones a study has, and what they are called."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest

from precrop.model_spec import ModelSpec
from precrop.study.cells import expand, label
from precrop.study.events import Began, Ended, Epoch, Event
from precrop.study.preparing import prepare
from precrop.study.spec import Limits, Series, Study, StudyNetwork
from precrop.study.variants import Variant
from precrop.study.worker import work
from precrop.training.data import load_data
from tests.study.small_cells import DENSE, HALF, NET, OURS, PRECROP, RECIPE, SYNFLOW, cell
from tests.training.small_runs import digits


def study(*series: Series, networks: tuple[StudyNetwork, ...] = (OURS,)) -> Study:
    return Study("small", "", "digits", "digits", networks, series)


def series(how: Variant, *budgets: Limits, seeds: tuple[int, ...] = (0, 1)) -> Series:
    return Series(how, (OURS,), budgets or (Limits(),), seeds)


class TestIds:
    def test_they_never_change(self) -> None:
        assert cell().id == "ddc0cc8ec809"
        assert cell(DENSE, Limits()).id == "38d28d0ae25f"

    @pytest.mark.parametrize(
        "changes",
        [
            {"network": ModelSpec("resnet20", {})},
            {"network": ModelSpec(NET, {"num_classes": 10})},
            {"how": Variant("other", "plan")},
            {"how": Variant("PreCrop", "uniform")},
            {"how": Variant("PreCrop", "plan", {"divisor": 2})},
            {"how": Variant("PreCrop", "plan", {}, "erk")},
            {"how": Variant("PreCrop", "plan", {}, None, "weight")},
            {"how": Variant("PreCrop", "plan", match=SYNFLOW)},
            {"limits": Limits(params=0.5)},
            {"limits": Limits(params=0.5, macs=0.4)},
            {"seed": 1},
            {"recipe": RECIPE.changed({"lr": 0.2})},
            {"data_name": "cifar10"},
            {"image_size": 16},
        ],
    )
    def test_whatever_is_asked_for_counts(self, changes: dict[str, Any]) -> None:
        assert cell(**changes).id != cell().id

    def test_names_of_studies_and_folders_do_not(self) -> None:
        assert cell(study="other", data="/elsewhere").id == cell().id


class TestExpanding:
    def test_the_order(self) -> None:
        second = StudyNetwork(ModelSpec("resnet20", {}), RECIPE)
        both = (OURS, second)
        made = study(
            Series(DENSE, both, (Limits(),), (7,)),
            Series(PRECROP, both, (HALF, Limits(params=0.2)), (0, 1)),
            Series(SYNFLOW, (second,), (Limits(params=0.2),), (0,)),
            networks=both,
        )
        found = [(c.network.name, c.limits.params, c.variant, c.seed) for c in expand(made)]
        first = [(None, "dense", 7), (0.5, "PreCrop", 0), (0.5, "PreCrop", 1)]
        last = [(0.2, "PreCrop", 0), (0.2, "PreCrop", 1)]
        assert found == [
            *((NET, *rest) for rest in first + last),
            *(("resnet20", *rest) for rest in [*first, (0.2, "SynFlow", 0), *last]),
        ]

    def test_none_twice(self) -> None:
        made = study(series(PRECROP, Limits(params=0.5), Limits(params=0.5), seeds=(0,)))
        assert len(expand(made)) == 1

    def test_what_a_cell_knows(self) -> None:
        (found,) = expand(study(series(SYNFLOW, HALF, seeds=(3,))).at("/digits"))
        assert found == cell(SYNFLOW, seed=3, data="/digits")
        assert (found.how.kind, found.how.method, found.how.granularity) == (
            "masked",
            "synflow",
            "weight",
        )
        assert pickle.loads(pickle.dumps(found)).id == found.id


def test_labels() -> None:
    assert label(cell(seed=2)) == f"{NET}, PreCrop, params 50%, macs 50%, seed 2"
    absolute = cell(DENSE, Limits(macs="2M"), network=ModelSpec("vgg", {"width": 2}))
    assert label(absolute) == "vgg(width=2), dense, macs 2M, seed 0"


def test_a_size_of_images_is_trained_at(tmp_path: Path) -> None:
    made = dataclasses.replace(study(series(DENSE, seeds=(0,))), image_size=12)
    (resized,) = expand(made)
    told: list[Event] = []
    ended, fit = work(resized, tmp_path, told.append)
    assert isinstance(ended, Ended)
    row, plain = ended.row, prepare(cell(DENSE, Limits()), digits())
    assert (fit, row.status, row.error) == (True, "done", None)
    assert row.cell == resized.id != cell(DENSE, Limits()).id
    assert row.run != plain.run.id
    assert row.data_digest == load_data("digits", image_size=12).digest != digits().digest
    assert row.base_macs is not None
    assert row.base_macs > plain.original.macs
    (figures,) = row.history
    assert row.run is not None
    assert told == [
        Began(resized.id, row.run, RECIPE.epochs),
        Epoch(resized.id, RECIPE.epochs, figures["accuracy"]),
    ]
    assert row.overhead > 0
    work(resized, tmp_path, told.append)  # as another study would, which comes to the same run
    assert told[2:] == told[:1]
