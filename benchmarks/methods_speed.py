"""Seconds and memory that every method for densities takes: `make bench`.

SynFlow and SNIP take turns with plain loops over autograd on the same network and batch. For the
plain SynFlow, whose R must fit in float32, every layer's weights are scaled by a constant. CPU
seconds are those of the process; memory is the most that a fresh process ever held. PyTorch runs on
one thread.
"""

import argparse
import copy
import importlib
import json
import resource
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precrop
from benchmarks.report import (
    Row,
    Seconds,
    Section,
    clocked,
    described,
    markdown,
    progress,
    setting,
    show,
    spread,
)
from precrop.pruning.methods import METHODS

ROOT = Path(__file__).parent.parent
SHARE = 0.1
PLAN_SHARE = 0.5
SLOW = 2.0
"""Seconds from which on one run is enough."""
NEED_DATA = ("snip", "grasp")
Densities = dict[str, float]


@dataclass(frozen=True)
class Case:
    """A network to measure, built by the function that ``source`` (``module:name``) names."""

    source: str
    shape: tuple[int, ...]
    classes: int

    @property
    def name(self) -> str:
        """The function's name."""
        return self.source.partition(":")[2]

    def factory(self) -> Callable[[], nn.Module]:
        """Import the function, only now."""
        module = importlib.import_module(self.source.partition(":")[0])
        found: Callable[[], nn.Module] = getattr(module, self.name)
        return found


@dataclass(frozen=True)
class Amounts:
    """How much is measured.

    Attributes:
        rounds: of SynFlow among all methods.
        loop_rounds: of SynFlow next to the plain loop.
        batch: samples for SNIP and GraSP.
        memory_batch: samples when memory is measured.
        repeats: runs of fast methods.
        turns: runs of precrop and of a plain loop, if they take long.
        memory_of: methods whose memory is measured.
    """

    rounds: int
    loop_rounds: int
    batch: int
    memory_batch: int
    repeats: int
    turns: int
    memory_of: tuple[str, ...] = NEED_DATA

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Amounts":
        """Return the amounts that a command line asks for."""
        return cls(
            rounds=options.rounds,
            loop_rounds=options.loop_rounds,
            batch=options.batch,
            memory_batch=2 * options.batch,
            repeats=options.repeats,
            turns=min(3, options.repeats),
        )

    def of_method(self, method: str, rounds: int) -> str:
        """Describe the amount of work of a method."""
        return f"{rounds} rounds" if method == "synflow" else _samples(method, self.batch)


