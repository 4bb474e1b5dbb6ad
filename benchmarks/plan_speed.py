"""Seconds that `precrop.plan` takes, next to Torch-Pruning at the same MACs: `make bench`.

Torch-Pruning takes a channel ratio, not a budget, so its ratio is bisected to a thousandth. The
tables show the seconds of the bisection, and of one prune at the ratio that it found, beside
`plan + build`. MACs are half of what PyTorch's FlopCounterMode counts. PyTorch runs on one thread.
"""

import argparse
import copy
import importlib
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import precrop
from benchmarks.report import (
    Row,
    Section,
    described,
    markdown,
    progress,
    setting,
    show,
    spread,
    steps,
    timed,
    write_between,
)
from precrop import models

NETWORKS = ("resnet50", "mobilenet_v2", "efficientnet_b0")
DEPTHS = ("resnet20", "resnet56", "resnet110", "resnet1202")
SHAPE, SMALL = (3, 224, 224), (3, 32, 32)
SHARE = 0.5
RATIO_STEP = 0.001
STAGES = {
    "reading": ("precrop.read.reading", "read_network"),
    "solving": ("precrop.strategies.synexp", "allocate"),
    "rounding": ("precrop.planning", "round_units"),
    "fitting": ("precrop.fit.fitting", "Fitter.fit"),
}
IMPORTS = {
    "import precrop": "import precrop",
    "import precrop; precrop.plan": "import precrop; precrop.plan",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure everything and print it; also as JSON or as Markdown if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the tables as Markdown"
    )
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help="write the short table between its markers"
    )
    parser.add_argument("--repeats", type=int, default=9, help="plans per network (default 9)")
    parser.add_argument(
        "--prunes", type=int, default=3, help="single prunes per network (default 3)"
    )
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads (default 1)")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", module="torch_pruning")
    where = setting("precrop", "torch", "torchvision", "torch-pruning")
    sections = [
        *compare(options.repeats, options.prunes),
        depth(min(3, options.repeats)),
        stages(options.repeats),
        imports(options.repeats),
    ]
    show(sections)
    if options.json:
        content = {"setting": where, **{s.title: list(s.rows) for s in sections}}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.readme:
        _write_readme(options.readme, sections)
    if options.markdown:
        options.markdown.write_text(_page(sections, where), encoding="utf-8")


def compare(repeats: int, prunes: int) -> tuple[Section, Section]:
    """Compare plans of the three networks with Torch-Pruning at the same MACs."""
    prune(make("resnet18"), SHARE)  # what is loaded once is not counted
    plans: list[Row] = []
    rivals: list[Row] = []
    for name in NETWORKS:
        ours = time_plans(name, repeats, {"macs": SHARE})
        both = time_plans(name, repeats, {"params": SHARE, "macs": SHARE})
        plans += [ours, both]
        theirs = time_torch_pruning(name, prunes)
        theirs["plan"], theirs["crop"] = ours["median"], ours["crop"]
        theirs["bisection_ratio"] = theirs["bisection"] / ours["median"]
        theirs["prune_ratio"] = theirs["prune"] / ours["median"]
        theirs["crop_ratio"] = theirs["prune"] / ours["crop"]
        rivals.append(theirs)
    title = f"precrop.plan at {'x'.join(map(str, SHAPE))}, seconds"
    columns = {
        "network": "network", "budgets": "budgets", "first": "first", "median": "median",
        "least": "least", "most": "most", "crop": "plan + build", "params": "params",
        "macs": "MACs",
    }  # fmt: skip
    rival_columns = {
        "network": "network", "macs": "MACs", "prunes": "prunes", "bisection": "bisection",
        "prune": "one prune", "prune_least": "least", "prune_most": "most", "plan": "plan",
        "crop": "plan + build", "bisection_ratio": "bisection / plan",
        "prune_ratio": "prune / plan", "crop_ratio": "prune / (plan + build)",
    }  # fmt: skip
    return (
        Section(title, columns, plans),
        Section("Torch-Pruning to the same MACs, seconds", rival_columns, rivals),
    )


