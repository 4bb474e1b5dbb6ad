"""Makes a file of a network that meets a latency: profile, plan, train, export, check, measure.

All results are in one folder, whose ``deploy.json`` records the finished steps. The same call
resumes where it stopped, and redoes only the steps whose dependencies changed.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from operator import length_hint
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from precrop.api import plan
from precrop.costs.machine import LIBRARY, describe_machine, part
from precrop.costs.profiles import DeviceProfile, find_profile
from precrop.deployment.book import Book
from precrop.deployment.calibrating import calibrate, limit
from precrop.deployment.exportable import Exportable, Origin, noise
from precrop.deployment.exporting import FORMATS, Format, write
from precrop.deployment.profiling import Subject, profile_device
from precrop.deployment.quiet import Quiet, wait
from precrop.deployment.runtimes import SESSIONS, session_medians
from precrop.deployment.setting import Setting
from precrop.errors import BudgetError, PrecropError, check_seed
from precrop.files import digest_of, figure, refuse_link
from precrop.model_spec import ModelSpec
from precrop.modules.threads import threads_restored
from precrop.plans.kinds import Init
from precrop.plans.plan import Plan
from precrop.progress import lines, unheard
from precrop.read.inputs import Inputs
from precrop.solve.budgets import Budget
from precrop.training.recipes import find_recipe
from precrop.trust import code_of
from precrop.zoo import default_input_shape

if TYPE_CHECKING:
    from precrop.training.data import ImageData
    from precrop.training.runs import Run

PROFILE, PLAN, RUNS = "profile.json", "plan.json", "runs"
FORGIVEN = 1.1
"""A plan whose measured time is beyond this multiple of the asked time is not trained."""
PROFILED = 90.0
"""Seconds for profiling this device, if no profile is given."""
ROUNDS = 20
_BATCH = 64
"""Batch size at which a file's accuracy is evaluated."""
_SHORTEST = 1e-12
"""Least time in seconds that is accepted from the record."""


@dataclass(frozen=True)
class Times:
    """Seconds of one pass: the median, least and most of several freshly loaded sessions."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Deployed:
    """The result of a deployment.

    Attributes:
        file: the exported network.
        asked: the latency budget, as given.
        limit: the asked latency in seconds; a share is relative to the median in ``dense``.
        dense: times of the original, exported in the same way.
        deployed: times of ``file``, measured in turns with the original.
        difference: how much the file's outputs differ from PyTorch's, relative to the largest.
        accuracy: share of the held-out images that the file gets right; None without images.
        images: number of held-out images.
        quiet: how quiet the machine was just before times were measured.
        reused: names of the steps that an earlier call had done.
    """

    file: Path
    plan: Plan
    asked: Budget
    limit: float
    dense: Times
    deployed: Times
    difference: float
    accuracy: float | None
    images: int
    quiet: Quiet
    reused: tuple[str, ...]

    @property
    def used(self) -> float:
        """Measured time as a share of the asked one."""
        return self.deployed.median / self.limit

    def to_json(self) -> dict[str, Any]:
        """Return the result in JSON types, with the plan's path and totals."""
        plan = {n: getattr(self.plan, n) for n in ("params", "macs", "base_params", "base_macs")}
        fields = {**vars(self), "file": str(self.file), "used": self.used}
        times = {name: asdict(getattr(self, name)) for name in ("dense", "deployed", "quiet")}
        return {**fields, **times, **plan, "plan": str(self.file.parent / PLAN)}


