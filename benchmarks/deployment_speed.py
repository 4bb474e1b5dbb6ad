"""Measured speed: `make bench-speed`, which writes docs/speed.md.

Each part measures what it compares in interleaved rounds of one process, and stores a case as JSON
under ``results/speed`` as soon as it is done; an interrupted run resumes, and ``--fresh`` starts
over. Ratios are what counts: seconds differ from machine to machine.
"""

import argparse
import json
import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

import precrop
from benchmarks.report import Row, progress
from precrop.costs.batches import follow
from precrop.costs.latency import READERS, amounts, predicted_seconds
from precrop.costs.machine import describe_machine
from precrop.costs.memory import memory
from precrop.costs.profiles import DeviceProfile
from precrop.costs.work import FEATURES
from precrop.deployment.benching import bench, settings, variants
from precrop.deployment.book import RECORD
from precrop.deployment.calibrating import calibrate
from precrop.deployment.deploying import PROFILE, deploy
from precrop.deployment.exportable import noise
from precrop.deployment.memory import peak_activation_memory
from precrop.deployment.profiling import Subject, predict, profile_device
from precrop.deployment.rates import Total, correct
from precrop.deployment.runtimes import onnx_file, ort_run, sessions
from precrop.deployment.setting import Setting
from precrop.deployment.timing import interleaved
from precrop.errors import PrecropError
from precrop.files import write_text
from precrop.model_spec import ModelSpec
from precrop.plans.plan import Plan
from precrop.read.inputs import Inputs
from precrop.read.lifetimes import lifetimes
from precrop.read.lower import lower
from precrop.read.network import read_network
from precrop.zoo import default_input_shape, load_model

FOLDER = Path("results/speed")
FITTED = (
    "resnet18",
    "vgg11",
    "mobilenet_v3_large",
    "efficientnet_b1",
    "regnet_y_800mf",
    "timm:regnetx_002",
    "densenet121",
    "shufflenet_v2_x1_5",
    "timm:convnext_nano",
    "timm:mixer_s32_224",
)
"""Networks that the profile is made of; no other part measures them."""
ARGUMENTS = {"timm:convnext_nano": {"conv_mlp": False}}
"""Linear layers on maps, as torchvision's ConvNeXt has them and no other of the fitted has."""
BUDGETED = (
    "resnet50",
    "mobilenet_v2",
    "efficientnet_b0",
    "vgg16",
    "regnet_y_400mf",
    "convnext_tiny",
)
UNSEEN = (*BUDGETED, "densenet169", "wide_resnet50_2", "mnasnet1_0", "googlenet")
OPTIONS: Mapping[str, Mapping[str, Any]] = {"regnet_y_400mf": {"groups": "scale"}}
"""Of plans for a latency. Kernels of grouped convolutions have a rate for each width of a group:
where that stays and the number of groups falls, time falls as predicted."""
LATENCIES = (0.5, 0.3)
NEAR = 0.1
DIVISORS = (1, 4, 8, 16, 32)
HALF: Mapping[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "macs": ({"macs": 0.5}, (*UNSEEN, "mobilenet_v3_large", "resnet18")),
    "params and MACs": ({"params": 0.5, "macs": 0.5}, BUDGETED),
}
"""Budgets of plans by default, and the networks that they are measured with."""
BATCHES = (1, 8)
MASKED = {"resnet20": 0.3, "resnet18": 0.3}
ROUNDS, QUICK = 30, 12
WINDOWS = 3

Case = Callable[[], Row]
Profiles = Mapping[str, DeviceProfile]
"""By runtime."""


class Record:
    """The rows of one part, written to disk as soon as each is measured."""

    def __init__(self, folder: Path, part: str, fresh: bool) -> None:
        self.path = folder / f"{part}.json"
        self.rows: dict[str, Row] = {}
        if self.path.exists() and not fresh:
            self.rows = json.loads(self.path.read_text(encoding="utf-8"))["rows"]

    def add(self, name: str, case: Case) -> None:
        """Measure a case, unless its row is there."""
        if name in self.rows:
            return
        progress.print(f"{self.path.stem}: {name}")
        try:
            self.rows[name] = {"case": name, **case()}
        except PrecropError as error:
            self.rows[name] = {"case": name, "reason": str(error)}
        content = {"machine": describe_machine(), "rows": self.rows}
        write_text(self.path, json.dumps(content, indent=1) + "\n")


