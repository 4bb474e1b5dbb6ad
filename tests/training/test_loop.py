"""Training from Python: what is kept, what is asserted, and going on after an interruption."""

import csv
import json
import logging
import math
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import precrop
from precrop.errors import PrecropError
from precrop.files import digest_of, digest_of_file, refuse_links_out
from precrop.model_spec import ModelSpec
from precrop.training import checkpoints, loop, networks
from precrop.training.callbacks import Keeper
from precrop.training.folder import Result, RunFolder
from precrop.training.loop import train
from precrop.training.module import Classifier
from precrop.training.networks import build
from precrop.training.runs import MaskSpec, Run
from tests.training.small_runs import APP, assert_same, batch_net, digits, group_net, small_run
from tests.versions import needs_torch

ROOT = Path(__file__).parents[2]


def trained(run: Run, output: Path, **options: Any) -> Result:
    return train(run, data=digits(), output=output, **{"loggers": ("csv",), **options})


def cropped() -> Run:
    plan = precrop.plan(batch_net(), (3, 8, 8), params=0.5)
    return small_run(plan=plan)


def masked(method: str = "synflow", granularity: str = "weight") -> Run:
    return small_run(mask=MaskSpec(method, granularity, params="0.3"))


KINDS: dict[str, Callable[[], Run]] = {
    "dense": small_run,
    "cropped": cropped,
    "masked": masked,
    "versions": lambda: small_run("signed_net"),
    "rmsprop": lambda: small_run(settings={"optimizer": "rmsprop", "nesterov": False}),
    "bf16": lambda: small_run(settings={"precision": "bf16", "cutout": 2, "flip": True}),
}


def test_what_a_run_leaves(tmp_path: Path) -> None:
    run = small_run()
    result = trained(run, tmp_path)
    folder = tmp_path / run.name
    assert result.folder == folder
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == [
        "best",
        "last",
        "metrics.csv",
        "result.json",
        "run.json",
    ]
    assert Run.from_json(json.loads((folder / "run.json").read_text()), run.model.name) == run
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["accuracy"]) == result.accuracy
    assert result.params == sum(p.numel() for p in batch_net().parameters())
    network = batch_net()
    network.load_state_dict(load_file(folder / "last/model.safetensors"))
    network.eval()
    data = digits()
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    images = (data.test.images / 255 - mean) / std  # type: ignore[union-attr]
    labels = data.test.labels  # type: ignore[union-attr]
    logits = network(images).detach()
    assert float((logits.argmax(1) == labels).double().mean()) == pytest.approx(result.accuracy)
    assert float(nn.functional.cross_entropy(logits, labels)) == pytest.approx(result.loss, 1e-5)


def test_a_bar_in_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(loop, "in_terminal", lambda: True)
    result = trained(small_run(), tmp_path / "bar", progress=True)
    out, shown = capsys.readouterr()
    assert not out
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown)
    assert "epoch 3/3" in shown
    assert " 22/22 " in shown
    assert re.search(r"loss: \d\.\d{3} accuracy: 0\.\d{3}", shown)
    assert "nan" not in shown
    assert all(f"accuracy {row['accuracy']:.2%}" in shown for row in result.history)
    monkeypatch.setattr(loop, "in_terminal", lambda: False)
    without = trained(small_run(), tmp_path / "lines", progress=True)
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == [
        "1/3",
        "2/3",
        "3/3",
    ]
    assert_same(result.folder / "last", without.folder / "last")


def test_tensorboard_logs(tmp_path: Path) -> None:
    result = trained(small_run(), tmp_path, loggers=("tensorboard",))
    (events,) = result.folder.glob("tensorboard/events*")
    assert events.stat().st_size > 500
    assert not (result.folder / "metrics.csv").exists()


