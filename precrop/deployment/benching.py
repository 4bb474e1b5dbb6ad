"""Variants of one network side by side: dense, cropped, and masked at the same densities."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from precrop.costs.machine import describe_machine
from precrop.counting import Count, count
from precrop.deployment.memory import peak_activation_memory
from precrop.deployment.runtimes import Runner, Setting, check_runtime, runner
from precrop.deployment.sparse import check_layout, sparse_kernels
from precrop.deployment.timing import Timing, interleaved, steps
from precrop.errors import PlanError, PrecropError
from precrop.modules.copying import copied
from precrop.read.inputs import Inputs, given

if TYPE_CHECKING:
    from precrop.plans.plan import Plan

DENSE = "dense"
LEAST_SECONDS = 0.005
"""What one sample lasts at least: a clock read twice is nothing beside it."""
WARMUP = 3

Progress = Callable[[str, float], None]
"""Told what is done now, and the share of all settings that is over."""


@dataclass(frozen=True)
class BenchVariant:
    """One form of the network.

    Attributes:
        name: unique within a run.
        model: it is only looked at.
        params: weights and other parameters that are not masked.
        macs: multiply-accumulates at batch 1 that do not multiply by a masked weight.
        sparse: the layout of its sparse kernels, which run in eager PyTorch only; None if dense.
        notes: layers that stay on dense kernels although the others do not, and why.
    """

    name: str
    model: nn.Module
    params: int
    macs: int
    sparse: str | None = None
    notes: Mapping[str, str] | None = None


@dataclass(frozen=True)
class BenchRow:
    """One variant in one setting.

    Attributes:
        variant: its name.
        runtime: a name in `precrop.deployment.runtimes.RUNTIMES`.
        batch: images at once.
        threads: of the CPU that work on one operation.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        params: see `BenchVariant`.
        macs: see `BenchVariant`.
        ideal: the dense network's multiply-accumulates, divided by its own.
        reason: why it was not measured; None where it was. All that follows is None then.
        latency: median, in seconds.
        low: the 10th percentile, in seconds.
        high: the 90th percentile, in seconds.
        spread: from ``low`` to ``high``, as a share of the median.
        throughput: images a second, at the median.
        speedup: the dense network's latency in the same setting, divided by this one.
        share_of_ideal: ``speedup / ideal``.
        peak_memory: see `precrop.deployment.memory.peak_activation_memory`; eager PyTorch only.
        rounds: samples.
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
    """What a run came to.

    Attributes:
        machine: as `precrop.costs.machine.describe_machine` tells it.
        input_shape: of one image, or of several inputs.
        channels_last: PyTorch's memory format.
        rows: one for every variant in every setting.
        notes: by variant, layers that stay on dense kernels, and why.
    """

    machine: Mapping[str, Any]
    input_shape: Any
    channels_last: bool
    rows: tuple[BenchRow, ...]
    notes: Mapping[str, Mapping[str, str]]

    @property
    def settings(self) -> dict[tuple[str, int, int], list[BenchRow]]:
        """Rows by runtime, batch and threads."""
        found: dict[tuple[str, int, int], list[BenchRow]] = {}
        for row in self.rows:
            found.setdefault((row.runtime, row.batch, row.threads), []).append(row)
        return found

    def to_json(self) -> dict[str, Any]:
        """All of it in JSON's types."""
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
    """The network as it is, and cropped or masked as each plan has it.

    A masked network keeps as many weights of every layer as the plan does, drawn at random, and
    scales them as initialisation would, so that its activations are as large as the dense one's.
    Where there is one plan, its variants are called ``cropped``, ``masked`` and ``masked csr``;
    where there are several, ``cropped NAME`` and so on.

    Args:
        model: the network; it is only looked at.
        input_shape: as in `precrop.plan`.
        plans: of this network, by name.
        masked: mask to the plans' densities, on dense kernels.
        sparse: mask likewise, on the kernels of these layouts.
        seed: of the masks.

    Raises:
        PrecropError: a layout is unknown, or there is no plan to mask by.
        PlanError: a plan is for another network or another input.
    """
    for layout in sparse:
        check_layout(layout)
    if (masked or sparse) and not plans:
        raise PrecropError("masks have a plan's densities: give a plan, or a budget to make one")
    inputs = given(model, input_shape)
    base = count(model, inputs)
    found = [BenchVariant(DENSE, model, base.params, base.macs)]
    for name, plan in plans.items():
        if Inputs(plan.input_shape).spec != inputs.spec:
            raise PlanError(
                f"plan {name} is for an input of {Inputs(plan.input_shape).text}, "
                f"not {inputs.text}: give that as --input-shape, or make the plan again"
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
) -> list[tuple[str, Setting]]:
    """Every runtime at every batch size and number of threads.

    Raises:
        PrecropError: a runtime is unknown or not installed, the device is not there, a number
            makes no sense, or no runtime is PyTorch's, which alone has memory formats.
    """
    for name in runtimes:
        check_runtime(name)
    if channels_last and set(runtimes) == {"ort"}:
        raise PrecropError(
            "channels_last (in a shell --channels-last) is for PyTorch: ONNX Runtime chooses its "
            "own memory format; drop it, or add eager"
        )
    return [
        (name, Setting(batch, count, device, channels_last))
        for name, batch, count in itertools.product(runtimes, batches, threads)
    ]


