"""The row that comes of a cell."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from precrop.errors import PrecropError
from precrop.plans.weights import load_tensors
from precrop.study.cells import Cell
from precrop.study.outcomes import failure, outcome
from precrop.study.preparing import prepare
from precrop.study.rows import Row
from precrop.study.spec import Limits
from precrop.training.loop import train
from tests.study.small_cells import DENSE, NET, RECIPE, SYNFLOW, TIMES, cell
from tests.training.small_runs import digits


def trained(asked: Cell, folder: Path) -> tuple[Row, Path]:
    prepared = prepare(asked, digits())
    prepared = pickle.loads(pickle.dumps(prepared))
    result = train(prepared.run, data=digits(), output=folder, loggers=["none"])
    return outcome(asked, prepared, result, overhead=0.5, **TIMES), result.folder


class TestOutcomes:
    def test_dense(self, tmp_path: Path) -> None:
        row, _ = trained(cell(DENSE, Limits()), tmp_path)
        assert (row.kind, row.method, row.granularity) == ("dense", "", "")
        assert (row.asked_params, row.asked_macs) == (None, None)
        assert (row.params, row.macs) == (row.base_params, row.base_macs)
        assert row.densities == {"0": 1.0, "3": 1.0, "9": 1.0}
        assert row.widths == {"0": (3, 8), "3": (8, 16), "9": (16, 10)}

    def test_diverged_at_its_end(self, tmp_path: Path) -> None:
        asked = cell(DENSE, Limits())
        prepared = prepare(asked, digits())
        result = train(prepared.run, data=digits(), output=tmp_path, loggers=["none"])
        for loss in (float("inf"), float("nan")):
            row = outcome(asked, prepared, replace(result, loss=loss), overhead=0.5, **TIMES)
            assert (row.status, row.accuracy) == ("failed", None)
            assert row.error == f"the held-out images' loss is {loss} after training"
            assert (row.data_digest, row.overhead) == (digits().digest, 0.5)

    def test_cropped(self, tmp_path: Path) -> None:
        asked = cell(seed=1)
        row, _ = trained(asked, tmp_path)
        plan = prepare(asked, digits()).run.plan
        assert plan is not None
        assert (row.cell, row.study, row.variant, row.seed) == (asked.id, "small", "PreCrop", 1)
        assert (row.kind, row.method, row.granularity) == ("cropped", "synexp", "channel")
        assert (row.asked_params, row.asked_macs) == (0.5, 0.5)
        assert (row.params, row.macs) == (plan.params, plan.macs)
        assert (row.base_params, row.base_macs) == (plan.base_params, plan.base_macs)
        assert row.widths == plan.widths
        assert row.densities == plan.densities
        assert (row.status, row.error, row.network, row.args) == ("done", None, NET, {})
        assert (row.data, row.data_digest) == ("digits", digits().digest)
        assert row.recipe == RECIPE.to_json()
        assert row.accuracy is not None
        assert 0 < row.accuracy <= 1
        assert len(row.history) == 1
        assert row.versions["torch"] == str(torch.__version__)
        assert (row.overhead, row.started, row.ended) == (0.5, TIMES["started"], TIMES["ended"])

    def test_masked(self, tmp_path: Path) -> None:
        row, folder = trained(cell(SYNFLOW, Limits(params="60%", macs=9_000)), tmp_path)
        masks = load_tensors(folder / "masks.safetensors")
        shares = {name: float(mask.double().mean()) for name, mask in masks.items()}
        assert row.densities == {name: shares[f"{name}.weight"] for name in ("0", "3", "9")}
        assert min(row.densities.values()) < 1
        assert row.widths == {"0": (3, 8), "3": (8, 16), "9": (16, 10)}
        assert row.base_params is not None
        assert row.base_macs is not None
        assert row.asked_params == pytest.approx(0.6, abs=1 / row.base_params)
        assert row.asked_macs == 9_000 / row.base_macs
        assert row.params is not None
        assert row.params < 0.6 * row.base_params

    def test_failed(self) -> None:
        asked = cell(limits=Limits(params=0.5, macs="9K"))
        row = failure(asked, RuntimeError("out\nof memory"), overhead=1.0, **TIMES)
        assert (row.status, row.error) == ("failed", "RuntimeError: out of memory")
        assert (row.cell, row.run, row.accuracy) == (asked.id, None, None)
        assert (row.asked_params, row.asked_macs) == (0.5, None)
        assert (row.data, row.data_digest) == ("digits", "")
        known = failure(asked, PrecropError("no room"), data_digest="abc", **TIMES)
        assert (known.error, known.data_digest) == ("no room", "abc")
        assert failure(asked, MemoryError(), **TIMES).error == "MemoryError"
        assert failure(replace(asked, image_size=4), MemoryError(), **TIMES).data == "digits 4x4"