CASES: tuple[Case, ...] = (
    Case("torchvision.models:resnet50", (3, 224, 224), 1000),
    Case("torchvision.models:mobilenet_v2", (3, 224, 224), 1000),
)
QUICK_CASES: tuple[Case, ...] = (Case("precrop.models:resnet20", (3, 32, 32), 10),)
QUICK = Amounts(
    rounds=3, loop_rounds=2, batch=4, memory_batch=4, repeats=1, turns=1, memory_of=("snip",)
)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure everything and print it; also as Markdown if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the tables as Markdown"
    )
    parser.add_argument("--rounds", type=int, default=100, help="of SynFlow (default 100)")
    parser.add_argument(
        "--loop-rounds", type=int, default=10, help="next to the plain loop (default 10)"
    )
    parser.add_argument("--batch", type=int, default=32, help="samples (default 32)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of what is quick (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads (default 1)")
    parser.add_argument(
        "--quick", action="store_true", help="a small network and little of everything"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    where = setting("precrop", "torch", "torchvision")
    cases, amounts = CASES, Amounts.of(options)
    if options.quick:
        cases, amounts = QUICK_CASES, QUICK
    # A process starts with the record of the one that started it: this comes before anything large.
    peaks = memory(cases[0], amounts)
    every, loops, exact = methods(cases, amounts), versus(cases, amounts), synexps(cases, amounts)
    sections = [ratios(every, loops, amounts), every, loops, exact, peaks]
    show(sections)
    if options.markdown:
        introduction = [
            "`make bench` prints these tables; with `--markdown docs/speed-of-methods.md` the",
            "script wrote this file. Everything is of one run on one machine:",
            f"{described(where)}.",
            "",
            *(__doc__ or "").strip().splitlines()[2:],
        ]
        page = markdown("How long methods take", introduction, sections)
        options.markdown.write_text(page, encoding="utf-8")


# --- every method ---------------------------------------------------------------------------------


def methods(cases: Sequence[Case], amounts: Amounts) -> Section:
    """Time `precrop.densities` by every method."""
    rows: list[Row] = []
    for case in cases:
        data = [batch(case, amounts.batch)]
        options: dict[str, dict[str, Any]] = {name: {"data": data} for name in NEED_DATA}
        options["synflow"] = {"rounds": amounts.rounds}
        for method in METHODS:
            work = partial(densities, case=case, method=method, **options.get(method, {}))
            row = run(case, method, work, amounts.repeats)
            row["amount"] = amounts.of_method(method, amounts.rounds)
            synexp = _row([*rows, row], case.name, "synexp")
            row["synexp_ratio"] = row["median"] / synexp["median"]
            row["synexp_cpu_ratio"] = row["cpu"] / synexp["cpu"]
            rows.append(row)
    columns = {
        "network": "network", "what": "method", "amount": "", "runs": "runs", "median": "median",
        "least": "least", "most": "most", "cpu": "median, CPU", "synexp_ratio": "method / synexp",
    }  # fmt: skip
    return Section(f"precrop.densities with params={SHARE}, seconds", columns, rows)


def synexps(cases: Sequence[Case], amounts: Amounts) -> Section:
    """Time SynExp itself, and plans for its bound, its exact value and that of R."""
    both: dict[str, Any] = {"params": PLAN_SHARE, "macs": PLAN_SHARE}
    works: dict[str, Callable[[nn.Module, Any], Any]] = {
        "plan": partial(precrop.plan, **both),
        'plan, objective="exact"': partial(precrop.plan, **both, objective="exact"),
        'plan, objective="exact-output"': partial(precrop.plan, **both, objective="exact-output"),
        "synexp": precrop.synexp,
    }
    rows: list[Row] = []
    for case in cases:
        for what, function in works.items():
            row = run(case, what, partial(_called, function, case.shape), amounts.repeats)
            plan = _row([*rows, row], case.name, "plan")
            rows.append({**row, "plan_ratio": row["median"] / plan["median"]})
    columns = {
        "network": "network", "what": "what", "runs": "runs", "median": "median",
        "least": "least", "most": "most", "cpu": "median, CPU", "plan_ratio": "this / plan",
    }  # fmt: skip
    return Section(f"SynExp, and plans with params and MACs {PLAN_SHARE}, seconds", columns, rows)


def run(case: Case, what: str, work: Callable[[nn.Module], Any], repeats: int) -> Row:
    """Time ``work`` on fresh networks: once if that takes long, else ``repeats`` times."""
    progress.print(f"{case.name}, {what}")
    seconds = [clocked(partial(work, made(case)))[0]]
    if repeats > 1 and seconds[0].wall < SLOW:  # what is loaded once is not counted
        seconds = [clocked(partial(work, made(case)))[0] for _ in range(repeats)]
    times = spread([each.wall for each in seconds])
    return {
        "network": case.name, "what": what, "runs": len(seconds), **times, "cpu": _cpu(seconds)
    }  # fmt: skip


def densities(model: nn.Module, *, case: Case, method: str, **options: Any) -> Densities:
    """Return a method's densities, without its warnings of layers that collapse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", precrop.LayerCollapseWarning)
        return precrop.densities(model, case.shape, method=method, params=SHARE, **options)


def _called(function: Callable[[nn.Module, Any], Any], shape: Any, model: nn.Module) -> Any:
    return function(model, shape)


# --- next to plain loops --------------------------------------------------------------------------


def versus(cases: Sequence[Case], amounts: Amounts) -> Section:
    """Compare SynFlow and SNIP with plain loops over autograd."""
    rows = []
    rounds = amounts.loop_rounds
    for case in cases:
        linear = scaled(made(case))
        ours = partial(densities, linear, case=case, method="synflow", rounds=rounds)
        plain = partial(plain_synflow, linear, case.shape, rounds)
        rows.append(compare(case, "synflow", ours, plain, amounts))
        model, (inputs, targets) = made(case), batch(case, amounts.batch)
        ours = partial(densities, model, case=case, method="snip", data=[(inputs, targets)])
        plain = partial(plain_snip, model, inputs, targets)
        rows.append(compare(case, "snip", ours, plain, amounts))
    columns = {
        "network": "network", "what": "method", "amount": "", "turns": "turns",
        "ours": "precrop", "plain": "plain loop", "ours_cpu": "precrop, CPU",
        "plain_cpu": "plain loop, CPU", "relative": "precrop / plain",
        "relative_cpu": "CPU precrop / plain", "difference": "densities differ by at most",
    }  # fmt: skip
    for row in rows:
        row["amount"] = amounts.of_method(row["what"], rounds)
    return Section("Next to a plain loop, in turns, medians in seconds", columns, rows)


def compare(
    case: Case,
    method: str,
    ours: Callable[[], Densities],
    plain: Callable[[], Densities],
    amounts: Amounts,
) -> Row:
    """Return medians of two ways to the same densities, which take turns."""
    progress.print(f"{case.name}, {method} and a plain loop")
    mine: list[Seconds] = []
    theirs: list[Seconds] = []
    turns = amounts.repeats
    while len(mine) < turns:
        taken, found = clocked(ours)
        mine.append(taken)
        taken, expected = clocked(plain)
        theirs.append(taken)
        if max(mine[0].wall, theirs[0].wall) >= SLOW:
            turns = amounts.turns
    row: Row = {"network": case.name, "what": method, "turns": turns}
    row |= {"ours": _wall(mine), "plain": _wall(theirs)}
    row |= {"ours_cpu": _cpu(mine), "plain_cpu": _cpu(theirs)}
    row["relative"] = row["ours"] / row["plain"]
    row["relative_cpu"] = row["ours_cpu"] / row["plain_cpu"]
    row["difference"] = f"{max(abs(found[name] - expected[name]) for name in found):.1e}"
    return row


def plain_synflow(model: nn.Module, shape: tuple[int, ...], rounds: int) -> Densities:
    """Run SynFlow in rounds: all state is replaced by its absolute values, in eval mode."""
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.abs_()
    weights = prunable(model)
    for done in range(1, rounds + 1):
        model.zero_grad()
        model(torch.ones(1, *shape)).sum().backward()
        with torch.no_grad():
            scores = {name: weight * _gradient(weight) for name, weight in weights.items()}
            masks = highest(scores, SHARE ** (done / rounds))
            for name, weight in weights.items():
                weight.mul_(masks[name])
    return _shares(masks)


def plain_snip(model: nn.Module, inputs: Tensor, targets: Tensor) -> Densities:
    """Run SNIP on one batch, in train mode."""
    model = copy.deepcopy(model).train()
    weights = prunable(model)
    loss = F.cross_entropy(model(inputs), targets)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    with torch.no_grad():
        pairs = zip(weights.items(), gradients, strict=True)
        scores = {name: (weight * gradient).abs() for (name, weight), gradient in pairs}
    return _shares(highest(scores, SHARE))


def highest(scores: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return masks of the weights with the highest scores in the whole network."""
    flat = torch.cat([values.flatten() for values in scores.values()])
    threshold = torch.kthvalue(flat, round((1 - share) * flat.numel())).values
    return {name: values > threshold for name, values in scores.items()}


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of convolutions and linear layers, by layer name."""
    kinds = (nn.Conv2d, nn.Linear)
    return {
        name: module.weight for name, module in model.named_modules() if isinstance(module, kinds)
    }


def scaled(model: nn.Module) -> nn.Module:
    """Scale every layer's weights in place, so that an even flow is halved by each layer."""
    with torch.no_grad():
        for weight in prunable(model).values():
            weight /= 2 * weight.abs().mean() * weight[0].numel()
    return model


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.grad


def _shares(masks: Mapping[str, Tensor]) -> Densities:
    return {name: float(mask.float().mean()) for name, mask in masks.items()}


def ratios(every: Section, loops: Section, amounts: Amounts) -> Section:
    """Return the ratios that the methods should reach."""
    rows = []
    for loop in loops.rows:
        if loop["what"] == "synflow":
            synflow = _row(every.rows, loop["network"], "synflow")
            rows.append(
                {
                    "ratio": f"SynFlow, {amounts.rounds} rounds / SynExp",
                    "network": loop["network"],
                    "wall": f"{synflow['synexp_ratio']:.0f}",
                    "cpu": f"{synflow['synexp_cpu_ratio']:.0f}",
                    "aim": "100 or more",
                }
            )
        name = {"synflow": "SynFlow", "snip": "SNIP"}[loop["what"]]
        rows.append(
            {
                "ratio": f"{name} / a plain loop",
                "network": loop["network"],
                "wall": loop["relative"],
                "cpu": loop["relative_cpu"],
                "aim": "1 or less",
            }
        )
    columns = {
        "ratio": "ratio", "network": "network", "wall": "of seconds", "cpu": "of CPU seconds",
        "aim": "aim",
    }  # fmt: skip
    return Section("Ratios of the medians below", columns, rows)


# --- memory ---------------------------------------------------------------------------------------


def memory(case: Case, amounts: Amounts) -> Section:
    """Measure the most memory that fresh processes hold."""
    rows = []
    for method in amounts.memory_of:
        progress.print(f"{case.name}, memory of {method} on {amounts.memory_batch} samples")
        arguments = (case, method, amounts.memory_batch, torch.get_num_threads())
        program = f"from benchmarks.methods_speed import Case, hold; hold(*{arguments!r})"
        answer = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
        )
        rows.append({"network": case.name, "what": method, **json.loads(answer.stdout)})
    columns = {
        "network": "network", "what": "method", "imports": "imports", "made": "network and batch",
        "peak": "in the end", "seconds": "seconds", "cpu": "seconds, CPU",
    }  # fmt: skip
    title = f"Memory with {amounts.memory_batch} samples at {'x'.join(map(str, case.shape))}, GB"
    return Section(title, columns, rows)