def bench(
    variants: Sequence[BenchVariant],
    input_shape: Any,
    settings: Sequence[tuple[str, Setting]],
    *,
    rounds: int = 30,
    progress: Progress | None = None,
) -> Bench:
    """Measure every variant in every setting; within one, samples are taken in turns.

    What a runtime cannot run gets a row with the reason.

    Args:
        variants: as `variants` makes them; the one called ``dense`` is what others are compared to.
        input_shape: as in `precrop.plan`.
        settings: as `settings` makes them, all of one device and memory format.
        rounds: samples of each variant in each setting.
        progress: told how far it is.

    Raises:
        PrecropError: no setting, or no round.
    """
    if not settings or rounds < 1:
        raise PrecropError(f"{len(settings)} settings in {rounds} rounds: give 1 or more of both")
    inputs, first = Inputs(input_shape), settings[0][1]
    rows: list[BenchRow] = []
    for number, (name, setting) in enumerate(settings):
        share = _Share(progress, f"{name}, {_in_words(setting)}", number, len(settings))
        rows += _measure(variants, inputs, name, setting, rounds, share)
    notes = {variant.name: variant.notes for variant in variants if variant.notes}
    machine = describe_machine(first.device)
    return Bench(machine, inputs.spec, first.channels_last, tuple(rows), notes)


def _measure(
    variants: Sequence[BenchVariant],
    inputs: Inputs,
    runtime: str,
    setting: Setting,
    rounds: int,
    share: "_Share",
) -> list[BenchRow]:
    """One setting: load all variants, time them in turns, unload them."""
    reasons: dict[str, str] = {}
    runners: dict[str, Runner] = {}
    with ExitStack() as stack:
        for variant in variants:
            share(f"loading {variant.name}", 0.0)
            try:
                runners[variant.name] = stack.enter_context(
                    _runner(variant, inputs, runtime, setting)
                )
            except PrecropError as error:
                reasons[variant.name] = str(error)
        timings: dict[str, Timing] = {}
        if runners:
            total = steps(len(runners), rounds, WARMUP)
            timings = interleaved(
                runners,
                rounds=rounds,
                warmup=WARMUP,
                least_seconds=LEAST_SECONDS,
                stopwatch=next(iter(runners.values())).stopwatch,
                progress=lambda done: share("measuring", done / total),
            )
        measured = [variant for variant in variants if variant.name in timings]
        peaks = _peaks(measured, inputs, setting) if runtime == "eager" else {}
    dense = next(variant for variant in variants if variant.name == DENSE)
    rows = []
    for variant in variants:
        row = BenchRow(
            variant=variant.name,
            runtime=runtime,
            batch=setting.batch,
            threads=setting.threads,
            device=setting.device,
            params=variant.params,
            macs=variant.macs,
            ideal=dense.macs / variant.macs,
            reason=reasons.get(variant.name),
        )
        if variant.name in timings:
            row = _timed(row, timings[variant.name], timings.get(DENSE))
            row = replace(row, peak_memory=peaks.get(variant.name))
        rows.append(row)
    return rows


