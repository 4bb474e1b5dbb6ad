"""Cells: which ones a study has, what each of them trains, and the row that comes of it."""

import dataclasses
import pickle
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

import precrop
from precrop.errors import BudgetError, PrecropError
from precrop.model_spec import ModelSpec
from precrop.plans.weights import load_tensors
from precrop.pruning.methods import layer_densities
from precrop.pruning.problem import Problem
from precrop.study.cells import Cell, check, expand, failure, label, outcome, prepare
from precrop.study.events import Began, Ended, Epoch, Event
from precrop.study.rows import Row
from precrop.study.spec import Limits, Series, Study, StudyNetwork
from precrop.study.variants import Variant
from precrop.study.worker import work
from precrop.training.data import load_data
from precrop.training.loop import MASKS, sample, train
from precrop.training.networks import build
from precrop.training.recipes import RECIPES
from precrop.training.runs import MaskSpec, Run
from tests.training.small_runs import digits

NET = "tests.training.small_runs:batch_net"
RECIPE = RECIPES["digits"].changed({"epochs": 1})
HALF = Limits(params=0.5, macs=0.5)
DENSE, PRECROP = Variant("dense"), Variant("PreCrop", "plan")
SYNFLOW = Variant("SynFlow", densities="synflow", mask="weight")
TIMES: dict[str, Any] = {
    "started": datetime(2026, 1, 1, tzinfo=UTC),
    "ended": datetime(2026, 1, 2, tzinfo=UTC),
    "device": "cpu",
}


OURS = StudyNetwork(ModelSpec(NET, {}), RECIPE)


def cell(how: Variant = PRECROP, limits: Limits = HALF, **changes: Any) -> Cell:
    made = Cell("small", ModelSpec(NET, {}), how, limits, 0, RECIPE, "digits", "digits")
    return dataclasses.replace(made, **changes)


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


class TestPreparing:
    def test_a_dense_network(self) -> None:
        prepared = prepare(cell(DENSE, Limits()), digits())
        assert prepared.run.plan is None
        assert prepared.run.mask is None
        assert prepared.run.model.args == {"num_classes": 10}
        assert (prepared.run.data_name, prepared.run.data_digest) == ("digits", digits().digest)
        built = build(prepared.run)
        assert (built.params, built.macs) == (prepared.original.params, prepared.original.macs)

    def test_a_plan_is_the_same_for_every_seed(self) -> None:
        plans = [prepare(cell(seed=seed), digits()).run.plan for seed in (0, 1)]
        assert plans[0] is not None
        assert plans[1] is not None
        assert plans[0].widths == plans[1].widths
        assert plans[0].params <= 0.5 * plans[0].base_params

    @pytest.mark.parametrize("method", ["synflow", "snip", "random", "erk"])
    def test_methods_see_the_weights_that_are_trained(self, method: str) -> None:
        asked = cell(
            Variant("x", "plan", densities=method), seed=5, network=ModelSpec("resnet20", {})
        )
        prepared = prepare(asked, digits())
        run = dataclasses.replace(prepared.run, plan=None)
        model = build(run).network
        rest = prepared.original.params - sum(layer.weights for layer in prepared.original.layers)
        limits = {
            "params": prepared.original.params // 2 - rest,
            "macs": prepared.original.macs // 2,
        }
        data = sample(run, digits())
        problem = Problem.of(model, run.input_shape, limits, data=data, seed=5)
        densities = layer_densities(problem, method)
        options: dict[str, Any] = {"params": 0.5, "macs": 0.5, "divisor": 1}
        plan = precrop.plan(model, run.input_shape, densities=densities, **options)
        assert prepared.run.plan is not None
        assert prepared.run.plan.widths == plan.widths
        assert [one.target for one in prepared.run.plan.layers] == [
            one.target for one in plan.layers
        ]

    def test_options_of_a_method_decide_masks_and_widths(self) -> None:
        options = {"batch_norm": "stored"}
        masked, cropped = (
            [
                prepare(cell(how, network=ModelSpec("resnet20", {})), digits())
                for how in (variant, dataclasses.replace(variant, method_options=options))
            ]
            for variant in (
                Variant("x", densities="snip", mask="weight"),
                Variant("x", "plan", densities="snip"),
            )
        )
        assert [one.run.mask.options for one in masked if one.run.mask] == [{}, options]
        batches = sample(masked[0].run, digits())
        one, other = (masks_of(build(prepared.run, lambda: batches).network) for prepared in masked)
        assert any(not torch.equal(mask, other[name]) for name, mask in one.items())
        targets = [
            [layer.target for layer in one.run.plan.layers] for one in cropped if one.run.plan
        ]
        assert targets[0] != targets[1]

    @pytest.mark.parametrize("method", ["synflow", "magnitude", "erk", "uniform"])
    def test_masks_keep_to_the_budgets_of_the_whole_network(self, method: str) -> None:
        how = Variant("x", densities=method, mask="weight")
        prepared = prepare(
            cell(how, Limits(params=0.3, macs=0.9), network=ModelSpec("resnet20", {})), digits()
        )
        assert prepared.run.plan is None
        built = build(prepared.run)
        shares = built.params / prepared.original.params, built.macs / prepared.original.macs
        assert shares[0] == pytest.approx(0.3, abs=1e-4)
        assert shares[1] <= 0.9

    def test_a_mask_to_a_plans_densities(self) -> None:
        cropped = prepare(cell(network=ModelSpec("resnet20", {})), digits()).run.plan
        how = Variant("filters", "plan", mask="filter")
        prepared = prepare(cell(how, network=ModelSpec("resnet20", {})), digits())
        spec = prepared.run.mask
        assert cropped is not None
        assert spec is not None
        assert prepared.run.plan is None
        assert spec.densities == {layer.name: layer.density for layer in cropped.layers}
        again = Run.from_json(prepared.run.described(), trust=True)
        assert again == prepared.run
        built = build(prepared.run)
        assert built.macs == pytest.approx(cropped.macs, rel=0.01)
        shares = [float(m.double().mean()) for m in masks_of(built.network).values()]
        wanted = list(spec.densities.values())
        widths = [layer.base_out for layer in cropped.layers]
        assert all(
            abs(share - want) < 1 / width
            for share, want, width in zip(shares, wanted, widths, strict=True)
        )

    def test_matching_another_variant(self) -> None:
        asked = cell(SYNFLOW, network=ModelSpec("resnet20", {}))
        masked = build(prepare(asked, digits()).run)
        matched = prepare(
            cell(PRECROP.matched(SYNFLOW), network=ModelSpec("resnet20", {})), digits()
        ).run.plan
        assert matched is not None
        assert masked.params < 0.4 * matched.base_params
        assert 0.98 * masked.params < matched.params <= masked.params
        assert 0.98 * masked.macs < matched.macs <= masked.macs

    def test_old_masks_keep_their_identity(self) -> None:
        spec = MaskSpec("synflow", "weight", 0.1)
        assert spec.to_json() == {
            "method": "synflow",
            "granularity": "weight",
            "params": 0.1,
            "macs": None,
        }


