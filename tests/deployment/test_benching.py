import itertools
import json
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

import precrop
from precrop.deployment import benching
from precrop.deployment.benching import (
    DENSE,
    Bench,
    BenchRow,
    BenchVariant,
    bench,
    settings,
    variants,
)
from precrop.deployment.exportable import noise
from precrop.deployment.setting import Setting
from precrop.deployment.timing import Run, Timing
from precrop.errors import PlanError, PrecropError
from precrop.models import resnet20
from tests.deployment.benched import SHAPE, inputs, small

LAYOUTS = ("csr", "bsr", "scipy-csr")


@pytest.fixture(scope="module")
def plan() -> precrop.Plan:
    return precrop.plan(small(), SHAPE, macs=0.5)


@pytest.fixture(scope="module")
def forms(plan: precrop.Plan) -> dict[str, BenchVariant]:
    found = variants(small(), SHAPE, {"half": plan}, masked=True, sparse=LAYOUTS)
    return {variant.name: variant for variant in found}


def test_names_and_costs(plan: precrop.Plan, forms: dict[str, BenchVariant]) -> None:
    sparse = [f"masked {layout}" for layout in LAYOUTS]
    assert list(forms) == [DENSE, "cropped", "masked", *sparse]
    dense, cropped = forms[DENSE], forms["cropped"]
    assert (dense.params, dense.macs) == (plan.base_params, plan.base_macs)
    assert (cropped.params, cropped.macs) == (plan.params, plan.macs)
    assert cropped.params == sum(p.numel() for p in cropped.model.parameters())


def test_a_mask_has_the_plans_density_in_every_layer(
    plan: precrop.Plan, forms: dict[str, BenchVariant]
) -> None:
    model = forms["masked"].model
    assert any(layer.density < 0.9 for layer in plan.layers)
    for layer in plan.layers:
        weight = model.get_parameter(layer.weight)
        kept = int(weight.count_nonzero())
        assert abs(kept - layer.density * weight.numel()) < 1


def test_what_is_masked_is_not_counted(plan: precrop.Plan, forms: dict[str, BenchVariant]) -> None:
    masked = forms["masked"]
    weights = {layer.weight for layer in plan.layers}
    assert masked.params == sum(
        int(p.count_nonzero()) if name in weights else p.numel()
        for name, p in masked.model.named_parameters()
    )
    assert masked.macs == pytest.approx(plan.macs, rel=0.02)


def test_masked_activations_stay_as_large() -> None:
    """Twenty layers that keep a tenth of their weights would shrink them a billionfold."""
    torch.manual_seed(0)
    wide = [nn.Linear(64, 64, bias=False) for _ in range(20)]
    for layer in wide:
        nn.init.normal_(layer.weight, std=64**-0.5)
    model = nn.Sequential(*wide)
    plan = precrop.plan(model, (64,), params=0.15)
    masked = variants(model, (64,), {"plan": plan}, masked=True)[2]
    with torch.inference_mode():
        before, after = model(torch.ones(1, 64)).std(), masked.model(torch.ones(1, 64)).std()
    assert 0.1 < after / before < 10


def test_all_masked_variants_are_one_network(forms: dict[str, BenchVariant]) -> None:
    x = noise(inputs(), small(), 2)[0][0]
    with torch.inference_mode():
        wanted = forms["masked"].model.eval()(x)
        for layout in LAYOUTS:
            sparse = forms[f"masked {layout}"]
            torch.testing.assert_close(sparse.model.eval()(x), wanted, atol=1e-4, rtol=1e-4)
            assert sparse.macs == forms["masked"].macs
            assert sparse.notes is not None
            assert "depthwise" in sparse.notes


def test_the_seed_draws_the_mask(plan: precrop.Plan) -> None:
    def weight(seed: int) -> torch.Tensor:
        found = variants(small(), SHAPE, {"half": plan}, masked=True, seed=seed)
        return found[-1].model.get_parameter("pointwise.weight")

    assert torch.equal(weight(0), weight(0))
    assert not torch.equal(weight(0), weight(1))


def test_several_plans_are_told_apart(plan: precrop.Plan) -> None:
    other = precrop.plan(small(), SHAPE, macs=0.7, divisor=4)
    found = variants(small(), SHAPE, {"half": plan, "more": other}, masked=True)
    names = [DENSE, "cropped half", "masked half", "cropped more", "masked more"]
    assert [variant.name for variant in found] == names