def _runner(variant: BenchVariant, inputs: Inputs, runtime: str, setting: Setting) -> Runner:
    if variant.sparse is not None and runtime != "eager":
        raise PrecropError("sparse kernels run in eager PyTorch only")
    return runner(
        variant.model,
        inputs,
        runtime=runtime,
        batch=setting.batch,
        threads=setting.threads,
        device=setting.device,
        channels_last=setting.channels_last,
    )


def _timed(row: BenchRow, timing: Timing, dense: Timing | None) -> BenchRow:
    speedup = None if dense is None else dense.median / timing.median
    return replace(
        row,
        latency=timing.median,
        low=timing.low,
        high=timing.high,
        spread=timing.spread,
        throughput=row.batch / timing.median,
        speedup=speedup,
        share_of_ideal=None if speedup is None else speedup / row.ideal,
        rounds=len(timing.seconds),
    )


def _peaks(variants: Sequence[BenchVariant], inputs: Inputs, setting: Setting) -> dict[str, int]:
    """Peak memory by variant, while runners that will restore the threads are open."""
    torch.set_num_threads(setting.threads)  # PyTorch chooses some kernels by it
    return {
        variant.name: peak_activation_memory(
            variant.model, inputs, batch=setting.batch, device=setting.device
        )
        for variant in variants
    }


@dataclass(frozen=True)
class _Share:
    """Progress within one setting of several."""

    progress: Progress | None
    setting: str
    number: int
    settings: int

    def __call__(self, what: str, share: float) -> None:
        """``share`` of this setting is over."""
        if self.progress is not None:
            self.progress(f"{self.setting}: {what}", (self.number + share) / self.settings)


def _in_words(setting: Setting) -> str:
    threads = f"{setting.threads} thread{'s' if setting.threads > 1 else ''}"
    return f"batch {setting.batch}, {threads}, {setting.device}"


def _masked(
    model: nn.Module,
    plan: "Plan",
    suffix: str,
    dense_kernels: bool,
    layouts: Iterable[str],
    seed: int,
) -> list[BenchVariant]:
    """The variants that are masked to a plan's densities: one mask for all of them."""
    layouts = list(layouts)
    if not dense_kernels and not layouts:
        return []
    network, counted = _mask(model, plan, seed)
    costs = counted.params, counted.macs
    found = [BenchVariant(f"masked{suffix}", network, *costs)] if dense_kernels else []
    for layout in layouts:
        made, notes = sparse_kernels(network, layout)
        found.append(BenchVariant(f"masked {layout}{suffix}", made, *costs, layout, notes))
    return found


def _mask(model: nn.Module, plan: "Plan", seed: int) -> tuple[nn.Module, Count]:
    """A copy masked to a plan's densities, and its costs without the masked weights."""
    import precrop

    wide = [layer.name for layer in plan.layers if layer.density > 1]
    if wide:
        raise PrecropError(f"this plan widens {wide[0]}: no mask does that; leave masks out")
    densities = {layer.name: layer.density for layer in plan.layers}
    masks = precrop.masks(model, densities, seed=seed)
    network = copied(model, lambda name, tensor: tensor.detach().clone())
    with torch.no_grad():
        for name, mask in masks.items():
            kept = int(mask.sum())
            network.get_parameter(name).mul_(mask / math.sqrt(kept / mask.numel()))
    return network, count(model, Inputs(plan.input_shape), masks=masks)