def time_plans(name: str, repeats: int, budgets: dict[str, Any]) -> Row:
    """Time ``repeats`` plans of fresh networks; the first call is reported separately."""
    seconds, crops = [], []
    text = " ".join(f"{cost} {share}" for cost, share in budgets.items())
    for _ in steps(f"{name} {text}", repeats + 1):
        model = make(name)
        taken, plan = timed(partial(precrop.plan, model, SHAPE, **budgets))
        built, small = timed(partial(plan.build, model))
        seconds.append(taken)
        crops.append(taken + built)
    macs = count_macs(small)
    if macs != plan.macs:
        raise AssertionError(f"{name}: planned {plan.macs} MACs, PyTorch counts {macs}")
    return {
        "network": name,
        "budgets": text,
        "first": seconds[0],
        **spread(seconds[1:]),
        "crop": statistics.median(crops[1:]),
        "params": plan.params / plan.base_params,
        "macs": plan.macs / plan.base_macs,
    }


def time_torch_pruning(name: str, prunes: int) -> Row:
    """Time the search for the right ratio by MACs, and one prune at that ratio."""
    limit = SHARE * own_macs(make(name))
    low, high, count, total = 0.0, 1.0, 0, 0.0
    while high - low > RATIO_STEP:
        ratio = (low + high) / 2
        model = make(name)
        taken, _ = timed(partial(prune, model, ratio))
        counting, macs = timed(partial(own_macs, model))
        total += taken + counting
        low, high = (ratio, high) if macs > limit else (low, ratio)
        count += 1
        progress.print(f"  {name}: ratio {ratio:.4f}, MACs {macs / limit:.3f} of the budget")
    single = []
    for _ in steps(f"Torch-Pruning {name}, one prune", prunes):
        model = make(name)
        single.append(timed(partial(prune, model, high))[0])
    return {
        "network": name,
        "macs": count_macs(model) / count_macs(make(name)),
        "ratio": high,
        "prunes": count,
        "bisection": total,
        "prune": statistics.median(single),
        "prune_least": min(single),
        "prune_most": max(single),
    }


def own_macs(model: nn.Module) -> float:
    """Return the MACs as Torch-Pruning counts them."""
    import torch_pruning as tp

    return float(tp.utils.count_ops_and_params(model, torch.ones(1, *SHAPE))[0])


def prune(model: nn.Module, ratio: float) -> None:
    """Run Torch-Pruning's default pruner in place: random importance, the classifier left whole."""
    import torch_pruning as tp

    classifier = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    pruner = tp.pruner.MetaPruner(
        model,
        torch.ones(1, *SHAPE),
        importance=tp.importance.RandomImportance(),
        pruning_ratio=ratio,
        ignored_layers=[classifier],
    )
    pruner.step()


def depth(repeats: int) -> Section:
    """Time plans of ever deeper networks of one family."""
    rows = []
    for name in DEPTHS:
        factory: Callable[[], nn.Module] = getattr(models, name)
        seconds = []
        for _ in steps(f"{name} params and macs {SHARE}", repeats):
            model = factory()
            taken, plan = timed(partial(precrop.plan, model, SMALL, params=SHARE, macs=SHARE))
            seconds.append(taken)
        layers = len(plan.layers)
        row: Row = {"network": name, "layers": layers, **spread(seconds)}
        rows.append({**row, "per_layer": 1000 * row["median"] / layers})
    columns = {
        "network": "network", "layers": "layers", "median": "median", "least": "least",
        "most": "most", "per_layer": "ms per layer",
    }  # fmt: skip
    return Section(f"Time against depth at {'x'.join(map(str, SMALL))}, seconds", columns, rows)


def stages(repeats: int) -> Section:
    """Show where the time of a plan goes."""
    rows = []
    for name in NETWORKS:
        runs = [stage_seconds(make(name), SHAPE) for _ in steps(f"{name}, stages", repeats)]
        row: Row = {"network": name}
        row |= {stage: statistics.median(run[stage] for run in runs) for stage in runs[0]}
        rows.append(row)
    columns = {name: name for name in ("network", *STAGES, "rest", "total")}
    return Section("Where the time goes, params and MACs 0.5, seconds", columns, rows)