@pytest.mark.parametrize(
    "place",
    [
        *("tensorboard", "tensorboard/hparams.yaml", "wandb", "wandb/latest-run", ""),
        *("mlruns", "mlruns/0"),
    ],
)
def test_nothing_is_written_where_a_link_leads(tmp_path: Path, place: str) -> None:
    run, elsewhere = small_run(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = tmp_path / "runs" if "mlruns" in place else tmp_path / "runs" / run.name
    (folder / place).parent.mkdir(parents=True)
    (folder / place).symlink_to(elsewhere)
    names = {"wandb": "wandb", "mlruns": "mlflow"}
    logger = names.get(place.partition("/")[0], "tensorboard")
    with pytest.raises(PrecropError, match="is a link: nothing is written"):
        trained(run, tmp_path / "runs", loggers=(logger,))
    assert list(elsewhere.iterdir()) == []


def test_links_within_a_folder_are_no_harm(tmp_path: Path) -> None:
    """As wandb makes them: ``latest-run``, ``debug.log``."""
    (tmp_path / "wandb" / "run-1").mkdir(parents=True)
    (tmp_path / "wandb" / "latest-run").symlink_to("run-1")
    (tmp_path / "linked").symlink_to(tmp_path)
    refuse_links_out(tmp_path / "linked" / "wandb")


def test_the_process_stays_as_it_was(tmp_path: Path) -> None:
    states = random.getstate(), torch.get_rng_state(), torch.get_num_threads()
    level = logging.getLogger("lightning.pytorch").level
    trained(small_run(settings={"epochs": 1}), tmp_path)
    assert random.getstate() == states[0]
    assert torch.get_rng_state().equal(states[1])
    assert torch.get_num_threads() == states[2]
    assert logging.getLogger("lightning.pytorch").level == level


def test_chance_is_the_seeds_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = trained(small_run(), tmp_path / "a")
    torch.manual_seed(2)
    second = trained(small_run(), tmp_path / "b")
    other = trained(small_run(seed=1), tmp_path / "b")
    assert_same(first.folder / "last", second.folder / "last")
    assert other.loss != first.loss


def test_compiled_networks_have_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the mode that keeps convolutions safe; code for the CPU takes too long to make."""
    quick = partialmethod(nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(nn.Module, "compile", quick)
    run = small_run("group_net", settings={"epochs": 1})
    eager = trained(run, tmp_path / "eager")
    compiled = trained(run, tmp_path / "compiled", compiled=True)
    for name in ("train_loss", "loss"):
        assert compiled.history[0][name] == pytest.approx(eager.history[0][name], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_runs_go_on(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = KINDS[kind]()
    whole = trained(run, tmp_path / "whole")

    def interrupt(module: Classifier, batch: Any, step: int) -> Any:
        if module.current_epoch == 2 and step == 5:
            raise KeyboardInterrupt
        return step_of(module, batch, step)

    step_of = Classifier.training_step
    monkeypatch.setattr(Classifier, "training_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trained(run, tmp_path / "parts")
    monkeypatch.undo()
    again = trained(run, tmp_path / "parts")
    for name in ("last", "best"):
        assert_same(whole.folder / name, again.folder / name)
    for one, other in zip(whole.history, again.history, strict=True):
        for name in set(one) - {"seconds", "images_per_second"}:
            assert one[name] == other[name]
    table = (again.folder / "metrics.csv").read_text().splitlines()
    assert len(table) == 1 + run.recipe.epochs


def test_killed_at_any_moment(tmp_path: Path) -> None:
    run = small_run(settings={"epochs": 16})
    folder = tmp_path / "killed" / run.name
    script = tmp_path / "app.py"
    script.write_text(APP)
    command = [sys.executable, str(script), "train", run.model.name, "--epochs", "16"]
    command += ["--logger", "csv", "--output", str(folder.parent)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, env=_environment())
    while _steps(folder) == 0 and process.poll() is None:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.5))
    process.kill()
    process.wait()
    assert 0 < _steps(folder) < 16 * 22, "it was not killed while it trained"
    again = trained(run, tmp_path / "killed")
    whole = trained(run, tmp_path / "whole")
    assert not again.finished
    assert_same(whole.folder / "last", again.folder / "last")
    assert_same(whole.folder / "best", again.folder / "best")
    assert not [path.name for path in folder.glob(".*") if path.name != ".lock"]


def _steps(folder: Path) -> int:
    """How far the last checkpoint is; 0 without one, or while it is being replaced."""
    try:
        content = json.loads((folder / "last/checkpoint.json").read_text())
    except OSError:
        return 0
    return int(content["step"])


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_a_finished_run_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run(settings={"epochs": 1})
    first = trained(run, tmp_path)
    monkeypatch.setattr(loop, "build", None)
    second = trained(run, tmp_path)
    assert second.finished
    assert second.to_json() == first.to_json()
    assert second.history == first.history
    file = first.folder / "result.json"
    known = json.loads(file.read_text())
    for change in (
        {"loss": 10**400},
        {"loss": -1.0},
        {"accuracy": 1.5},
        {"best_accuracy": None},
        {"params": 10**30},
        {"macs": -1},
        {"seconds": 1e300},
        {"history": [{"train_loss": 10**400}]},
        {"history": [{"lr": "x"}]},
        {"history": [3]},
    ):
        content = {**known, **change}
        del content["digest"]
        file.write_text(json.dumps({**content, "digest": digest_of(content)}))
        with pytest.raises(PrecropError, match="is not a result: remove it to train on"):
            trained(run, tmp_path)
    file.write_text("[]")
    with pytest.raises(PrecropError, match="is not a result"):
        trained(run, tmp_path)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, with masks."""
    spec = MaskSpec("erk", params="0.3")
    run = small_run(mask=spec, settings={"epochs": 1})
    return trained(run, tmp_path_factory.mktemp("others")).folder


@pytest.mark.parametrize("name", ["result.json", "last", "best", "masks.safetensors", "run.json"])
def test_what_another_run_has_made_is_refused(tmp_path: Path, others: Path, name: str) -> None:
    run = small_run(mask=MaskSpec("erk", params="0.3"), settings={"epochs": 1}, seed=1)
    folder = tmp_path / run.name
    if (others / name).is_dir():
        shutil.copytree(others / name, folder / name)
    else:
        folder.mkdir()
        shutil.copy(others / name, folder)
    with pytest.raises(PrecropError, match=f"{name} is not of run {run.id} but of"):
        trained(run, tmp_path)
    assert (folder / "result.json").exists() == (name == "result.json")


def told_again(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a checkpoint says, with the right digest, as a stranger does."""
    content = json.loads(path.read_text())
    del content["digest"]
    rest = dict(content["rest"]["dict"])
    change(rest)
    content["rest"]["dict"] = list(rest.items())
    path.write_text(json.dumps({**content, "digest": digest_of(content)}))


@pytest.mark.parametrize(
    "change",
    [
        lambda rest: rest.pop("loops"),
        lambda rest: rest.pop("optimizer_states"),
        lambda rest: rest.pop("history"),
        lambda rest: rest.update(history=5),
        lambda rest: rest.update(history={"list": [{"dict": [["accuracy", 0.5]]}]}),
        lambda rest: rest.update(loops=7),
        lambda rest: rest.update(optimizer_states={"list": [{"dict": [["state", 3]]}]}),
    ],
)
def test_a_checkpoint_that_lacks_what_goes_on(tmp_path: Path, others: Path, change: Any) -> None:
    run = small_run(mask=MaskSpec("erk", params="0.3"), settings={"epochs": 1})
    folder = shutil.copytree(others, tmp_path / run.name)
    (folder / "result.json").unlink()
    told_again(folder / "last" / "checkpoint.json", change)
    with pytest.raises(PrecropError, match="cannot go on from the checkpoint"):
        trained(run, tmp_path)


def test_momenta_of_another_shape(tmp_path: Path) -> None:
    def stop(row: object) -> None:
        raise KeyboardInterrupt

    run = small_run()
    with pytest.raises(KeyboardInterrupt):
        trained(run, tmp_path, told=stop)
    folder = tmp_path / run.name / "last"
    tensors = load_file(folder / "state.safetensors")
    momenta = [name for name in tensors if name.endswith("momentum_buffer")]
    bias = next(name for name in momenta if tensors[name].dim() == 1)
    save_file(tensors | {bias: torch.ones(3)}, folder / "state.safetensors")
    content = json.loads((folder / "checkpoint.json").read_text())
    del content["digest"]
    content["files"]["state.safetensors"] = digest_of_file(folder / "state.safetensors")
    (folder / "checkpoint.json").write_text(json.dumps({**content, "digest": digest_of(content)}))
    with pytest.raises(PrecropError, match=r"momentum_buffer has shape \(3,\), not"):
        trained(run, tmp_path)


def test_more_epochs_are_another_run(tmp_path: Path) -> None:
    first = trained(small_run(settings={"epochs": 1}), tmp_path)
    second = trained(small_run(settings={"epochs": 2}), tmp_path)
    assert first.folder != second.folder
    assert len(second.history) == 2


@pytest.mark.parametrize(
    ("method", "granularity"), [("synflow", "weight"), ("erk", "filter"), ("snip", "kernel")]
)
def test_masked_weights_stay_zero(tmp_path: Path, method: str, granularity: str) -> None:
    run = masked(method, granularity)
    result = trained(run, tmp_path)
    weights = load_file(result.folder / "last/model.safetensors")
    kept = load_file(result.folder / "masks.safetensors")
    assert set(kept) == {"0.weight", "3.weight", "9.weight"}
    absent = 0
    for name, mask in kept.items():
        assert not weights[name][~mask].any()
        assert weights[name][mask].all()
        absent += int((~mask).sum())
    assert result.params == sum(p.numel() for p in batch_net().parameters()) - absent
    prunable = sum(mask.numel() for mask in kept.values())
    assert (prunable - absent) / prunable == pytest.approx(0.3, abs=0.1)


def test_masks_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = masked()
    monkeypatch.setattr(Keeper, "on_train_epoch_end", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(run, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(networks, "found_by", None)
    assert trained(run, tmp_path).accuracy > 0


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_checkpoints_assert_the_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disturb(module: Classifier) -> None:
        for name, parameter in module.network.named_parameters():
            if name.endswith("_orig"):
                parameter.data += 1

    monkeypatch.setattr(Classifier, "on_validation_start", disturb)
    with pytest.raises(AssertionError, match="masked weights of 0.weight are not zero"):
        trained(masked(), tmp_path)


def test_cropped_networks(tmp_path: Path) -> None:
    run = cropped()
    result = trained(run, tmp_path)
    assert run.plan is not None
    assert (result.params, result.macs) == (run.plan.params, run.plan.macs)
    weights = load_file(result.folder / "last/model.safetensors")
    assert weights["0.weight"].shape[0] == run.plan.widths["0"][1]


def test_a_loss_that_is_no_number_stops(tmp_path: Path) -> None:
    run = small_run(settings={"lr": 999, "momentum": 0.99, "warmup": 0})
    with pytest.raises(PrecropError, match=r"no longer a number at step \d+ in epoch \d") as caught:
        trained(run, tmp_path)
    assert "learning rate" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / run.name / "run.json").is_file()


@pytest.mark.parametrize("kind", ["too large", "too small", "masked"])
def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path: Path, kind: str) -> None:
    size = 100_000 if kind == "too large" else 1
    mask = MaskSpec("synflow", "weight", params="0.3") if kind == "masked" else None
    run = small_run("single_net", settings={"batch_size": size}, mask=mask)
    said = "less than one batch of 100000" if kind == "too large" else "on batches of 1: ValueError"
    for output in (tmp_path, tmp_path / "new"):
        with pytest.raises(PrecropError, match=said):
            train(run, data=digits(), output=output)
        assert not (output / run.name).exists()


def test_a_run_that_fails_later_keeps_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run()

    def broken(module: Classifier, batch: Any, step: int) -> Any:
        if module.current_epoch == 1:
            raise PrecropError("an image is damaged")
        return step_of(module, batch, step)

    step_of = Classifier.training_step
    monkeypatch.setattr(Classifier, "training_step", broken)
    with pytest.raises(PrecropError, match="an image is damaged"):
        trained(run, tmp_path)
    monkeypatch.undo()
    assert (tmp_path / run.name / "run.json").is_file()
    assert [row["epoch"] for row in trained(run, tmp_path).history] == [1, 2, 3]


def test_a_loss_that_is_no_number_is_null_in_files(tmp_path: Path) -> None:
    """Held-out images alone may have none: running statistics differ from those of batches."""
    run = small_run("diverging_net")
    result = trained(run, tmp_path)
    assert math.isnan(result.loss)
    for file in ("result.json", "last/checkpoint.json"):
        text = (result.folder / file).read_text()
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    again = trained(run, tmp_path)
    assert again.finished
    assert math.isnan(again.loss)
    assert math.isnan(again.history[0]["loss"])
    assert math.isnan(checkpoints.read(result.folder / "last")["history"][0]["loss"])


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PrecropError, match="cannot make the folder"):
        trained(small_run(), tmp_path / "file")

    def full(folder: RunFolder, size: int) -> None:
        weights = sum(p.numel() for p in batch_net().parameters())
        assert size > 3 * 4 * weights
        raise PrecropError("full")

    monkeypatch.setattr(RunFolder, "make_room", full)
    monkeypatch.setattr(Classifier, "training_step", None)
    with pytest.raises(PrecropError, match="full"):
        trained(small_run(), tmp_path)


def test_other_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PrecropError, match="not those that run"):
        trained(small_run(data_digest="0"), tmp_path)


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_missing_loggers(tmp_path: Path, logger: str) -> None:
    try:
        __import__(logger)
    except ImportError:
        with pytest.raises(PrecropError, match=f"needs {logger}, .*: pip install '{logger}'"):
            trained(small_run(), tmp_path, loggers=(logger,))
    with pytest.raises(PrecropError, match="choose from csv"):
        trained(small_run(), tmp_path, loggers=("paper",))


def test_networks_that_do_not_fit() -> None:
    with pytest.raises(PrecropError, match="gives 1x7 for an image, not 1x10"):
        build(small_run(args={"num_classes": 7}))
    with pytest.raises(PrecropError, match="cannot take images of 5x8x8"):
        build(small_run(input_shape=(5, 8, 8)))
    plan = precrop.plan(group_net(), (3, 8, 8), params=0.5)
    with pytest.raises(PrecropError, match=r"another network .*built here as .*num_classes=10"):
        build(small_run(plan=plan))
    with pytest.raises(PrecropError, match="not both"):
        small_run(plan=plan, mask=MaskSpec("erk", params=0.5))


def test_a_run_of_large_images_is_built_without_memory_for_one() -> None:
    """One of them would take 4 GB."""
    run = small_run(input_shape=(3, 2**14, 2**14))
    assert build(run).macs > 2**30
    with pytest.raises(PrecropError, match="as the shape of its images"):
        Run.from_json(run.described(), trust=True)


def test_a_plan_of_other_classes_is_built_and_counted() -> None:
    built = build(small_run(plan=precrop.plan(batch_net(5), (3, 8, 8), params=0.5)))
    assert built.params == sum(p.numel() for p in built.network.parameters())
    assert built.network(torch.ones(2, 3, 8, 8)).shape == (2, 10)


def test_classes_are_said_where_the_builder_takes_them() -> None:
    def args(name: str, given: dict[str, int], classes: int) -> dict[str, Any]:
        return dict(networks.for_classes(ModelSpec(name, given), classes).args)

    assert args("resnet20", {}, 7) == {"num_classes": 7}
    assert args("resnet20", {"num_classes": 3}, 7) == {"num_classes": 3}
    assert args("timm:resnet10t", {}, 7) == {"num_classes": 7}
    assert args("tests.training.small_runs:batch_net", {}, 7) == {"num_classes": 7}
    assert args("tests.training.small_runs:digits", {}, 7) == {}
    assert args("none:none", {}, 7) == {}


def test_auxiliary_classifiers_are_trained() -> None:
    googlenet = ModelSpec("googlenet", {"num_classes": 10}).build()
    outputs = networks_outputs(googlenet)
    assert [tuple(logits.shape) for logits in outputs] == [(2, 10)] * 3


def networks_outputs(network: nn.Module) -> list[torch.Tensor]:
    from precrop.training.module import outputs

    return outputs(network(torch.zeros(2, 3, 64, 64)))


@needs_torch("2.11", "Gloo prints to the standard output")
def test_two_processes_have_the_same_losses(tmp_path: Path) -> None:
    run = small_run("group_net", settings={"epochs": 4})
    one = trained(run, tmp_path / "one")
    script = tmp_path / "app.py"
    script.write_text(APP)
    command = [
        sys.executable,
        str(script),
        "train",
        run.model.name,
        "--epochs",
        "4",
        "--devices",
        "2",
    ]
    command += ["--logger", "csv", "--output", str(tmp_path / "two"), "--json"]
    done = subprocess.run(
        command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.count("\n") == 1, "both processes speak"
    two = RunFolder(tmp_path / "two" / run.name, run.id).result()
    assert two is not None
    for alone, shared in zip(one.history, two.history, strict=True):
        for name in ("train_loss", "loss"):
            assert shared[name] == pytest.approx(alone[name], abs=1e-5)


WATCHED = """
from safetensors.torch import save_file
from precrop.training.module import Classifier

average = Classifier.on_validation_epoch_start


def watched(module):
    for moment in ("before", "after"):
        state = dict(module.network.named_buffers())
        copies = {name: tensor.clone().contiguous() for name, tensor in state.items()}
        save_file(copies, f"{moment}-{module.global_rank}.safetensors")
        if moment == "before":
            average(module)


Classifier.on_validation_epoch_start = watched
"""
"""Keeps every process's buffers as they are before and after they are averaged."""


def test_buffers_are_averaged_and_masks_equal_in_all_processes(tmp_path: Path) -> None:
    run = small_run(settings={"epochs": 1}, mask=MaskSpec("random", params="0.5"))
    script = tmp_path / "app.py"
    script.write_text(WATCHED + APP)
    command = [
        sys.executable,
        str(script),
        "train",
        run.model.name,
        "--epochs",
        "1",
        "--devices",
        "2",
    ]
    command += ["--mask", "random:weight", "--params", "0.5", "--output", str(tmp_path)]
    environment = {**_environment(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after = (
        [load_file(tmp_path / f"{moment}-{rank}.safetensors") for rank in (0, 1)]
        for moment in ("before", "after")
    )
    kept = load_file(tmp_path / run.name / "last/model.safetensors")
    for name in ("1.running_mean", "1.running_var", "4.running_mean", "4.running_var"):
        assert not before[0][name].equal(before[1][name]), "each process saw images of its own"
        torch.testing.assert_close(after[0][name], (before[0][name] + before[1][name]) / 2)
        assert after[0][name].equal(after[1][name])
        assert kept[name].equal(after[0][name])
    for name in ("0.weight_mask", "3.weight_mask"):
        assert after[0][name].equal(after[1][name])
        assert 0 < after[0][name].mean() < 1
