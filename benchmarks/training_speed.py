"""How fast `precrop train` trains on a CPU, dense and cropped: `make bench`.

ResNet-20 on random images of CIFAR-10's size. The bare loop is what anyone writes: bf16 autocast
and channels_last, SGD, one batch over and over; `precrop train` does all that a training needs. An
epoch is scaled up from the steps that ran. Cropped networks are plans at 30% of the MACs.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import precrop
from benchmarks.report import Row, Section, markdown, progress, setting, show, spread
from precrop.deployment.timing import interleaved
from precrop.files import write_text
from precrop.model_spec import ModelSpec
from precrop.plans.plan import Plan
from precrop.training import narrow
from precrop.training.data import ImageData, Images
from precrop.training.kernels import CpuKernels
from precrop.training.loop import train
from precrop.training.recipes import RECIPES
from precrop.training.runs import Run
from precrop.zoo import load_model

MODEL, SHAPE, CLASSES = "resnet20", (3, 32, 32), 10
BATCH, TRAIN_IMAGES, TEST_IMAGES = 128, 50_000, 10_000
DEPTHWISE = ("cifar_mobilenet_v2", "cifar_efficientnet_b0")
EPOCHS = 4
DIVISORS = (1, 2, 4, 8)
KINDS = {
    "convolution": ("convolution",),
    "batch norm": ("batch_norm", "Together"),
    "activation": ("clamp_min", "threshold"),
    "addition": ("aten::add",),
    "optimizer": ("Optimizer", "sgd"),
}


@dataclass(frozen=True)
class Variant:
    """What is measured: a loop and a network.

    Attributes:
        name: in the tables.
        loop: ``bare`` or ``precrop``.
        macs: share of the MACs that the network is planned to; 1.0 is the dense one.
        divisor: of the plan's widths.
        precision: as in a recipe.
        together: whether narrow batch norms read several pixels as one.
    """

    name: str
    loop: str = "precrop"
    macs: float = 1.0
    divisor: int = 1
    precision: str = "auto"
    together: bool = True


def variants(macs: float) -> list[Variant]:
    """Return everything that takes turns."""
    cropped = [Variant(f"plan, divisor {n}", macs=macs, divisor=n) for n in DIVISORS]
    return [
        Variant("dense, bare loop", loop="bare"),
        Variant("dense"),
        *cropped,
        Variant("plan, divisor 8, torch's batch norm", macs=macs, divisor=8, together=False),
        Variant("dense, fp32", precision="fp32"),
        Variant("plan, divisor 8, fp32", macs=macs, divisor=8, precision="fp32"),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write Markdown if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every variant (default 3)")
    parser.add_argument("--steps", type=int, default=40, help="training steps per epoch")
    parser.add_argument("--macs", type=float, default=0.3, help="the plans' share of the MACs")
    parser.add_argument("--measure", metavar="JSON", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure:
        print(json.dumps(measured(Variant(**json.loads(options.measure)), options.steps)))
        return
    where = {**setting("precrop", "torch", "lightning"), "CPU": _cpu()}
    taking_turns = variants(options.macs)
    found: dict[str, list[dict[str, float]]] = {v.name: [] for v in taking_turns}
    for turn in range(options.rounds):
        for variant in taking_turns:
            progress.print(f"round {turn + 1} of {options.rounds}: {variant.name}")
            found[variant.name].append(_apart(variant, options.steps))
    sections = [
        _speeds(found),
        _epochs(taking_turns, found),
        _parts(options.macs),
        _depthwise(options.macs),
    ]
    show(sections)
    if options.markdown is not None:
        assert __doc__ is not None
        command = f"python -m benchmarks.training_speed --markdown {options.markdown}"
        lines = [
            f"`{command}` wrote this file.",
            "",
            ", ".join(f"{k} {v}" for k, v in where.items()),
        ]
        text = markdown("How fast training is", [*lines, "", *__doc__.splitlines()[2:]], sections)
        write_text(options.markdown, text)


def _apart(variant: Variant, steps: int) -> dict[str, float]:
    """Measure a variant in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training_speed", "--steps", str(steps)]
    done = subprocess.run(
        [*command, "--measure", json.dumps(asdict(variant))],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measured(variant: Variant, steps: int) -> dict[str, float]:
    """Return images per second and, for `precrop train`, seconds of an epoch of CIFAR-10's size."""
    if variant.loop == "bare":
        return {"images_per_second": bare_loop(_network(variant), steps)}
    return precrop_train(variant, steps)


def bare_loop(network: nn.Module, steps: int) -> float:
    """Return images per second of a loop that only trains: the median of its epochs."""
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        network.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    images = torch.randn(BATCH, *SHAPE).to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (BATCH,))
    seconds = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        for _ in range(steps):
            _step(network, optimizer, images, labels)
        seconds.append(time.perf_counter() - start)
    return steps * BATCH / statistics.median(seconds[1:])