def network(name: str) -> tuple[nn.Module, Any]:
    """Return a network with fresh weights, and the shape of its input."""
    torch.manual_seed(0)
    model = load_model(name, ARGUMENTS.get(name, {}))
    return model, default_input_shape(name, model)


def device_profile(folder: Path, runtime: str, threads: int, fresh: bool) -> DeviceProfile:
    """Return the profile of this machine; it is measured if it is not in the folder."""
    path = folder / f"profile-{runtime}-{threads}.json"
    if path.exists() and not fresh:
        return DeviceProfile.load(path)
    subjects = [Subject(name, *network(name)) for name in FITTED]

    def told(what: str, share: float) -> None:
        progress.print(f"profile for {runtime}: {share:.0%}  {what}")

    found = profile_device(subjects, Setting(runtime, threads=threads), progress=told)
    found.save(path)
    return found


# --- parts --------------------------------------------------------------------------------------


def predictions(profiles: Profiles, threads: int) -> Iterator[tuple[str, Case]]:
    """Compare the latencies that profiles predict for networks with measured ones.

    A window measures all networks in turns. Networks that the profile was fitted to are among them:
    they show how fast the machine is at that moment, and correct the profile for it.
    """
    for runtime, profile in profiles.items():
        for window in range(WINDOWS):

            def case(runtime: str = runtime, profile: DeviceProfile = profile) -> Row:
                networks = {name: network(name) for name in (*FITTED, *UNSEEN)}
                setting = Setting(runtime, threads=threads)
                with ExitStack() as stack:
                    runs = {
                        name: stack.enter_context(sessions(model, Inputs(shape), setting, 1))[0]
                        for name, (model, shape) in networks.items()
                    }
                    times = interleaved(runs, rounds=ROUNDS, least_seconds=0.05)
                seconds = {name: timing.median for name, timing in times.items()}
                known = [whole(profile, n, *networks[n], seconds[n]) for n in FITTED]
                corrected = correct(profile, known)
                return {
                    "seconds": seconds,
                    "predicted": {n: predict(profile, *networks[n]) for n in networks},
                    "corrected": {n: predict(corrected, *networks[n]) for n in networks},
                }

            yield f"{runtime} window {window}", case


def whole(profile: DeviceProfile, name: str, model: nn.Module, shape: Any, seconds: float) -> Total:
    """Return a network's measured time with the one that a profile predicts."""
    read, lives = follow(read_network(model, Inputs(shape)), 1)
    works = READERS[profile.runtime](read, lives)
    operations = int(sum(amounts(work)["calls"] for work in works))
    return Total(name, predicted_seconds(profile, read, lives), operations, seconds)


def budgets(profiles: Profiles, threads: int) -> Iterator[tuple[str, Case]]:
    """Calibrate plans to shares of the latency, and measure the results once more independently."""
    for name in BUDGETED:
        for share in LATENCIES:

            def case(name: str = name, share: float = share) -> Row:
                model, shape = network(name)
                found = calibrate(
                    model,
                    shape,
                    share,
                    device_profile=profiles["ort"],
                    threads=threads,
                    divisor="auto",
                    **OPTIONS.get(name, {}),
                )
                models = {"dense": model, "cropped": found.plan.build(model)}
                found_in = windows(models, shape, threads)
                measured = ratio(found_in, "cropped", "dense")
                return {
                    "asked": share,
                    "measured": measured,
                    "of_asked": measured / share,
                    "windows": [times["cropped"] / times["dense"] / share for times in found_in],
                    "first": found.attempts[0].used,
                    "plans": len(found.attempts),
                    "macs": found.plan.macs / found.plan.base_macs,
                    "attempts": [asdict(attempt) for attempt in found.attempts],
                }

            yield f"{name} {share:.0%}", case


