"""Measures networks of other people's packages and writes docs/coverage-outside.md.

Run from the repository's root: ``make coverage-outside``, which installs the packages into a
separate environment. What is in the cache isn't measured again, so an interrupted run resumes;
delete the file after a change of precrop. Every network is measured in its own process, which is
killed if it takes too long. No weights are loaded: networks are random, and small.
"""

import argparse
import copy
import multiprocessing
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import precrop
from scripts.coverage_table import keep, read_cache
from scripts.outside_networks import NETWORKS, PACKAGES, Make, Outside, outputs, prepare
from tests.matrix.measure import BINDING, SHARE, Measurement, describe, is_finite, one_line
from tests.planning import counted_params

TARGET = Path(__file__).parent.parent / "docs" / "coverage-outside.md"
TRAINING = "training"
PASSES = 16
"""Training passes that are compared where layers are left out at random."""
SECONDS = 600
"""The longest that one network may take, with everything that is measured of it."""

Run = Callable[[nn.Module, Outside], list[Any]]
"""A run of a network, and what is compared of it."""


@dataclass
class OutsideMeasurement(Measurement):
    """The result for one network of another package."""

    limits: str = ""  # what the network itself can't do, which isn't asked of the cropped one
    ended: str = ""  # why the process that measured it was ended, or ``""``

    @property
    def used(self) -> float:
        """The share of the binding budget that the plan uses."""
        return max(self.params, self.macs) / SHARE

    @property
    def exact(self) -> bool:
        """Whether parameters and MACs, before and after cropping, equal the independent counts."""
        return self.exact_params and self.exact_macs is True

    @property
    def error(self) -> str:
        """Why it doesn't run, or nothing if it does."""
        return self.ended or self.plan_error or self.build_error or self.run_error

    @property
    def right(self) -> bool:
        """Whether it runs, is exact, and uses its budget without exceeding it."""
        return not self.error and self.exact and BINDING <= self.used <= 1


def main() -> None:
    """Measure what the cache lacks, then write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cache", type=Path, required=True, help="JSON-lines file of results")
    parser.add_argument("--only", default="", help="only networks with this in their names")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="networks at a time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    prepare()
    chosen = [entry for entry in NETWORKS if options.only in entry.name]
    known = measure_all(chosen, options.cache, options.jobs)
    rows = [known[entry.name] for entry in chosen]
    if options.only:
        print("\n".join(map(_row, rows)))
    else:
        TARGET.write_text(page(rows))
        print(f"wrote {TARGET}")


def measure_all(chosen: Sequence[Outside], cache: Path, jobs: int) -> dict[str, OutsideMeasurement]:
    """Return results by name, from the cache if it has them; new ones are appended to it."""
    known = read_cache(cache, OutsideMeasurement)
    waiting = [entry for entry in chosen if entry.name not in known]
    running: list[Apart] = []
    with Progress(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()) as progress:
        task = progress.add_task("", total=len(waiting))
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(Apart(waiting.pop(0)))
            wait([one.receiver for one in running], timeout=1)
            for one in tuple(running):
                found = one.result()
                if found is not None:
                    running.remove(one)
                    known[found.name] = found
                    keep(found, cache)
                    progress.advance(task)
    return known


class Apart:
    """A measurement in its own process, since it may hang, crash, or change global state."""

    def __init__(self, entry: Outside) -> None:
        context = multiprocessing.get_context("fork")
        self.name = entry.name
        self.receiver, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=_report, args=(entry, sender), daemon=True)
        self.process.start()
        sender.close()
        self.end = time.monotonic() + SECONDS

    def result(self) -> OutsideMeasurement | None:
        """The result; None while there is none."""
        found = OutsideMeasurement(self.name)
        if self.receiver.poll():
            try:
                found = self.receiver.recv()
            except EOFError:
                self.process.join()
                found.ended = f"ended with status {self.process.exitcode}"
        elif time.monotonic() < self.end:
            return None
        else:
            found.ended = f"not done in {SECONDS} s"
        self.process.kill()
        self.process.join()
        return found


def _report(entry: Outside, sender: Any) -> None:
    warnings.simplefilter("ignore")  # networks' own, and what they print
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        sender.send(measure(entry))


def measure(entry: Outside) -> OutsideMeasurement:
    """Plan at half the parameters and half the MACs, build, count, run in both modes.

    Copies are run, since some networks change when they run.
    """
    found = OutsideMeasurement(entry.name)
    model = entry.network()
    args, kwargs = entry.inputs(1)
    try:
        plan = precrop.plan(
            model,
            example_inputs=args,
            example_kwargs=kwargs,
            params=SHARE,
            macs=SHARE,
            divisor=1,
            drop_unused=entry.drop_unused,
        )
    except Exception as error:
        found.plan_error = one_line(error)
        return found
    describe(found, plan)

    try:
        small = plan.build(model)
        original = partial(_copied, model, entry.network)
        built = partial(_copied, small, partial(plan.build, model))
        counts = counted_params(model), counted_params(small)
        found.exact_params = counts == (plan.base_params, plan.params)
        macs = counted_macs(original(), entry), counted_macs(built(), entry)
        found.exact_macs = macs == (plan.base_macs, plan.macs)
    except Exception as error:
        found.build_error = one_line(error)
        return found
    for name, run in RUNS.items():
        try:
            expected = run(original(), entry)
        except Exception as error:
            found.limits = f"{name}: {one_line(error)}"
            continue
        try:
            made = run(built(), entry)
        except Exception as error:
            found.run_error = f"{name}: {one_line(error)}"
            return found
        alike = made == expected or (name == TRAINING and _leave_out_alike(original, built, entry))
        if not alike:
            found.run_error = f"{name}: {_difference(made, expected)}"
            return found
    return found


def _leave_out_alike(original: Make, built: Make, entry: Outside) -> bool:
    """Whether both networks leave out layers at random and, over many passes, the same ones."""
    wanted, made = (
        {repr(_trained(seed)(make(), entry)) for seed in range(PASSES)}
        for make in (original, built)
    )
    return len(wanted) > 1 and not wanted.isdisjoint(made)


def _copied(model: nn.Module, make: Make) -> nn.Module:
    """Return a copy of the network, or make it again if Python can't copy it."""
    try:
        return copy.deepcopy(model)
    except RuntimeError:
        return make()


