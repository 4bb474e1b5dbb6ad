"""Benchmarks variants of a network: dense, cropped, and masked to the same densities."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from precrop.costs.machine import describe_machine
from precrop.counting import count
from precrop.deployment.memory import peak_activation_memory
from precrop.deployment.runtimes import sessions
from precrop.deployment.setting import Setting
from precrop.deployment.sparse import LAYOUTS, sparse_kernels
from precrop.deployment.timing import Run, Timing, interleaved
from precrop.errors import PlanError, PrecropError, check_known
from precrop.modules.copying import copied
from precrop.progress import Told, unheard
from precrop.read.inputs import Inputs
from precrop.read.network import given_inputs

if TYPE_CHECKING:
    from precrop.plans.plan import Plan

DENSE = "dense"
LEAST_SECONDS = 0.005
"""Least duration of a sample, so that the time of reading the clock is negligible."""
WARMUP = 3


@dataclass(frozen=True)
class BenchVariant:
    """A variant of the network to benchmark.

    Attributes:
        name: its name, unique within a benchmark.
        model: the network; it is not changed.
        params: number of parameters, without masked weights.
        macs: multiply-accumulates at batch 1, without those by masked weights.
        sparse: the layout of its sparse kernels, which run in eager PyTorch only; None if dense.
        notes: for sparse kernels, the layers that stay on dense ones, and why.
    """

    name: str
    model: nn.Module
    params: int
    macs: int
    sparse: str | None = None
    notes: Mapping[str, str] | None = None


@dataclass(frozen=True)
class BenchRow:
    """The result of one variant in one setting.

    Attributes:
        variant: its name; its ``params`` and ``macs`` are those of `BenchVariant`.
        runtime: as in `precrop.deployment.setting.Setting`, like the three that follow.
        ideal: the dense network's multiply-accumulates divided by the variant's: the speed-up if
            they alone took time.
        reason: why the variant was not measured, in which case all fields below are None.
        latency: median, in seconds; ``low`` and ``high`` are the 10th and the 90th percentile.
        spread: ``high - low`` as a share of the median.
        throughput: images per second, at the median latency.
        speedup: the dense network's latency in the same setting, divided by this one.
        share_of_ideal: ``speedup / ideal``.
        peak_memory: see `precrop.deployment.memory.peak_activation_memory`; eager PyTorch only.
        rounds: number of samples.
    """

    variant: str
    runtime: str
    batch: int
    threads: int
    device: str
    params: int
    macs: int
    ideal: float
    reason: str | None = None
    latency: float | None = None
    low: float | None = None
    high: float | None = None
    spread: float | None = None
    throughput: float | None = None
    speedup: float | None = None
    share_of_ideal: float | None = None
    peak_memory: int | None = None
    rounds: int | None = None


@dataclass(frozen=True)
class Bench:
    """The result of a benchmark: one row for each variant in each setting.

    Attributes:
        machine: the machine, as `precrop.costs.machine.describe_machine` describes it.
        input_shape: shape of one image, or of several inputs.
        notes: by variant, the layers that stay on dense kernels, and why.
    """

    machine: Mapping[str, Any]
    input_shape: Any
    channels_last: bool
    rows: tuple[BenchRow, ...]
    notes: Mapping[str, Mapping[str, str]]

    @property
    def settings(self) -> dict[Setting, list[BenchRow]]:
        """The rows by setting."""
        found: dict[Setting, list[BenchRow]] = {}
        for row in self.rows:
            setting = Setting(row.runtime, row.batch, row.threads, row.device)
            found.setdefault(setting, []).append(row)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the result in JSON types."""
        return asdict(self)