def deployments(profiles: Profiles, threads: int) -> Iterator[tuple[str, Case]]:
    """The same by `precrop.deployment.deploy`, without training, on one thread.

    The time is that of the file that it writes, relative to the original's. The profile is fitted
    to the network itself, as `deploy` does by default; the second share uses it again.
    """
    known: dict[str, DeviceProfile] = {}
    for name in sorted(BUDGETED, key="vgg16".__eq__):  # whose files are the largest
        for share in LATENCIES:

            def case(name: str = name, share: float = share) -> Row:
                with TemporaryDirectory() as folder:
                    found = deploy(
                        ModelSpec(name, ARGUMENTS.get(name, {})),
                        share,
                        folder,
                        device_profile=known.get(name),
                        progress=progress.print,
                        **OPTIONS.get(name, {}),
                    )
                    if name not in known:
                        known[name] = DeviceProfile.load(Path(folder, PROFILE))
                    book = json.loads(Path(folder, RECORD).read_text(encoding="utf-8"))
                attempts = book["steps"]["plan"]["result"]["attempts"]
                edges = (found.deployed.least, found.deployed.most)
                return {
                    "asked": share,
                    "measured": found.deployed.median / found.dense.median,
                    "of_asked": found.used,
                    "edges": [seconds / found.limit for seconds in edges],
                    "dense": found.dense.median,
                    "plans": len(attempts),
                    "first": attempts[0]["seconds"] / attempts[0]["limit"],
                    "macs": found.plan.macs / found.plan.base_macs,
                    "quiet": asdict(found.quiet),
                }

            yield f"{name} {share:.0%}", case


def divisors(profiles: Profiles, threads: int) -> Iterator[tuple[str, Case]]:
    """Measure the speed-up of networks at half of their MACs by the divisor of their widths."""
    for name in BUDGETED:
        for runtime in ("eager", "ort"):
            for batch in BATCHES:
                if name != "resnet50" and (batch > 1 or runtime == "eager"):
                    continue

                def case(name: str = name, runtime: str = runtime, batch: int = batch) -> Row:
                    model, shape = network(name)
                    plans = {
                        f"divisor {d}": precrop.plan(model, shape, macs=0.5, divisor=d)
                        for d in DIVISORS
                    }
                    uniform = narrowed(model, shape)
                    found = bench(
                        variants(model, shape, {**plans, "uniform": uniform}),
                        shape,
                        settings([runtime], [batch], [threads]),
                        rounds=ROUNDS,
                    )
                    rows = {row.variant: row for row in found.rows}
                    return {
                        "step": profiles[runtime].step,
                        **{
                            f"{key} {d}": getattr(rows[f"cropped divisor {d}"], key)
                            for d in DIVISORS
                            for key in ("speedup", "share_of_ideal", "ideal", "spread")
                        },
                        "uniform": rows["cropped uniform"].share_of_ideal,
                        "dense": rows["dense"].latency,
                        "dense_spread": rows["dense"].spread,
                    }

                yield f"{name} {runtime} batch {batch}", case


def defaults(profiles: Profiles, threads: int) -> Iterator[tuple[str, Case]]:
    """Time the defaults of `precrop.plan`, beside divisor 1 and the original.

    On one thread, where narrow widths cost the most.
    """
    for asked, (budgets, names) in HALF.items():
        for name in names:

            def case(name: str = name, budgets: dict[str, Any] = budgets) -> Row:
                model, shape = network(name)
                plans = {
                    "divisor 1": precrop.plan(model, shape, divisor=1, **budgets),
                    "default": precrop.plan(model, shape, **budgets),
                }
                models = {"dense": model, **{n: plan.build(model) for n, plan in plans.items()}}
                times = windows(models, shape, 1, rounds=QUICK)
                dense = [window["dense"] for window in times]
                return {
                    "dense": statistics.median(dense),
                    **{n: ratio(times, n, "dense") for n in plans},
                    "most": max(window["default"] / window["dense"] for window in times),
                    "macs": plans["default"].macs / plans["default"].base_macs,
                    "divisor": plans["default"].options["divisor"],
                    "multiples": _multiples(plans["default"]),
                }

            yield f"{name} half the {asked}", case


def _multiples(plan: Plan) -> float:
    """Return the share of layers whose output channels are multiples of the plan's divisor."""
    divisor: int = plan.options["divisor"]
    return sum(layer.out_channels % divisor == 0 for layer in plan.layers) / len(plan.layers)


def narrowed(model: nn.Module, shape: Any) -> Plan:
    """Scale all widths by one number, in steps of 8, to half of the MACs: no method at all."""
    return precrop.plan(model, shape, macs=0.5, divisor=8, balance=1e4)