def _step(
    forward: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(forward(images).float(), labels)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def precrop_train(variant: Variant, steps: int) -> dict[str, float]:
    """Return the same figures for `precrop.training.loop.train`."""
    data = _images(steps)
    run = Run(
        model=ModelSpec(MODEL, {"num_classes": CLASSES}),
        data=data.name,
        data_name=data.name,
        data_digest=data.digest,
        classes=data.classes,
        input_shape=data.shape,
        recipe=RECIPES["cifar-quick"].changed(
            {"epochs": EPOCHS, "precision": variant.precision, "batch_size": BATCH}
        ),
        plan=_plan(variant) if variant.macs < 1 else None,
    )
    usual = nullcontext() if variant.together else mock.patch.object(narrow, "_FILLED", 1)
    with tempfile.TemporaryDirectory() as folder, usual:
        history = train(run, data=data, output=Path(folder)).history[1:]
    return {
        "images_per_second": statistics.median(row["images_per_second"] for row in history),
        "epoch": statistics.median(row["seconds"] for row in history)
        * TRAIN_IMAGES
        / (steps * BATCH),
    }


def _images(steps: int) -> ImageData:
    """Make random images for so many steps, with held-out ones in CIFAR-10's proportion."""
    chance = torch.Generator().manual_seed(0)
    train_count = steps * BATCH
    counts = (train_count, train_count * TEST_IMAGES // TRAIN_IMAGES)
    train_split, test_split = (
        Images(
            torch.randint(256, (count, *SHAPE), dtype=torch.uint8, generator=chance).to(
                memory_format=torch.channels_last
            ),
            torch.randint(CLASSES, (count,), generator=chance),
        )
        for count in counts
    )
    names = tuple(f"class {number}" for number in range(CLASSES))
    spread_out = (0.5,) * 3, (0.25,) * 3
    return ImageData("noise", names, SHAPE, *spread_out, train_split, test_split, "noise")


def _network(variant: Variant) -> nn.Module:
    dense = load_model(MODEL, {})
    return dense if variant.macs == 1 else _plan(variant).build(dense)


def _plan(variant: Variant) -> Plan:
    return precrop.plan(load_model(MODEL, {}), SHAPE, macs=variant.macs, divisor=variant.divisor)


def _speeds(found: Mapping[str, Sequence[Mapping[str, float]]]) -> Section:
    """Compare the dense network in both loops."""
    bare, ours = "dense, bare loop", "dense"
    rows: list[Row] = []
    for name, title in ((bare, "bare loop"), (ours, "precrop train")):
        speeds = [figures["images_per_second"] for figures in found[name]]
        rows.append({"loop": title, **spread(speeds)})
    for row in rows:
        row["share"] = f"{row['median'] / rows[0]['median']:.0%}"
    columns = {
        "loop": "loop",
        "median": "images per second",
        "least": "least",
        "most": "most",
        "share": "of the bare loop",
    }
    return Section("ResNet-20, bf16, the dense network", columns, rows)


def _epochs(
    order: Sequence[Variant], found: Mapping[str, Sequence[Mapping[str, float]]]
) -> Section:
    """Compare epochs with the dense one of the same precision."""
    trained = [variant for variant in order if variant.loop == "precrop"]
    medians = {v.name: spread([f["epoch"] for f in found[v.name]]) for v in trained}
    rows = []
    for variant in trained:
        dense = "dense, fp32" if variant.precision == "fp32" else "dense"
        macs = 1.0 if variant.macs == 1 else _share(_plan(variant))
        share = medians[variant.name]["median"] / medians[dense]["median"]
        rows.append(
            {"network": variant.name, "macs": macs, **medians[variant.name], "of": f"{share:.0%}"}
        )
    columns = {
        "network": "network",
        "macs": "MACs",
        "median": "seconds per epoch",
        "least": "least",
        "most": "most",
        "of": "of the dense epoch",
    }
    return Section("An epoch of CIFAR-10", columns, rows)


def _share(plan: Plan) -> float:
    return plan.macs / plan.base_macs


def _parts(macs: float) -> Section:
    """Compare the parts of a training step of the dense network and of the plan with divisor 8."""
    dense = _profiled(Variant("dense"))
    cropped = _profiled(Variant("plan", macs=macs, divisor=8))
    rows = [
        {
            "part": part,
            "dense": dense[part],
            "cropped": cropped[part],
            "of": f"{cropped[part] / dense[part]:.0%}",
        }
        for part in dense
    ]
    columns = {
        "part": "part of a step",
        "dense": "dense, ms",
        "cropped": "plan with divisor 8, ms",
        "of": "of the dense one's",
    }
    return Section("Where the time goes", columns, rows)


def _depthwise(macs: float) -> Section:
    """Compare training steps with depthwise convolutions on PyTorch's kernels and on ours."""
    rows: list[Row] = []
    for name in DEPTHWISE:
        dense = load_model(name, {})
        cropped = precrop.plan(dense, SHAPE, macs=macs, divisor=8).build(dense)
        for form, network in {"dense": dense, "plan, divisor 8": cropped}.items():
            progress.print(f"{name}, {form}")
            torchs, ours = _steps_in_turns(network)
            shown = {"torch": torchs * 1e3, "ours": ours * 1e3, "of": f"{ours / torchs:.0%}"}
            rows.append({"network": f"{name}, {form}", **shown})
    columns = {
        "network": "network",
        "torch": "PyTorch's kernels, ms a step",
        "ours": "precrop train's, ms a step",
        "of": "of PyTorch's",
    }
    return Section("Networks with depthwise convolutions, bf16", columns, rows)


def _steps_in_turns(network: nn.Module) -> tuple[float, float]:
    """Return the median seconds of a training step on PyTorch's kernels, and on ours."""
    network = network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, fused=True)
    images = torch.randn(BATCH, *SHAPE).to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (BATCH,))

    loops: dict[str, Callable[[Tensor], Tensor]] = {
        "torch": network,
        "ours": partial(_on_our_kernels, network),
    }
    steps = {
        name: partial(_step, forward, optimizer, images, labels) for name, forward in loops.items()
    }
    times = interleaved(steps, rounds=7, warmup=1)
    return times["torch"].median, times["ours"].median


