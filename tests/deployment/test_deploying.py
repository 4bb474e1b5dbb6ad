"""From a network and a time to a file: real training and files, on a clock that the tests set."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from precrop.costs.machine import describe_machine
from precrop.costs.profiles import DeviceProfile, roofline
from precrop.deployment import calibrating, deploying, runtimes
from precrop.deployment.book import RECORD
from precrop.deployment.deploying import PLAN, PROFILE, Deployed, deploy
from precrop.deployment.profiling import predict
from precrop.deployment.quiet import Quiet
from precrop.errors import BudgetError, PrecropError
from precrop.files import digest_of, digest_of_file
from precrop.plans.plan import Plan

NET = "tests.training.small_runs:batch_net"
SHAPE = (3, 8, 8)
ROOFLINE = roofline(1e9, 1e9, launch=0, step=1)
CLASSES = ("cat", "dog")
SHORT = {"epochs": 1, "batch_size": 4, "precision": "fp32"}


class World:
    """What was done, and how fast the machine is."""

    def __init__(self) -> None:
        self.profiled = self.timed = 0
        self.milliseconds = {"dense": 3.0, "deployed": 2.0}

    def profile(self, *_: Any, **__: Any) -> DeviceProfile:
        self.profiled += 1
        return ROOFLINE

    def times(self, networks: Mapping[str, list[Any]], *_: Any) -> dict[str, list[float]]:
        self.timed += 1
        for runs in networks.values():
            for run in runs:
                run()  # a file that was loaded
        return {
            name: [1e-3 * self.milliseconds[name] * (n + 1) for n in range(len(runs))]
            for name, runs in networks.items()
        }


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    def predicted(model: torch.nn.Module, *_: Any) -> Any:
        return nullcontext([predict(ROOFLINE, model, SHAPE)])

    found = World()
    monkeypatch.setattr(calibrating, "sessions", predicted)
    for module in (calibrating, runtimes):
        monkeypatch.setattr(module, "session_medians", lambda networks, *_: networks)
    monkeypatch.setattr(deploying, "profile_device", found.profile)
    monkeypatch.setattr(deploying, "session_medians", found.times)
    monkeypatch.setattr(deploying, "wait", lambda *_: Quiet(0.02, 0.4))
    return found


@pytest.fixture
def images(tmp_path: Path) -> Path:
    random = torch.Generator().manual_seed(0)
    for split, count in {"train": 8, "val": 3}.items():
        for label, name in enumerate(CLASSES):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(100 * label, 100 * label + 100, (9, 9, 3), generator=random)
                Image.fromarray(pixels.byte().numpy()).save(folder / f"{number}.png")
    return tmp_path / "images"


def deployed(folder: Path, images: Path | None, **options: Any) -> Deployed:
    data = None if images is None else str(images)
    given = {"changes": SHORT, "params": 0.9, "divisor": 1, **options}
    latency = given.pop("latency", 0.8)
    return deploy(NET, latency, folder, data=data, input_shape=SHAPE, **given)


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The record of a stranger, who writes its digest, too; ``change`` gets its steps."""
    content = json.loads((folder / RECORD).read_text())
    change(content["steps"])
    del content["digest"]
    content["digest"] = digest_of(content)[:16]
    (folder / RECORD).write_text(json.dumps(content))


def exchanged(found: Deployed) -> Callable[[dict[str, Any]], None]:
    """The exported file is another, and nothing was done with it yet."""

    def change(steps: dict[str, Any]) -> None:
        steps["export"]["files"] = {found.file.name: digest_of_file(found.file)}
        del steps["measure"], steps["accuracy"]

    return change


def test_the_whole_way(world: World, images: Path, tmp_path: Path) -> None:
    import onnxruntime

    from precrop.training.evaluate import evaluate_checkpoint

    folder = tmp_path / "out"
    found = deployed(folder, images)
    assert found.plan.params <= 0.9 * found.plan.base_params
    assert found.plan == Plan.load(folder / PLAN)
    assert found.plan.source is not None
    assert found.plan.source.args == {"num_classes": 2}
    assert DeviceProfile.load(folder / PROFILE).digest == ROOFLINE.digest
    # The dense network takes 6 ms in the second of three sessions, the file 4 ms: of 80% of that.
    assert dataclasses.astuple(found.dense) == pytest.approx((6e-3, 3e-3, 9e-3))
    assert found.limit == pytest.approx(0.8 * 6e-3)
    assert found.used == pytest.approx(4 / 4.8)
    assert found.difference < 1e-4
    assert found.images == 6
    (run,) = (folder / "runs").iterdir()
    assert found.accuracy == evaluate_checkpoint(run, trust=NET).accuracy
    session = onnxruntime.InferenceSession(found.file)
    (out,) = session.run(None, {session.get_inputs()[0].name: torch.zeros(1, *SHAPE).numpy()})
    assert out.shape == (1, 2)
    told = session.get_modelmeta().custom_metadata_map
    written = json.loads((run / "run.json").read_text())
    for name in ("mean", "std", "crop_pct", "classes", "input_shape"):
        assert json.loads(told[name]) == written[name]
    content = json.loads(json.dumps(found.to_json()))
    assert content["deployed"]["median"] == pytest.approx(4e-3)
    assert content["params"] == found.plan.params
    assert content["quiet"] == {"spread": 0.02, "load": 0.4}

    again = deployed(folder, images)
    assert again.reused == ("profile", "plan", "train", "export", "accuracy", "measure")
    assert dataclasses.replace(again, reused=()) == found
    assert (world.profiled, world.timed) == (1, 1)


