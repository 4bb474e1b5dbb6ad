"""What a cell trains, and what cannot be trained."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch

import precrop
from precrop.errors import BudgetError, PrecropError
from precrop.model_spec import ModelSpec
from precrop.pruning.methods import layer_densities
from precrop.pruning.problem import Problem
from precrop.study import preparing
from precrop.study.cells import Cell, label
from precrop.study.preparing import check, prepare
from precrop.study.spec import Limits
from precrop.study.variants import Variant
from precrop.training.batches import sample
from precrop.training.networks import build
from precrop.training.runs import MaskSpec, Run
from tests.study.small_cells import DENSE, NET, PRECROP, SYNFLOW, cell
from tests.training.small_runs import digits


def masks_of(network: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    return {name: value for name, value in network.named_buffers() if name.endswith("_mask")}


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
        data = sample(digits(), run.recipe.batch_size, run.seed)
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
        batches = sample(digits(), masked[0].run.recipe.batch_size, masked[0].run.seed)
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

    @pytest.mark.parametrize("method", ["synflow", "snip", "erk"])
    def test_what_is_not_trained_is_not_masked_and_counts(self, method: str) -> None:
        how = Variant("x", densities=method, mask="weight")
        network = ModelSpec("tests.study.small_cells:fixed_net", {})
        prepared = prepare(cell(how, Limits(params=0.4), network=network), digits())
        run = prepared.run
        built = build(run, lambda: sample(digits(), run.recipe.batch_size, run.seed))
        assert built.params == pytest.approx(0.4 * prepared.original.params, abs=1)
        assert [*masks_of(built.network)] == ["2.weight_mask", "6.weight_mask"]

    def test_a_mask_to_a_plans_densities(self) -> None:
        cropped = prepare(cell(network=ModelSpec("resnet20", {})), digits()).run.plan
        how = Variant("filters", "plan", mask="filter")
        prepared = prepare(cell(how, network=ModelSpec("resnet20", {})), digits())
        spec = prepared.run.mask
        assert cropped is not None
        assert spec is not None
        assert prepared.run.plan is None
        assert spec.densities == cropped.densities
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
        monkeypatch.setattr(preparing, "try_out", lambda asked, data: tried.append(asked))
        check([cell(seed=seed) for seed in range(5)] + [cell(SYNFLOW), cell(snip)], digits())
        assert [asked.variant for asked in tried] == ["PreCrop", "SynFlow"]
