"""Which narrow networks crash while they are trained on a CPU without AVX-512, and why.

    python -m scripts.convolution_crash --log crash.jsonl --markdown results/convolution-crash.md

oneDNN, which computes PyTorch's convolutions on CPUs, writes beyond its memory in one of them: the
gradient of the weights of a 1x1 convolution with a stride and 2 to 7 input channels, in float32,
channels last in memory, on CPUs that have AVX2 but not AVX-512 (reported to oneDNN as
https://github.com/uxlfoundation/oneDNN/issues/6035). Shortcuts of a ResNet are such convolutions,
so a plan with few channels meets it, whether its widths are odd or even. What is overwritten
decides how the process ends: "double free", a segmentation fault, or not at all.

Every combination trains for a few steps in a plain loop and a process of its own, where "AVX2"
means that oneDNN and PyTorch are told to use no more than that. Blocks of memory are checked when
they are freed (glibc's MALLOC_CHECK_). What the log has is not done again.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import precrop
from benchmarks.report import Section, described, markdown, progress, setting, show
from precrop.files import write_text
from precrop.models import resnet20
from precrop.training.kernels import CpuKernels

SIDE, BATCH, STEPS, SECONDS = 32, 128, 3, 120.0
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
CHECKS = {"MALLOC_CHECK_": "3", "LD_PRELOAD": "libc_malloc_debug.so.0"}
"""glibc's own checks of the heap, where there is glibc."""
PLANS: dict[str, dict[str, Any]] = {
    "10% of the params, divisor 1": {"params": 0.1},
    "10% of the MACs, divisor 1": {"macs": 0.1},
    "10% of the MACs, divisor 2": {"macs": 0.1, "divisor": 2},
    "15% of the MACs, divisor 8": {"macs": 0.15, "divisor": 8},
}
NETWORKS: tuple[str | int, ...] = ("dense", *PLANS)
CHANNELS: tuple[str | int, ...] = (2, 4, 7, 8)


@dataclass(frozen=True)
class Case:
    """A network to train, and how."""

    network: str | int  # a ResNet-20 of `NETWORKS`, or the input channels of one 1x1 convolution
    layout: str = "channels_last"  # of images and weights in memory
    avx2: bool = True  # whether no better instructions may be used
    onednn: bool = True  # whether PyTorch may use it
    kernels: str = "torch"  # whose convolutions: ``torch``, or those of ``precrop train``


HOW = {
    "AVX2, channels last": Case(""),
    "AVX2, channels last, convolutions of `precrop train`": Case("", kernels="precrop"),
    "AVX2, channels last, without oneDNN": Case("", onednn=False),
    "AVX2, contiguous": Case("", "contiguous_format"),
    "AVX-512, channels last": Case("", avx2=False),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run what the log lacks, print the tables, and write Markdown if asked."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log", type=Path, required=True, help="a line for every combination")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.case:
        train(Case(**json.loads(options.case)))
        return
    found = dict(_known(options.log))
    for case in (
        replace(how, network=n) for n, how in product((*NETWORKS, *CHANNELS), HOW.values())
    ):
        if case not in found:
            found[case] = outcome(case)
            progress.print(f"{case}: {found[case]}")
            with options.log.open("a", encoding="utf-8") as log:
                log.write(json.dumps({"case": asdict(case), "outcome": found[case]}) + "\n")
    sections = [
        _table("ResNet-20, ten classes", NETWORKS, found),
        _table("One 1x1 convolution of stride 2, by input channels", CHANNELS, found),
    ]
    show(sections)
    if options.markdown is not None:
        where = described(setting("torch") | {"oneDNN": _onednn()})
        title = "A crash while training on CPUs without AVX-512"
        introduction = [where, "", *__doc__.splitlines()[2:]]
        write_text(options.markdown, markdown(title, introduction, sections))


def _known(log: Path) -> Iterator[tuple[Case, str]]:
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        row = json.loads(line)
        yield Case(**row["case"]), row["outcome"]


def outcome(case: Case) -> str:
    """Return how a process that trains it ends: ``trains``, ``hangs``, or the signal it died of."""
    command = [sys.executable, "-m", "scripts.convolution_crash", "--log", os.devnull, "--case"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **CHECKS, **(AVX2 if case.avx2 else {})}
    try:
        subprocess.run(
            [*command, json.dumps(asdict(case))],
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return "hangs"
    except subprocess.CalledProcessError as error:
        if error.returncode >= 0:
            raise RuntimeError(error.stderr) from error
        return signal.Signals(-error.returncode).name
    return "trains"


def train(case: Case) -> None:
    """Train for a few steps of SGD on random images, in an ordinary loop."""
    layout = getattr(torch, case.layout)
    channels, network = _network(case.network)
    network.to(memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    labels = torch.randint(10, (BATCH,))
    for _ in range(STEPS):
        images = torch.randn(BATCH, channels, SIDE, SIDE).to(memory_format=layout)
        with (
            nullcontext() if case.onednn else torch.backends.mkldnn.flags(enabled=False),
            CpuKernels() if case.kernels == "precrop" else nullcontext(),
        ):
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def _network(name: str | int) -> tuple[int, nn.Module]:
    """Return the number of channels of the images, and the network."""
    if isinstance(name, int):
        convolution = nn.Conv2d(name, 10, 1, stride=2, bias=False)
        return name, nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    dense = resnet20()
    return 3, dense if name == "dense" else precrop.crop(dense, (3, SIDE, SIDE), **PLANS[name])


def _table(title: str, networks: Sequence[str | int], found: Mapping[Case, str]) -> Section:
    rows = [
        {"how": how, **{str(n): found[replace(case, network=n)] for n in networks}}
        for how, case in HOW.items()
    ]
    return Section(title, {"how": "how", **{str(n): str(n) for n in networks}}, rows)


def _onednn() -> str:
    words = torch.__config__.show().split()
    return words[words.index("MKL-DNN") + 1] if "MKL-DNN" in words else "none"


if __name__ == "__main__":
    main()