def test_all_is_measured_and_what_cannot_run_says_why(forms: dict[str, BenchVariant]) -> None:
    chosen = settings(["eager", "ort"], [1, 2], [1])
    found = bench(
        [forms[name] for name in (DENSE, "cropped", "masked csr")], SHAPE, chosen, rounds=2
    )
    assert len(found.rows) == 4 * 3
    assert list(found.settings) == [
        Setting("eager", 1), Setting("eager", 2), Setting("ort", 1), Setting("ort", 2),
    ]  # fmt: skip
    for row in found.rows:
        if row.variant == "masked csr" and row.runtime == "ort":
            assert row.reason == "sparse kernels run in eager PyTorch only"
            assert row.latency is row.speedup is row.peak_memory is row.rounds is None
            continue
        assert row.reason is None
        assert row.latency is not None
        assert row.latency > 0
        assert row.rounds == 2
        assert (row.peak_memory is not None) == (row.runtime == "eager")
    json.dumps(found.to_json(), allow_nan=False)


@pytest.fixture
def fixed_times(monkeypatch: pytest.MonkeyPatch) -> dict[str, Timing]:
    """Runs nothing for long: `bench` gets these times instead."""
    times = {DENSE: Timing((0.4,) * 3), "cropped": Timing((0.1, 0.25, 0.4))}
    monkeypatch.setattr(
        benching, "interleaved", lambda runs, **options: {name: times[name] for name in runs}
    )
    return times


def one(found: Bench, variant: str) -> BenchRow:
    (row,) = [row for row in found.rows if row.variant == variant]
    return row


def test_ratios_are_to_dense_in_the_same_setting(
    forms: dict[str, BenchVariant], fixed_times: dict[str, Timing]
) -> None:
    found = bench([forms[DENSE], forms["cropped"]], SHAPE, settings(batches=[8]))
    row, dense = one(found, "cropped"), one(found, DENSE)
    assert (row.latency, row.throughput) == (0.25, 8 / 0.25)
    assert row.speedup == 0.4 / 0.25
    assert row.ideal == forms[DENSE].macs / forms["cropped"].macs
    assert row.share_of_ideal == pytest.approx(1.6 / row.ideal)
    assert (dense.speedup, dense.ideal, dense.share_of_ideal) == (1.0, 1.0, 1.0)
    assert (row.low, row.high) == (fixed_times["cropped"].low, fixed_times["cropped"].high)


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("not today")


def test_without_dense_there_is_no_speedup(
    forms: dict[str, BenchVariant], fixed_times: dict[str, Timing]
) -> None:
    broken = BenchVariant(DENSE, Broken(), 1, 1)
    found = bench([broken, forms["cropped"]], SHAPE, settings())
    assert one(found, DENSE).reason == "eager cannot run this network: ValueError: not today"
    assert one(found, "cropped").latency == 0.25
    assert one(found, "cropped").speedup is None


def test_where_nothing_runs_there_are_only_reasons() -> None:
    found = bench([BenchVariant(DENSE, Broken(), 1, 1)], SHAPE, settings())
    assert [row.latency for row in found.rows] == [None]
    assert found.rows[0].reason is not None