def rooflines(profiles: Profiles, threads: int) -> Iterator[tuple[str, Case]]:
    """Split the predicted time, dense and at half of the MACs; nothing is measured."""
    profile = profiles["ort"]
    for name in BUDGETED:

        def case(name: str = name) -> Row:
            model, shape = network(name)
            plan = precrop.plan(model, shape, macs=0.5, device_profile=profile, divisor="auto")
            return {"dense": parts(profile, model, shape),
                    "half": parts(profile, plan.build(model), shape)}  # fmt: skip

        yield name, case


def parts(profile: DeviceProfile, model: nn.Module, shape: Any) -> dict[str, float]:
    """Return the profile's seconds for launches, for bytes and for multiply-accumulates."""
    found = dict.fromkeys(FEATURES, 0.0)
    for work in READERS[profile.runtime](*follow(read_network(model, Inputs(shape)), 1)):
        amount = amounts(work, profile.step)
        for feature, rate in profile.of(work.kind).items():
            found[feature] += rate * amount[feature]
    launches, macs = found.pop("calls"), found.pop("macs")
    return {"launches": launches, "bytes": sum(found.values()), "macs": macs}


def same_synexp(profiles: Profiles, threads: int) -> Iterator[tuple[str, Case]]:
    """Compare a plan for latency with a plan for MACs that has the same SynExp value."""
    for name in BUDGETED:

        def case(name: str = name) -> Row:
            model, shape = network(name)
            profile = profiles["ort"]
            timely = precrop.plan(model, shape, latency=0.5, device_profile=profile, divisor="auto")
            lean = alike(model, shape, synexp(timely), timely.options["divisor"])
            models = {"latency": timely.build(model), "macs": lean.build(model), "dense": model}
            times = windows(models, shape, threads)
            return {
                "synexp_latency": synexp(timely),
                "synexp_macs": synexp(lean),
                "macs_latency": timely.macs / timely.base_macs,
                "macs_macs": lean.macs / lean.base_macs,
                "time_latency": ratio(times, "latency", "dense"),
                "time_macs": ratio(times, "macs", "dense"),
                "faster": ratio(times, "macs", "latency"),
            }

        yield name, case


def synexp(plan: Plan) -> float:
    """Return the sum of the log densities, which the program maximises beside the balance term."""
    return sum(math.log(layer.density) for layer in plan.layers)


def alike(model: nn.Module, shape: Any, value: float, divisor: int) -> Plan:
    """Return the smallest plan by MACs, to a thousandth, with a SynExp of at least ``value``."""
    low, high = 0.02, 1.0
    best = precrop.plan(model, shape, macs=high, divisor=divisor)
    while high - low > 1e-3:
        share = (low + high) / 2
        made = precrop.plan(model, shape, macs=share, divisor=divisor)
        if synexp(made) >= value:
            high, best = share, made
        else:
            low = share
    return best


def masks(profiles: Profiles, threads: int) -> Iterator[tuple[str, Case]]:
    """Compare networks masked to a plan's densities (dense, sparse kernels) and cropped ones."""
    for name, share in MASKED.items():
        for batch in BATCHES:

            def case(name: str = name, share: float = share, batch: int = batch) -> Row:
                model, shape = network(name)
                plan = precrop.plan(model, shape, params=share, macs=share, divisor=8)
                made = variants(
                    model,
                    shape,
                    {"plan": plan},
                    masked=True,
                    sparse=("csr", "bsr", "scipy-csr"),
                )
                found = bench(made, shape, settings(["eager"], [batch], [threads]), rounds=ROUNDS)
                return {row.variant: row.speedup or row.reason for row in found.rows}

            yield f"{name} {share:.0%} batch {batch}", case