def test_what_depends_on_a_change_is_done_again(world: World, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    found = deployed(folder, images, format="pt2")
    longer = deployed(folder, images, format="pt2", changes={**SHORT, "epochs": 2})
    assert longer.reused == ("profile", "plan")
    assert longer.plan == found.plan
    assert len([*(folder / "runs").iterdir()]) == 2
    found.file.unlink()
    third = deployed(folder, images, format="pt2", changes={**SHORT, "epochs": 2})
    assert "export" not in third.reused
    assert third.file.is_file()
    assert third.accuracy == longer.accuracy
    for name, options in {"latency": {"latency": 0.7}, "options": {"params": 0.8}}.items():
        with pytest.raises(PrecropError, match=f"another deployment, which differs in its {name}:"):
            deployed(folder, images, format="pt2", **options)
    record = folder / RECORD
    record.write_text(record.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(
        PrecropError, match=r"deploy.json was not written by precrop deploy: choose another folder"
    ):
        deployed(folder, images, format="pt2")


def test_a_program_of_a_stranger_is_replaced_unopened(
    world: World, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`torch.export.load` unpickles; whoever changes the file can write its digest, too."""
    folder = tmp_path / "out"
    found = deployed(folder, images, format="pt2")
    found.file.write_bytes(b"theirs")
    rewritten(folder, exchanged(found))
    opened, load = list[bytes](), torch.export.load

    def noted(file: Path, **options: Any) -> Any:
        opened.append(Path(file).read_bytes())
        return load(file, **options)

    monkeypatch.setattr(torch.export, "load", noted)
    again = deployed(folder, images, format="pt2")
    assert again.accuracy == found.accuracy
    assert again.reused == ("profile", "plan", "train")
    assert opened
    assert b"theirs" not in opened


MADE_UP: list[tuple[tuple[str, ...], Any]] = [
    (("export", "difference"), "os:system"),
    (("export", "difference"), math.nan),
    (("accuracy", "accuracy"), {"x": 1}),
    (("accuracy", "accuracy"), 10**400),
    (("measure", "dense"), None),
    (("measure", "dense", "median"), 0),
    (("measure", "deployed"), {"median": 1.0}),
    (("measure", "deployed", "most"), True),
    (("measure", "quiet"), []),
    (("measure", "quiet", "load"), "x"),
]


def test_figures_of_a_stranger_that_make_no_sense(
    world: World, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    deployed(folder, images)
    sound = (folder / "deploy.json").read_text()

    def changed(place: tuple[str, ...], said: Any) -> Callable[[dict[str, Any]], None]:
        def change(steps: dict[str, Any]) -> None:
            inner = steps[place[0]]["result"]
            for key in place[1:-1]:
                inner = inner[key]
            inner[place[-1]] = said

        return change

    for place, said in MADE_UP:
        (folder / "deploy.json").write_text(sound)
        rewritten(folder, changed(place, said))
        with pytest.raises(PrecropError, match="was not written by precrop deploy"):
            deployed(folder, images)


def test_a_file_of_a_stranger_that_gives_no_scores(
    world: World, images: Path, tmp_path: Path
) -> None:
    import onnx

    folder = tmp_path / "out"
    found = deployed(folder, images)
    model = onnx.load(found.file)
    (output,) = model.graph.output
    model.graph.node.add(op_type="Identity", input=[model.graph.input[0].name], output=["x"])
    output.name = "x"
    output.type.CopyFrom(model.graph.input[0].type)
    onnx.save(model, found.file)
    rewritten(folder, exchanged(found))
    with pytest.raises(PrecropError, match=r"network\.onnx gives no score for each class"):
        deployed(folder, images)


def test_a_profile_of_another_runtime_is_refused(
    world: World, images: Path, tmp_path: Path
) -> None:
    measured = dataclasses.replace(ROOFLINE, machine={"cpu": "a"})
    for profile, format, said in (
        (measured, "pt2", "the profile is of runtime ort, the file runs in eager"),
        (dataclasses.replace(measured, device="cuda"), "onnx", "of device cuda, the file runs in"),
        (roofline(1e9, 1e9, device="cuda"), "onnx", "of device cuda, the file runs in cpu"),
    ):
        with pytest.raises(PrecropError, match=said):
            deployed(tmp_path, images, format=format, device_profile=profile)
    found = deployed(tmp_path / "out", images, format="pt2", device_profile=ROOFLINE)
    assert found.plan.options["device_profile"]["runtime"] == "eager"


def test_a_profile_is_measured_anew_where_its_machine_changed(
    world: World, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes of the other machine are left where they are: they are of no use here."""
    kept = list[Path]()

    def profile(*_: Any, kept: Path, **__: Any) -> DeviceProfile:
        paths.append(kept)
        return ROOFLINE

    paths = kept
    monkeypatch.setattr(deploying, "profile_device", profile)
    deployed(tmp_path / "out", None)
    here = describe_machine()
    monkeypatch.setattr(deploying, "describe_machine", lambda: {**here, "cpu": "another"})
    deployed(tmp_path / "out", None)
    assert len({*kept}) == len(kept) == 2


def test_without_images_the_weights_are_initial(world: World, tmp_path: Path) -> None:
    lines: list[str] = []
    found = deployed(tmp_path, None, format="pt2", latency="1s", progress=lines.append)
    assert found.accuracy is None
    assert found.images == 0
    assert found.limit == 1.0
    assert not (tmp_path / "runs").exists()
    assert found.file.name == "network.pt2"
    assert lines[0] == "profile"
    assert "plan: the original" in lines
    assert lines[-1] == "measure"


def test_without_epochs_only_the_classes_are_the_images(
    world: World, images: Path, tmp_path: Path
) -> None:
    found = deployed(tmp_path / "out", images, format="pt2", changes={"epochs": 0})
    assert found.plan.source is not None
    assert found.plan.source.args == {"num_classes": 2}
    assert found.images == 6
    assert not (tmp_path / "out" / "runs").exists()


def test_what_was_interrupted_goes_on(
    world: World, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("precrop.training.loop.train", stop)
        with pytest.raises(KeyboardInterrupt):
            deployed(tmp_path / "out", images, format="pt2")
    found = deployed(tmp_path / "out", images, format="pt2")
    assert found.reused == ("profile", "plan")


def test_a_plan_that_is_measured_to_be_too_slow_is_not_trained(
    world: World, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never_faster(networks: Mapping[str, Any], *_: Any) -> dict[str, list[float]]:
        return {name: [1e-3] for name in networks}

    monkeypatch.setattr(calibrating, "session_medians", never_faster)
    with pytest.raises(BudgetError, match=r"latency=0.8 is not met: the fastest of \d plans was"):
        deployed(tmp_path / "out", images)
    assert not (tmp_path / "out" / PLAN).exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "safetensors"}, "'safetensors' cannot be measured: write onnx or pt2"),
        ({"rounds": 0}, "0 rounds measure nothing"),
        ({"threads": 0}, "on 0 threads"),
        ({"latency": "8 apples"}, "latency='8 apples'"),
        ({"latency": 0}, "latency=0"),
        ({"params": "many"}, "params='many'"),
        ({"ignore": ("no.such",)}, "ignore pattern 'no.such' matches no layer"),
        ({"device_profile": "none.json"}, "device profile 'none.json' is not there"),
        ({"recipe": "none"}, "none"),
        ({"changes": {"epochs": -1}}, "epochs=-1 is not from 1"),
        ({"input_shape": (3, 8, 9)}, "images are scaled to squares, as 3,224,224, not to 3,8,9"),
        ({"input_shape": (SHAPE, SHAPE)}, "images are of one shape, as 3,224,224"),
        ({"data": "nowhere"}, "nowhere"),
        ({"objective": len}, "an option fits in no file"),
    ],
)
def test_refusals_come_at_once(
    world: World, images: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    given = {"data": str(images), "input_shape": SHAPE, "latency": 0.8, "changes": SHORT, **options}
    with pytest.raises(PrecropError, match=message):
        deploy(NET, given.pop("latency"), tmp_path / "out", **given)
    assert world.profiled == 0


def test_a_folder_that_is_a_file(world: World, images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(PrecropError, match="cannot make the folder"):
        deployed(tmp_path / "out", images)
