"""Variants of one network side by side: dense, cropped, and masked at the same densities."""

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
"""What one sample lasts at least: a clock read twice is nothing beside it."""
WARMUP = 3


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
        variant: its name; its ``params`` and ``macs`` are those of `BenchVariant`.
        runtime: as in `precrop.deployment.setting.Setting`, like the three that follow.
        ideal: the dense network's multiply-accumulates, divided by its own: how many times as fast
            it would be if they alone took time.
        reason: why it was not measured; None where it was. All that follows is None then.
        latency: median, in seconds; ``low`` and ``high`` are the 10th and the 90th percentile.
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
    """What a run came to, with a row for every variant in every setting.

    Attributes:
        machine: as `precrop.costs.machine.describe_machine` tells it.
        input_shape: of one image, or of several inputs.
        notes: by variant, layers that stay on dense kernels, and why.
    """

    machine: Mapping[str, Any]
    input_shape: Any
    channels_last: bool
    rows: tuple[BenchRow, ...]
    notes: Mapping[str, Mapping[str, str]]

    @property
    def settings(self) -> dict[Setting, list[BenchRow]]:
        """Rows by how they were run."""
        found: dict[Setting, list[BenchRow]] = {}
        for row in self.rows:
            setting = Setting(row.runtime, row.batch, row.threads, row.device)
            found.setdefault(setting, []).append(row)
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
        model: the network; it is not changed.
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
    """Every runtime at every batch size and number of threads.

    Raises:
        PrecropError: a runtime is unknown or not installed, the device is not there, a number
            makes no sense, or no runtime is PyTorch's, which alone has memory formats.
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
    """Measure every variant in every setting; within one, samples are taken in turns.

    What a runtime cannot run gets a row with the reason.

    Args:
        variants: as `variants` makes them; the one called ``dense`` is what others are compared to.
        input_shape: as in `precrop.plan`.
        settings: as `settings` makes them, all of one device and memory format.
        rounds: samples of each variant in each setting.
        found: told what was measured so far, after every setting.
        progress: told how far it is.

    Raises:
        PrecropError: no setting, or no round.
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
    """One setting: load all variants, time them in turns, unload them."""
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
            torch.set_num_threads(setting.threads)  # PyTorch chooses some kernels by it
            for variant in variants:
                if variant.name in runs:
                    with suppress(PrecropError):  # what was timed counts, also without its memory
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
    """A row with its variant's times, if there are any, beside the dense network's."""
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
    """The variants that are masked to a plan's densities: one mask for all of them."""
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