def counted_macs(model: nn.Module, entry: Outside) -> int:
    """Return the MACs of an eval pass at batch 1 by PyTorch's own counter, on the CPU.

    The counter doesn't know the CPU's fused kernels (attention, recurrent layers), so they are
    switched off; its hooks need a network whose parameters require no gradients.
    """
    args, kwargs = entry.inputs(1)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            torch.no_grad(),
            torch.backends.mkldnn.flags(enabled=False),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            model.eval().requires_grad_(False)(*args, **kwargs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops()) // 2


def _evaluated(batch: int) -> Run:
    def run(model: nn.Module, entry: Outside) -> list[Any]:
        args, kwargs = entry.inputs(batch)
        with torch.no_grad():
            return [tuple(tensor.shape) for tensor in outputs(model.eval()(*args, **kwargs))]

    return run


def _trained(seed: int) -> Run:
    """Return a run in train mode: output shapes, parameters with gradients, and finiteness."""

    def run(model: nn.Module, entry: Outside) -> list[Any]:
        args, kwargs = entry.inputs(2)
        torch.manual_seed(seed)
        made = outputs(model.train()(*args, **kwargs))
        losses = [tensor.abs().square().mean() for tensor in made if tensor.requires_grad]
        loss: Any = torch.stack(losses).sum()
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        finite = all(map(is_finite, [loss, *gradients.values()]))
        return [[tuple(tensor.shape) for tensor in made], sorted(gradients), finite]

    return run


RUNS: dict[str, Run] = {
    "eval at batch 1": _evaluated(1),
    "eval at batch 3": _evaluated(3),
    TRAINING: _trained(0),
}
"""What the built network must do as the original does. What the original can't do isn't asked."""


def _difference(made: list[Any], expected: list[Any]) -> str:
    pairs = [(a, b) for a, b in zip(made, expected, strict=False) if a != b]
    if not pairs:
        return f"{len(made)} outputs in place of {len(expected)}"
    if isinstance(pairs[0][0], list):
        return _difference(*pairs[0])
    return f"{pairs[0][0]} in place of {pairs[0][1]}"


def page(rows: Sequence[OutsideMeasurement]) -> str:
    """Return the whole page."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *PACKAGES))
    left = len(NETWORKS) - len(rows)
    missing = [f"{left} more networks of the list were not measured when this was written."]
    lines = [
        "# Coverage of other packages",
        "",
        "Real classes of other packages, small and with random weights, planned at",
        f"`params={SHARE}, macs={SHARE}, divisor=1` and built. Measured on one thread of a CPU by",
        f"`make coverage-outside`, with {versions}.",
        "",
        "- *exact*: parameters and MACs, before and after, are those that PyTorch counts;",
        "- *runs*: in eval and train mode outputs have the original's shapes, and gradients reach",
        "  the same parameters;",
        "- *used*: share of the binding budget that is used;",
        "- *frozen*: share of the parameters in layers that unexpectedly keep their width.",
        "",
        *summary(rows),
        *(missing if left > 0 else ()),
        "",
        "| network | built | exact | runs | used % | frozen % | seconds | note |",
        "|---|:-:|:-:|:-:|---:|---:|---:|---|",
        *map(_row, rows),
        "",
    ]
    return "\n".join(lines)


def summary(rows: Iterable[OutsideMeasurement]) -> list[str]:
    """Return how many networks come out right, and those that don't."""
    rows = list(rows)
    right = [found for found in rows if found.right]
    frozen = [found for found in right if found.frozen > 0.05]
    packages = Counter(found.name.split()[0] for found in rows)
    return [
        f"Of {len(rows)} networks of {len(packages)} packages, {len(right)}"
        f" ({len(right) / len(rows):.1%}) are built, exact, run, and use at least"
        f" {BINDING:.0%} of the binding budget. {len(frozen)} of these keep more than 5% of their",
        "parameters in layers of fixed width.",
    ]


def _row(found: OutsideMeasurement) -> str:
    cells = [found.name]
    if found.ended or found.plan_error:
        cells += ["no", "–", "–", "–", "–", "–"]
    else:
        built = not found.build_error
        cells += [_mark(built), _mark(built and found.exact), _mark(built and not found.run_error)]
        cells += [f"{100 * found.used:.1f}", f"{100 * found.frozen:.1f}", f"{found.seconds:.2f}"]
    return "| " + " | ".join([*cells, _note(found)]) + " |"


def _mark(good: bool) -> str:
    return "yes" if good else "no"


def _note(found: OutsideMeasurement) -> str:
    notes = [found.error]
    if found.frozen > 0.01:
        most = sorted(found.reasons.items(), key=lambda item: -item[1][1])[:2]
        notes += [f"{reason} ({count}, first {first})" for reason, (first, count) in most]
    if found.limits:
        notes.append(f"the network itself fails in {found.limits}")
    return "; ".join(note for note in notes if note).replace("|", "\\|")


if __name__ == "__main__":
    main()