def deploy(
    model: ModelSpec | str,
    latency: Budget,
    output: str | Path,
    *,
    data: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    recipe: str | None = None,
    changes: Mapping[str, Any] | None = None,
    init: Init = "slice",
    seed: int = 0,
    format: Literal["onnx", "pt2"] = "onnx",
    threads: int = 1,
    device_profile: DeviceProfile | str | Path | None = None,
    rounds: int = ROUNDS,
    progress: Callable[[str], object] | None = None,
    **options: Any,
) -> Deployed:
    """Crop, train and export a network that meets a latency on this machine; check and measure it.

    Args:
        model: by name, as for `precrop.zoo.load_model`.
        latency: of one input: a share of the original's time, or a string such as ``"8ms"``.
        output: folder for all results.
        data: training data, as for `precrop.training.data.load_data`. Without it, or with
            ``epochs=0`` in ``changes``, the file has initial weights.
        input_shape: shape of one image; the network's usual one if None.
        recipe: training recipe; the usual one for the data if None.
        changes: changes to the recipe, by name.
        init: how the cropped network gets its weights.
        seed: seed of the initial weights and of training.
        format: format of the file.
        threads: CPU threads that the file is run on.
        device_profile: as for `precrop.plan`; if None, this machine is profiled with the network.
        rounds: rounds of each measurement.
        progress: called with a line of text for each step.
        options: further options of `precrop.plan`: ``params``, ``macs``, ``divisor``, ….

    Raises:
        BudgetError: no plan is fast enough, as predicted or as measured.
        PrecropError: the network, the data or an option cannot be used, or the folder holds another
            deployment.
    """
    spec = ModelSpec(model, {}) if isinstance(model, str) else model
    timed = [name for name, kind in FORMATS.items() if kind.load is not None]
    if format not in timed:
        raise PrecropError(f"format {format!r} cannot be measured: write {' or '.join(timed)}")
    if rounds < 1:
        raise PrecropError(f"{rounds} rounds measure nothing: give 1 or more")
    check_seed(seed)
    limit(latency, 1.0)
    setting = Setting(FORMATS[format].runtime, threads=threads)
    profile = None if device_profile is None else _profile_of(device_profile, setting)
    images, spec, network, shape = _network(spec, data, input_shape, seed)
    chosen, changes = None, changes or {}
    if images is not None and changes.get("epochs") != 0:
        chosen = find_recipe(recipe, images.name).fitted(images.count, changes)
    about = {
        "network": spec.to_json(),
        "input_shape": shape,
        "latency": latency,
        "init": init,
        "seed": seed,
        "format": format,
        "threads": threads,
        "options": options,
    }
    if code := code_of({spec.name: None}):
        about["code"] = code
    book = Book(Path(output), about, progress or unheard)
    steps = _Steps(book, spec, network, Inputs(shape), setting, FORMATS[format])
    if "plan" not in book.steps:  # fail now, not after minutes of profiling, if no plan is possible
        plan(network, steps.inputs.spec, latency=1.0, **options)
    profile = profile or steps.profile()
    planned = steps.plan(latency, profile, rounds, options)
    run = None
    if images is not None and chosen is not None:
        from precrop.training.runs import Run

        run = Run(
            model=spec,
            data=str(data),
            **images.of_run,
            recipe=chosen,
            seed=seed,
            plan=planned,
            init=init,
        )
        steps.train(run, images, shown=progress is not None)
    difference = steps.export(planned, run, init)
    accuracy = None if images is None else steps.judge(images)
    dense, deployed, quiet = steps.measure(rounds)
    return Deployed(
        file=steps.file,
        plan=planned,
        asked=latency,
        limit=limit(latency, dense.median),
        dense=dense,
        deployed=deployed,
        difference=difference,
        accuracy=accuracy,
        images=0 if images is None else length_hint(images.test),
        quiet=quiet,
        reused=tuple(book.reused),
    )


def _profile_of(given: DeviceProfile | str | Path, setting: Setting) -> DeviceProfile:
    """Return the profile; fail if its runtime or device differs. A roofline fits any runtime."""
    profile = find_profile(given)
    if not profile.machine:
        profile = dataclasses.replace(profile, runtime=setting.runtime)
    for name in ("runtime", "device"):
        theirs, ours = getattr(profile, name), getattr(setting, name)
        if theirs != ours:
            raise PrecropError(
                f"the profile is of {name} {theirs}, the file runs in {ours}: give another "
                "profile, or none"
            )
    return profile


def _network(
    spec: ModelSpec, data: str | None, shape: tuple[int, ...] | None, seed: int
) -> "tuple[ImageData | None, ModelSpec, nn.Module, tuple[int, ...]]":
    """Return the images, the network for their classes (spec and module), and its input shape."""
    from precrop.training.networks import for_classes, initial_weights

    images = None
    if data is not None:
        from precrop.training.data import load_shaped

        shape = shape or default_input_shape(spec.name, spec.build())
        images = load_shaped(data, shape)
        spec = for_classes(spec, len(images.classes))
    with initial_weights(seed):
        network = spec.build()
    return images, spec, network, shape or default_input_shape(spec.name, network)