def variants(
    model: nn.Module,
    input_shape: Any,
    plans: Mapping[str, "Plan"],
    *,
    masked: bool = False,
    sparse: Sequence[str] = (),
    seed: int = 0,
) -> list[BenchVariant]:
    """Return the dense network and its variants, cropped or masked by each plan.

    A masked network keeps as many weights of every layer as the plan, chosen at random. They are
    scaled up by 1 / sqrt(density), so that activations stay as large as the dense network's.
    With one plan, its variants are called ``cropped``, ``masked`` and ``masked csr``; with
    several, ``cropped NAME`` and so on.

    Args:
        model: the network; it is not changed.
        input_shape: as in `precrop.plan`.
        plans: plans of this network, by name.
        masked: add networks masked to the plans' densities, on dense kernels.
        sparse: layouts for which to add masked networks on sparse kernels.
        seed: seed of the masks.

    Raises:
        PrecropError: a layout is unknown, or there is no plan to mask by, or it widens a layer.
        PlanError: a plan is for another network or another input.
    """
    for layout in sparse:
        check_known(f"layout {layout!r}", layout, LAYOUTS)
    if (masked or sparse) and not plans:
        raise PrecropError("masks have a plan's densities: give a plan, or a budget to make one")
    inputs = given_inputs(model, input_shape)
    base = count(model, inputs)
    found = [BenchVariant(DENSE, model, base.params, base.macs)]
    for name, plan in plans.items():
        if Inputs(plan.input_shape).spec != inputs.spec:
            raise PlanError(
                f"plan {name} is for an input of {Inputs(plan.input_shape).text}, "
                f"not {inputs.text}: give the plan's (--input-shape, --input), or plan again"
            )
        plan = plan.for_outputs(model)
        suffix = f" {name}" if len(plans) > 1 else ""
        found.append(BenchVariant(f"cropped{suffix}", plan.build(model), plan.params, plan.macs))
        found += _masked(model, plan, suffix, masked, sparse, seed)
    return found


def settings(
    runtimes: Sequence[str] = ("eager",),
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
    *,
    device: str = "cpu",
    channels_last: bool = False,
) -> list[Setting]:
    """Return a setting for every combination of runtime, batch size and number of threads.

    Raises:
        PrecropError: a runtime is unknown or not installed, the device does not exist, a number is
            out of range, or channels_last is set for ONNX Runtime alone, which ignores it.
    """
    ways = itertools.product(runtimes, batches, threads)
    found = [Setting(*way, device, channels_last) for way in ways]
    if channels_last and set(runtimes) == {"ort"}:
        raise PrecropError(
            "channels_last (in a shell --channels-last) is for PyTorch: ONNX Runtime chooses its "
            "own memory format; drop it, or add eager"
        )
    return found


def bench(
    variants: Sequence[BenchVariant],
    input_shape: Any,
    settings: Sequence[Setting],
    *,
    rounds: int = 30,
    found: Callable[[Bench], object] = unheard,
    progress: Told = unheard,
) -> Bench:
    """Measure every variant in every setting; within a setting, variants take turns.

    A variant that a runtime cannot run gets a row with the reason.

    Args:
        variants: from `variants`; the others are compared with the one called ``dense``.
        input_shape: as in `precrop.plan`.
        settings: from `settings`, all with the same device and memory format.
        rounds: samples of each variant in each setting.
        found: called with the results so far, after every setting.
        progress: called with the current step and the share that is done.

    Raises:
        PrecropError: there is no setting, or ``rounds`` is less than 1.
    """
    if not settings or rounds < 1:
        raise PrecropError(f"{len(settings)} settings in {rounds} rounds: give 1 or more of both")
    inputs, first = given_inputs(variants[0].model, input_shape), settings[0]
    notes = {variant.name: variant.notes for variant in variants if variant.notes}
    so_far = Bench(describe_machine(first.device), inputs.spec, first.channels_last, (), notes)
    for number, setting in enumerate(settings):

        def tell(what: str, share: float, number: int = number, setting: Any = setting) -> None:
            progress(f"{setting}: {what}", (number + share) / len(settings))

        rows = _measure(variants, inputs, setting, rounds, tell)
        so_far = replace(so_far, rows=(*so_far.rows, *rows))
        found(so_far)
    return so_far