def _on_our_kernels(network: nn.Module, images: Tensor) -> Tensor:
    """Run a forward pass as `precrop train` does on a CPU."""
    with CpuKernels():
        logits: Tensor = network(images)
        return logits


def _profiled(variant: Variant, steps: int = 20) -> dict[str, float]:
    """Return the milliseconds of a step by kind of operation."""
    network = _network(variant).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        network.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )
    images = torch.randn(BATCH, *SHAPE).to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (BATCH,))

    forward = partial(_on_our_kernels, network)

    def several() -> None:
        for _ in range(steps):
            _step(forward, optimizer, images, labels)

    several()
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        several()
    parts = dict.fromkeys((*KINDS, "everything else"), 0.0)
    for event in watched.key_averages():
        parts[_kind(event.key)] += event.self_cpu_time_total / 1e3 / steps
    return {**parts, "together": sum(parts.values())}


def _kind(operation: str) -> str:
    for kind, words in KINDS.items():
        if any(word in operation for word in words):
            return kind
    return "everything else"


def _cpu() -> str:
    """Return the CPU's name, and whether it computes in bf16."""
    features = torch.cpu.get_capabilities()
    bf16 = any(features[name] for name in ("avx512_bf16", "amx_bf16"))
    return f"{features['cpu_name']} {'with' if bf16 else 'without'} bf16"


if __name__ == "__main__":
    main()