def hold(case: Case, method: str, samples: int, threads: int) -> None:
    """Run a method in this process and print the memory and time that it took, as JSON."""
    torch.set_num_threads(threads)
    case.factory()
    peaks = {"imports": _peak()}
    model, data = made(case), [batch(case, samples)]
    peaks["made"] = _peak()
    taken, _ = clocked(partial(densities, model, case=case, method=method, data=data))
    print(json.dumps({**peaks, "peak": _peak(), "seconds": taken.wall, "cpu": taken.cpu}))


def _peak() -> float:
    """Return the most memory this process ever held, in GB; Linux counts in KiB, macOS in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


# --- what all have in common ----------------------------------------------------------------------


def made(case: Case) -> nn.Module:
    """Return a fresh network, always with the same weights."""
    torch.manual_seed(0)
    return case.factory()()


def batch(case: Case, samples: int) -> tuple[Tensor, Tensor]:
    """Return random inputs and targets, always the same."""
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, *case.shape, generator=random)
    return inputs, torch.randint(case.classes, (samples,), generator=random)


def _samples(method: str, samples: int) -> str:
    return f"{samples} samples" if method in NEED_DATA else ""


def _row(rows: Sequence[Row], network: str, what: str) -> Row:
    return next(row for row in rows if (row["network"], row["what"]) == (network, what))


def _wall(seconds: Sequence[Seconds]) -> float:
    return statistics.median(each.wall for each in seconds)


def _cpu(seconds: Sequence[Seconds]) -> float:
    return statistics.median(each.cpu for each in seconds)


if __name__ == "__main__":
    main()