def stage_seconds(model: nn.Module, shape: tuple[int, ...]) -> dict[str, float]:
    """Return the seconds of one plan by stage."""
    seconds = dict.fromkeys(STAGES, 0.0)
    with _clocks(seconds):
        total, _ = timed(partial(precrop.plan, model, shape, params=SHARE, macs=SHARE))
    return {**seconds, "rest": total - sum(seconds.values()), "total": total}


@contextmanager
def _clocks(seconds: dict[str, float]) -> Iterator[None]:
    """Within it, every stage's function adds its time to ``seconds``."""
    patches = []
    for stage, (module_name, path) in STAGES.items():
        *owners, name = path.split(".")
        owner: Any = importlib.import_module(module_name)
        for part in owners:
            owner = getattr(owner, part)
        patches.append(
            mock.patch.object(owner, name, _clocked(getattr(owner, name), stage, seconds))
        )
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def _clocked(function: Callable[..., Any], stage: str, seconds: dict[str, float]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        seconds[stage] += time.perf_counter() - start
        return result

    return call


def imports(repeats: int) -> Section:
    """Time imports in fresh interpreters, beyond ``import torch``."""
    rows = []
    for title, code in IMPORTS.items():
        program = (
            "import time, torch\nstart = time.perf_counter()\n"
            f"{code}\nprint(time.perf_counter() - start)"
        )
        seconds = []
        for _ in steps(title, repeats):
            command = [sys.executable, "-c", program]
            answer = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds.append(float(answer.stdout))
        rows.append({"what": title, **spread(seconds)})
    columns = {"what": "what", "median": "median", "least": "least", "most": "most"}
    return Section("Imports beyond import torch, seconds", columns, rows)


def make(name: str) -> nn.Module:
    """Return a fresh network of torchvision in eval mode."""
    import torchvision

    model: nn.Module = torchvision.models.get_model(name, weights=None).eval()
    return model


def count_macs(model: nn.Module) -> int:
    """Return the MACs at batch 1 as PyTorch counts them, on meta tensors to save time."""
    meta = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        meta(torch.ones(1, *SHAPE, device="meta"))
    return int(counter.get_total_flops()) // 2


def _page(sections: Sequence[Section], where: Mapping[str, str]) -> str:
    introduction = [
        "`make bench` prints these tables; with `--markdown docs/speed-of-planning.md --readme",
        "README.md` the script wrote this file. Everything is of one run on one machine:",
        f"{described(where)}.",
        "",
        *(__doc__ or "").strip().splitlines()[2:],
    ]
    return markdown("How long planning takes", introduction, sections)


def _write_readme(path: Path, sections: Sequence[Section]) -> None:
    """Write this run's short table into the README."""
    rival = f"Torch-Pruning {version('torch-pruning')}"
    head = f"| `make bench` | precrop | {rival}, bisected to the budget | {rival}, one prune |"
    rows = [head, "|---|---|---|---|", *_short_rows(sections)]
    write_between(path, rows)


def _short_rows(sections: Sequence[Section]) -> Iterator[str]:
    plans, rivals, depths, _, imported = (section.rows for section in sections)
    for plan, rival in zip(plans[::2], rivals, strict=True):
        yield (
            f"| {plan['network']} to half its MACs | {plan['median']:.2f} s | "
            f"{rival['bisection_ratio']:.0f} times precrop's time ({rival['prunes']} prunes) | "
            f"{rival['prune_ratio']:.1f} times |"
        )
    deep = depths[-1]
    yield (
        f"| {deep['network']}, {deep['layers']} layers | {deep['median']:.1f} s; "
        f"{deep['per_layer']:.1f} ms per layer ({depths[0]['network']}: "
        f"{depths[0]['per_layer']:.1f} ms): time per layer does not grow with depth | | |"
    )
    yield f"| `import precrop` beyond `import torch` | {imported[0]['median'] * 1e3:.0f} ms | | |"


if __name__ == "__main__":
    main()