def memories(profiles: Profiles, threads: int) -> Iterator[tuple[str, Case]]:
    """Compare peak activation memory: predicted, of real tensors, and with what CPU kernels use."""
    for name in UNSEEN:
        for batch in (1, 4):

            def case(name: str = name, batch: int = batch) -> Row:
                model, shape = network(name)
                plan = precrop.plan(model, shape, memory=0.5, batch_size=batch, divisor=1)
                setting = Setting(batch=batch)
                small = plan.build(model)
                dense, used = predicted_memory(model, shape, batch), plan.budgets["memory"].used
                alive, left = tensor_memory(model, shape, batch), tensor_memory(small, shape, batch)
                return {
                    "dense": dense,
                    "dense_tensors": alive,
                    "dense_error": dense / alive - 1,
                    "dense_allocator": peak_activation_memory(model, Inputs(shape), setting),
                    "cropped": used,
                    "cropped_tensors": left,
                    "cropped_error": used / left - 1,
                    "cropped_allocator": peak_activation_memory(small, Inputs(shape), setting),
                }

            yield f"{name} batch {batch}", case


def tensor_memory(model: nn.Module, shape: Any, batch: int) -> int:
    """Return the most bytes of tensors alive at once in a real pass on the CPU."""
    args, kwargs = Inputs(shape).make(batch, model, "cpu")
    return lifetimes(model.eval(), args, kwargs, None).peak


def predicted_memory(model: nn.Module, shape: Any, batch: int) -> int:
    """Return the bytes predicted for a network as it is."""
    read, lives = follow(read_network(model, Inputs(shape)), batch)
    structure = lower(read, {"memory": memory(lives)}).structure
    return structure.costs["memory"](structure.units)


def windows(
    models: Mapping[str, nn.Module], shape: Any, threads: int, rounds: int = ROUNDS
) -> list[dict[str, float]]:
    """Return median seconds of networks in ONNX Runtime, in interleaved rounds, three times over.

    Each time has fresh sessions, since the speed of small networks drifts by more than the spread
    within one run shows.
    """
    inputs, setting = Inputs(shape), Setting("ort", threads=threads)
    found = []
    with ExitStack() as stack:
        files = {n: stack.enter_context(onnx_file(m, inputs, 1)) for n, m in models.items()}
        for _ in range(WINDOWS):
            runs = {
                name: ort_run(files[name], noise(inputs, model, 1), setting)
                for name, model in models.items()
            }
            times = interleaved(runs, rounds=rounds, least_seconds=0.02)
            found.append({name: timing.median for name, timing in times.items()})
    return found


def ratio(found: Sequence[Mapping[str, float]], above: str, below: str) -> float:
    """Return the median over the windows of the ratio of two networks' times."""
    return statistics.median(times[above] / times[below] for times in found)


PARTS: dict[str, Callable[[Profiles, int], Iterator[tuple[str, Case]]]] = {
    "predictions": predictions,
    "budgets": budgets,
    "deployments": deployments,
    "defaults": defaults,
    "divisors": divisors,
    "rooflines": rooflines,
    "same-synexp": same_synexp,
    "masks": masks,
    "memory": memories,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the parts that were asked for; write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"records (default {FOLDER})")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default 2)")
    parser.add_argument("--fresh", action="store_true", help="measure what is there once more")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page")
    options = parser.parse_args(argv)
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    profiles = {
        runtime: device_profile(options.folder, runtime, options.threads, options.fresh)
        for runtime in ("ort", "eager")
    }
    for part in options.parts:
        record = Record(options.folder, part, options.fresh)
        for name, case in PARTS[part](profiles, options.threads):
            record.add(name, case)
    if options.markdown is not None:
        write_text(options.markdown, written(options.folder, profiles))


# --- the page -----------------------------------------------------------------------------------

INTRODUCTION = """
By `make bench-speed`; a part alone is `python -m benchmarks.deployment_speed --parts NAME --fresh`,
and every number lies in `results/speed`. Networks that are compared take turns within one process;
figures are ratios of medians. Milliseconds are those of this machine only.
""".strip()
NOTES = Path(__file__).with_name("deployment_notes.md")
"""What the figures mean, section by section; written by people after looking at them."""


def written(folder: Path, profiles: Profiles) -> str:
    """Return the page, made from the records and the notes."""
    notes = dict(re.findall(r"^## (.*)\n\n((?:(?!^## ).*\n?)*)", NOTES.read_text("utf-8"), re.M))
    lines = ["# Speed", "", INTRODUCTION, "", _machine(profiles["ort"], folder), ""]
    for title, part, table in TABLES:
        path = folder / f"{part}.json"
        if not path.exists():
            continue
        rows = list(json.loads(path.read_text(encoding="utf-8"))["rows"].values())
        lines += [f"## {title}", "", *table([row for row in rows if "reason" not in row]), ""]
        lines += [f"{row['case']}: {row['reason']}" for row in rows if "reason" in row]
        lines += [notes[title].strip(), ""] if title in notes else []
    return "\n".join(lines).rstrip() + "\n"