def masks_of(network: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    return {name: value for name, value in network.named_buffers() if name.endswith("_mask")}


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
        assert row.densities == {layer.name: layer.density for layer in plan.layers}
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
        masks = load_tensors(folder / MASKS)
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


class TestChecking:
    def test_what_is_right(self) -> None:
        cells = [
            cell(DENSE, Limits()),
            cell(),
            cell(SYNFLOW),
            cell(Variant("x", "plan", densities="snip")),
            cell(Variant("y", "uniform", mask="kernel")),
            cell(PRECROP.matched(SYNFLOW)),
        ]
        check(cells, digits())

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            (
                cell(network=ModelSpec("resnet21", {})),
                "resnet21, PreCrop, .*: unknown model 'resnet21'; did you",
            ),
            (
                cell(network=ModelSpec(NET, {"depth": 3})),
                r"batch_net\(depth=3\), PreCrop, .* could not be built",
            ),
            (
                cell(limits=Limits(params=0.001)),
                "PreCrop, params 0.1%, seed 0: params=1 .* the least poss",
            ),
            (
                cell(SYNFLOW, Limits(params=0.02)),
                "params=0.02 cannot be met: of 1586, 58 cannot be masked",
            ),
            (cell(Variant("x", "plan", {"rule": "x"})), "x, params 50%.* rule='x' is unknown"),
            (cell(Variant("x", "plan", {"ignore": ["a"]})), "ignore pattern 'a' matches no layer"),
            (cell(Variant("x", "torch-pruning", {"importance": "x"})), "importance 'x' is unknown"),
            (cell(Variant("x", "plan", {"widths": {"0": 9}})), "0 cannot have 9 channels"),
        ],
    )
    def test_what_is_wrong(self, asked: Cell, message: str) -> None:
        with pytest.raises(PrecropError, match=message) as caught:
            check([cell(), asked], digits())
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(label(asked))

    def test_an_impossible_budget_stays_a_budget_error(self) -> None:
        with pytest.raises(BudgetError):
            check([cell(limits=Limits(params=20))], digits())

    def test_a_network_that_does_not_fit_the_data(self) -> None:
        with pytest.raises(PrecropError, match="gives 1x7 for an image, not 1x10"):
            check([cell(DENSE, Limits(), network=ModelSpec(NET, {"num_classes": 7}))], digits())

    def test_what_fails_alike_is_tried_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tried: list[Cell] = []
        snip = Variant("SNIP", densities="snip", mask="weight")
        monkeypatch.setattr("precrop.study.cells.try_out", lambda asked, data: tried.append(asked))
        check([cell(seed=seed) for seed in range(5)] + [cell(SYNFLOW), cell(snip)], digits())
        assert [asked.variant for asked in tried] == ["PreCrop", "SynFlow"]