def test_variants_take_turns(
    forms: dict[str, BenchVariant], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    clock = itertools.count()

    names = {id(forms[name].model): name for name in (DENSE, "cropped")}

    def watched(model: nn.Module, *_: object) -> Any:
        return nullcontext([lambda: calls.append(names[id(model)])])

    monkeypatch.setattr(benching, "sessions", watched)
    monkeypatch.setattr(Setting, "clock", property(lambda _: lambda: float(next(clock))))
    bench([forms[DENSE], forms["cropped"]], SHAPE, settings(), rounds=3)
    warm = 2 * benching.WARMUP
    initials = "".join(name[0] for name in calls)
    assert initials[warm:] == "dc" + "cd" + "dc"


def test_threads_are_restored_where_it_is_stopped(
    forms: dict[str, BenchVariant], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def stopped(runs: Mapping[str, Run], **options: object) -> None:
        for run in runs.values():
            run()
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt

    monkeypatch.setattr(benching, "interleaved", stopped)
    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        bench(list(forms.values()), SHAPE, settings(threads=[before + 1]), rounds=1)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_progress_goes_from_none_to_all(forms: dict[str, BenchVariant]) -> None:
    told: list[tuple[str, float]] = []
    chosen = settings(batches=[1, 2])
    bench([forms[DENSE]], SHAPE, chosen, rounds=2, progress=lambda *now: told.append(now))
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert told[-1][0] == "eager, batch 2, 1 thread, cpu: measuring"


def test_the_machine_is_described(forms: dict[str, BenchVariant]) -> None:
    machine = bench([forms[DENSE]], SHAPE, settings(), rounds=1).machine
    assert machine["cpu"]
    assert machine["cores"] >= 1
    assert machine["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert machine["date"].endswith("+00:00")
    assert "gpu" not in machine


def test_a_plan_for_another_network_is_refused(plan: precrop.Plan) -> None:
    with pytest.raises(PlanError):
        variants(resnet20(), SHAPE, {"half": plan})


def test_a_plan_for_another_input_is_refused(plan: precrop.Plan) -> None:
    with pytest.raises(PlanError, match="plan half is for an input of 3x8x8, not 3x16x16"):
        variants(small(), (3, 16, 16), {"half": plan})


def test_masks_need_a_plan_that_does_not_widen(plan: precrop.Plan) -> None:
    with pytest.raises(PrecropError, match="give a plan, or a budget to make one"):
        variants(small(), SHAPE, {}, masked=True)
    wider = precrop.plan(small(), SHAPE, params=1.0, expand=True)
    assert wider.widened
    with pytest.raises(PrecropError, match="this plan widens"):
        variants(small(), SHAPE, {"wider": wider}, sparse=["csr"])


def test_what_was_timed_counts_where_its_memory_cannot_be_told(
    forms: dict[str, BenchVariant], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> int:
        raise PrecropError("no memory")

    monkeypatch.setattr(benching, "peak_activation_memory", no_room)
    (row,) = bench([forms["dense"]], SHAPE, settings(), rounds=1).rows
    assert row.latency is not None
    assert row.peak_memory is None


def test_networks_without_macs_are_measured() -> None:
    pool = nn.Sequential(nn.AvgPool2d(2), nn.BatchNorm2d(3))
    (row,) = bench(variants(pool, SHAPE, {}), SHAPE, settings(), rounds=1).rows
    assert (row.macs, row.ideal, row.speedup) == (0, 1.0, 1.0)


def test_a_dict_may_be_one_argument() -> None:
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.op = nn.Conv2d(3, 4, 1)

        def forward(self, batch: Any) -> Any:
            return self.op(batch["a"])

    shapes = {"a": SHAPE}
    (row,) = bench(variants(Takes(), shapes, {}), shapes, settings(), rounds=1).rows
    assert row.reason is None


@pytest.mark.parametrize(
    ("model", "example", "batch"),
    [(nn.LSTM(6, 8), torch.randn(7, 2, 6), 1), (nn.Linear(3, 8), torch.randn(3), None)],
)
def test_examples_lie_along_the_axis_that_plans_find(
    model: nn.Module, example: torch.Tensor, batch: int | None
) -> None:
    plan = precrop.plan(model, example, params=1.0)
    forms = variants(model, example, {"small": plan})
    found = bench(forms, example, settings(batches=(4,)), rounds=1)
    assert found.input_shape == plan.input_shape
    assert found.input_shape["example"]["args"][0][1]["batch"] == batch
    assert [row.reason for row in found.rows] == [None, None]


def test_bad_input_is_one_line(plan: precrop.Plan, forms: dict[str, BenchVariant]) -> None:
    with pytest.raises(PrecropError, match="layout 'coo' is unknown"):
        variants(small(), SHAPE, {"half": plan}, sparse=["coo"])
    with pytest.raises(PrecropError, match="runtime 'tvm' is unknown"):
        settings(["tvm"])
    with pytest.raises(PrecropError, match="device cuda:99 is not there"):
        settings(device="cuda:99")
    with pytest.raises(PrecropError, match="give 1 or more of both"):
        settings(threads=[0])
    with pytest.raises(PrecropError, match="0 settings in 30 rounds"):
        bench(list(forms.values()), SHAPE, settings([]))
    with pytest.raises(PrecropError, match="1 settings in 0 rounds"):
        bench(list(forms.values()), SHAPE, settings(), rounds=0)