def _measure(
    variants: Sequence[BenchVariant], inputs: Inputs, setting: Setting, rounds: int, tell: Told
) -> list[BenchRow]:
    """Measure one setting: load all variants, time them in turns, unload them."""
    reasons: dict[str, str] = {}
    runs: dict[str, Run] = {}
    timings: dict[str, Timing] = {}
    peaks: dict[str, int] = {}
    with ExitStack() as stack:
        for variant in variants:
            tell(f"loading {variant.name}", 0.0)
            try:
                if variant.sparse is not None and setting.runtime != "eager":
                    raise PrecropError("sparse kernels run in eager PyTorch only")
                loading = sessions(variant.model, inputs, setting, 1)
                (runs[variant.name],) = stack.enter_context(loading)
            except PrecropError as error:
                reasons[variant.name] = str(error)
        if runs:
            timings = interleaved(
                runs,
                rounds=rounds,
                warmup=WARMUP,
                least_seconds=LEAST_SECONDS,
                stopwatch=setting.stopwatch,
                progress=lambda done: tell("measuring", done),
            )
        if runs and setting.runtime == "eager":
            torch.set_num_threads(setting.threads)  # some kernels are chosen by it
            for variant in variants:
                if variant.name in runs:
                    with suppress(PrecropError):  # the times are kept without the memory
                        peak = peak_activation_memory(variant.model, inputs, setting)
                        peaks[variant.name] = peak
    dense_macs = next(variant.macs for variant in variants if variant.name == DENSE)
    rows = (
        BenchRow(
            variant=variant.name,
            runtime=setting.runtime,
            batch=setting.batch,
            threads=setting.threads,
            device=setting.device,
            params=variant.params,
            macs=variant.macs,
            ideal=dense_macs / variant.macs if variant.macs else 1.0,
            reason=reasons.get(variant.name),
            peak_memory=peaks.get(variant.name),
        )
        for variant in variants
    )
    return [_timed(row, timings) for row in rows]


def _timed(row: BenchRow, timings: Mapping[str, Timing]) -> BenchRow:
    """Return the row with its variant's times and speed-up, if it was timed."""
    timing = timings.get(row.variant)
    if timing is None:
        return row
    speedup = timings[DENSE].median / timing.median if DENSE in timings else None
    return replace(
        row,
        latency=timing.median,
        low=timing.low,
        high=timing.high,
        spread=timing.spread,
        throughput=row.batch / timing.median,
        rounds=len(timing.seconds),
        speedup=speedup,
        share_of_ideal=None if speedup is None else speedup / row.ideal,
    )


def _masked(
    model: nn.Module, plan: "Plan", suffix: str, masked: bool, layouts: Sequence[str], seed: int
) -> list[BenchVariant]:
    """Return the variants masked to a plan's densities, all with the same masks."""
    import precrop

    if not masked and not layouts:
        return []
    wide = [layer.name for layer in plan.layers if layer.density > 1]
    if wide:
        raise PrecropError(f"this plan widens {wide[0]}: no mask does that; leave masks out")
    densities = plan.densities
    masks = precrop.masks(model, densities, seed=seed)
    network = copied(model, lambda name, tensor: tensor.detach().clone())
    with torch.no_grad():
        for name, mask in masks.items():
            kept = int(mask.sum())
            network.get_parameter(name).mul_(mask / math.sqrt(kept / mask.numel()))
    counted = count(model, Inputs(plan.input_shape), masks=masks)
    costs = counted.params, counted.macs
    found = [BenchVariant(f"masked{suffix}", network, *costs)] if masked else []
    for layout in layouts:
        made, notes = sparse_kernels(network, layout)
        found.append(BenchVariant(f"masked {layout}{suffix}", made, *costs, layout, notes))
    return found