def _machine(profile: DeviceProfile, folder: Path) -> str:
    found = profile.machine
    paths = (folder / f"{part}.json" for part in PARTS)  # others lie beside them
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    dates = sorted(record["machine"]["date"][:10] for record in records)
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"Machine: {found['cpu']}, {found['cores']} cores, {found['instructions']}, "
        f"{profile.threads} threads; {found['system']}; Python {found['python']}, {versions}. "
        f"Measured from {dates[0]} to {dates[-1]}. No GPU was available."
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def _divisor_table(rows: Sequence[Row]) -> list[str]:
    headings = ["speed-up", "dense, ms", "spread"]
    headings += [f"divisor {d}" for d in DIVISORS]
    headings += ["auto takes", "uniform width, steps of 8"]
    body = []
    for row in rows:
        spreads = [row["dense_spread"], *(row[f"spread {d}"] for d in DIVISORS)]
        speedups = [f"{row[f'speedup {d}']:.2f}x" for d in DIVISORS]
        body.append([row["case"], f"{row['dense'] * 1e3:.1f}", f"{statistics.median(spreads):.0%}",
                     *speedups, str(row["step"]), f"{2 * row['uniform']:.2f}x"])  # fmt: skip
    return _table(headings, body)


def _default_table(rows: Sequence[Row]) -> list[str]:
    headings = ["share of the original's time", "dense, ms", "divisor 1", "default", "at most"]
    headings += ["divisor taken", "layers with multiples of it"]
    body = [
        [
            row["case"],
            f"{row['dense'] * 1e3:.1f}",
            *(f"{row[name]:.2f}" for name in ("divisor 1", "default", "most")),
            str(row["divisor"]),
            f"{row['multiples']:.0%}",
        ]
        for row in rows
    ]
    return _table(headings, body)


def _roofline_table(rows: Sequence[Row]) -> list[str]:
    headings = ["network"]
    headings += [f"{form}: {part}" for form in ("dense", "half") for part in rows[0]["dense"]]
    headings += ["ideal", "predicted speed-up"]
    body = []
    for row in rows:
        totals = {form: sum(row[form].values()) for form in ("dense", "half")}
        shares = [f"{row[f][part] / totals[f]:.0%}" for f in totals for part in row[f]]
        faster = f"{totals['dense'] / totals['half']:.2f}x"
        body.append([row["case"], *shares, "2.00x", faster])
    return _table(headings, body)


def _budget_table(rows: Sequence[Row]) -> list[str]:
    headings = ["asked", "first plan, of asked", "plans", "measured share", "of asked",
                "least", "most", "MACs left"]  # fmt: skip
    within = [row for row in rows if 0.88 <= row["of_asked"] <= 1.03]
    body = [
        [row["case"], f"{row['first']:.2f}", str(row["plans"]), f"{row['measured']:.3f}",
         f"{row['of_asked']:.2f}", f"{min(row['windows']):.2f}", f"{max(row['windows']):.2f}",
         f"{row['macs']:.0%}"]
        for row in rows
    ]  # fmt: skip
    counted = f"{len(within)} of {len(rows)} lie between 0.88 and 1.03 of the asked time."
    return [*_table(headings, body), "", counted]


def _deployment_table(rows: Sequence[Row]) -> list[str]:
    headings = ["asked", "original, ms", "first plan, of asked", "plans", "measured share",
                "of asked", "least", "most", "MACs left", "spread", "load"]  # fmt: skip
    body = []
    for row in rows:
        load = row["quiet"]["load"]
        body.append(
            [row["case"], f"{1e3 * row['dense']:.2f}", f"{row['first']:.2f}", str(row["plans"]),
             f"{row['measured']:.3f}", f"{row['of_asked']:.2f}",
             *(f"{edge:.2f}" for edge in row["edges"]), f"{row['macs']:.0%}",
             f"{row['quiet']['spread']:.0%}", "" if load is None else f"{load:.1f}"]
        )  # fmt: skip
    near = sum(abs(row["of_asked"] - 1) <= NEAR for row in rows)
    return [*_table(headings, body), "", f"{near} of {len(rows)} lie within {NEAR:.0%} of asked."]