@dataclass(frozen=True)
class _Steps:
    """The steps of a deployment, for one network in one setting."""

    book: Book
    spec: ModelSpec
    network: nn.Module
    inputs: Inputs
    setting: Setting
    kind: Format

    @property
    def file(self) -> Path:
        """The exported network."""
        return self.book.folder / f"network{self.kind.suffix}"

    def profile(self) -> DeviceProfile:
        """Profile this machine with the network."""
        path = self.book.folder / PROFILE

        def make() -> dict[str, Any]:
            found = profile_device(
                [Subject(str(self.spec), self.network, self.inputs.spec)],
                self.setting,
                kept=path.with_name(f"profile-{digest_of(self._machine())[:8]}.passes.jsonl"),
                seconds=PROFILED,
                quiet=wait(self.book.say, self.setting.clock),
                progress=lines(lambda text: self.book.say(f"profile: {text}")),
            )
            found.save(path)
            return {"digest": found.digest}

        self.book.step("profile", self._machine(), make, path)
        return DeviceProfile.load(path)

    def plan(
        self, latency: Budget, profile: DeviceProfile, rounds: int, options: Mapping[str, Any]
    ) -> Plan:
        """Make a plan whose network was measured to be fast enough."""
        path = self.book.folder / PLAN

        def make() -> dict[str, Any]:
            found = calibrate(
                self.network,
                self.inputs.spec,
                latency,
                device_profile=profile,
                threads=self.setting.threads,
                rounds=rounds,
                progress=lambda what: self.book.say(f"plan: {what}"),
                **options,
            )
            best = min(attempt.used for attempt in found.attempts)
            if not found.met and best > FORGIVEN:
                raise BudgetError(
                    f"latency={latency!r} is not met: the fastest of {len(found.attempts)} plans "
                    f"was measured at {best:.0%} of it; ask for more time, or give other budgets "
                    "less"
                )
            dataclasses.replace(found.plan, source=self.spec).save(path)
            return {"met": found.met, "attempts": [asdict(one) for one in found.attempts]}

        self.book.step("plan", {"profile": profile.digest}, make, path)
        return Plan.load(path)

    def train(self, run: "Run", images: "ImageData", *, shown: bool) -> None:
        """Train the network or resume its training; the run keeps its own record."""
        from precrop.training.loop import train

        self.book.say("train")
        folder = self.book.folder / RUNS
        refuse_link(folder)
        found = train(run, data=images, output=folder, progress=shown)
        if found.finished:
            self.book.reused.append("train")

    def export(self, plan: Plan, run: "Run | None", init: Init) -> float:
        """Write the network to a file; return how much its outputs differ from PyTorch's.

        A file that can run code when opened is always written anew, since later steps open it.
        """

        def make() -> dict[str, Any]:
            if run is None:
                network = plan.build(self.network, init)
            else:
                from precrop.training.evaluate import load_trained

                folder = self.book.folder / RUNS / run.name
                network = load_trained(folder, self.spec.name).network
            source = Exportable(
                network,
                self.inputs,
                origin=Origin(self.spec, plan),
                metadata=None if run is None else run.metadata,
            )
            return write(source, self.file).to_json()

        if not self.kind.inert:
            self.book.steps.pop("export", None)
        key = {"plan": digest_of(plan.to_json())[:16], "run": None if run is None else run.id}
        found = self.book.step("export", key, make, self.file)
        with self.book.believed():
            return figure(found["difference"])

    def judge(self, images: "ImageData") -> float:
        """Return the share of the held-out images that the file gets right."""

        def make() -> dict[str, Any]:
            from precrop.training.evaluate import judge

            run = self.kind.open(self.file, Exportable(self.network, self.inputs))

            def scores(batch: torch.Tensor) -> torch.Tensor:
                outputs = run(([batch], {}))
                if not outputs or outputs[0].shape != (len(batch), len(images.classes)):
                    raise PrecropError(f"{self.file} gives no score for each class: remove it")
                return outputs[0]

            found = judge(scores, images, device=torch.device("cpu"), batch_size=_BATCH)
            return {"accuracy": found.accuracy}

        key = {"export": self.book.steps["export"]["key"], "images": images.digest}
        found = self.book.step("accuracy", key, make)
        with self.book.believed():
            return figure(found["accuracy"], most=1.0)

    def measure(self, rounds: int) -> tuple[Times, Times, Quiet]:
        """Time the file and the original, exported in the same way, in the same rounds."""
        load, setting = self.kind.load, self.setting
        assert load is not None

        def make() -> dict[str, Any]:
            state = wait(self.book.say, setting.clock)
            arguments = noise(self.inputs, self.network, setting.batch)
            with TemporaryDirectory(ignore_cleanup_errors=True) as folder, threads_restored():
                original = Path(folder, self.file.name)
                write(Exportable(self.network, self.inputs), original)
                runs = {
                    name: [load(path, arguments, setting) for _ in range(SESSIONS)]
                    for name, path in {"dense": original, "deployed": self.file}.items()
                }
                medians = session_medians(runs, rounds, setting.stopwatch)
            times = {
                name: asdict(Times(statistics.median(found), min(found), max(found)))
                for name, found in medians.items()
            }
            return {**times, "quiet": asdict(state)}

        exported = self.book.steps["export"]["key"]
        key = {"export": exported, "rounds": rounds, **self._machine()}
        found = self.book.step("measure", key, make)
        names = [field.name for field in dataclasses.fields(Times)]
        with self.book.believed():
            dense, deployed = (
                Times(*(figure(found[which][name], _SHORTEST) for name in names))
                for which in ("dense", "deployed")
            )
            spread, wanting = found["quiet"]["spread"], found["quiet"]["load"]
            quiet = Quiet(figure(spread), None if wanting is None else figure(wanting))
        return dense, deployed, quiet

    def _machine(self) -> dict[str, Any]:
        """Return what times depend on here: the CPU and the version of the runtime's library."""
        machine, library = describe_machine(), LIBRARY[self.setting.runtime]
        return {"cpu": machine[part("cpu")], library: machine["versions"].get(library)}