def _prediction_table(rows: Sequence[Row]) -> list[str]:
    lines: list[str] = []
    for runtime in ("ort", "eager"):
        found = [row for row in rows if row["case"].startswith(runtime)]
        if found:
            lines += [*([""] if lines else []), *_predictions_of(runtime, found)]
    return lines


def _predictions_of(runtime: str, found: Sequence[Row]) -> list[str]:
    """Return one runtime's table from all its windows; errors are medians over them."""
    kinds = {"profile": "predicted", "corrected": "corrected"}
    errors = {
        kind: {
            name: statistics.median(row[key][name] / row["seconds"][name] - 1 for row in found)
            for name in UNSEEN
        }
        for kind, key in kinds.items()
    }
    body = []
    for name in UNSEEN:
        seconds = [row["seconds"][name] for row in found]
        times = (
            found[0]["predicted"][name],
            statistics.median(seconds),
            min(seconds),
            max(seconds),
        )
        wrong = [f"{errors[kind][name]:+.0%}" for kind in kinds]
        body.append([name, *(f"{value * 1e3:.2f}" for value in times), *wrong])
    headings = [runtime, "predicted, ms", "measured, ms", "least", "most",
                *(f"error, {kind}" for kind in kinds)]  # fmt: skip
    sizes = {kind: [abs(error) for error in errors[kind].values()] for kind in kinds}
    said = "; ".join(
        f"{kind}: median error {statistics.median(found):.1%}, largest {max(found):.1%}"
        for kind, found in sizes.items()
    )
    return [*_table(headings, body), "", f"{runtime}, {said}."]


def _synexp_table(rows: Sequence[Row]) -> list[str]:
    headings = ["network", "SynExp, latency plan", "SynExp, MACs plan", "MACs, latency plan",
                "MACs, MACs plan", "time, latency plan", "time, MACs plan",
                "latency plan is faster by"]  # fmt: skip
    body = [
        [row["case"], f"{row['synexp_latency']:.1f}", f"{row['synexp_macs']:.1f}",
         f"{row['macs_latency']:.1%}", f"{row['macs_macs']:.1%}", f"{row['time_latency']:.3f}",
         f"{row['time_macs']:.3f}", f"{row['faster'] - 1:+.1%}"]
        for row in rows
    ]  # fmt: skip
    return _table(headings, body)


def _mask_table(rows: Sequence[Row]) -> list[str]:
    names = [name for name in rows[0] if name not in ("case", "dense")] if rows else []
    body = [
        [row["case"], *(f"{row[n]:.2f}x" if isinstance(row[n], float) else row[n] for n in names)]
        for row in rows
    ]
    return _table(["speed-up over dense", *names], body)


def _memory_table(rows: Sequence[Row]) -> list[str]:
    headings = ["network", "dense, MB", "error", "with kernels", "at half, MB", "error",
                "with kernels"]  # fmt: skip
    body = [
        [row["case"]]
        + [
            text
            for form in ("dense", "cropped")
            for text in (
                f"{row[form] / 1e6:.2f}",
                f"{row[f'{form}_error']:+.1%}",
                f"{row[f'{form}_allocator'] / row[f'{form}_tensors']:.2f}x",
            )
        ]
        for row in rows
    ]
    return _table(headings, body)


TABLES: tuple[tuple[str, str, Callable[[Sequence[Row]], list[str]]], ...] = (
    ("The default beside divisor 1", "defaults", _default_table),
    ("Speed-up at half the MACs", "divisors", _divisor_table),
    ("Where the time goes", "rooflines", _roofline_table),
    ("A share of the latency asked for", "budgets", _budget_table),
    ("A share asked of precrop deploy", "deployments", _deployment_table),
    ("Predictions for networks that no profile saw", "predictions", _prediction_table),
    ("Latency or MACs at the same SynExp", "same-synexp", _synexp_table),
    ("Masks against channels", "masks", _mask_table),
    ("Activation memory", "memory", _memory_table),
)


if __name__ == "__main__":
    main()
