"""Checkpoints on disk: whole or not at all, read without pickle."""

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from precrop.errors import PrecropError
from precrop.files import digest_of
from precrop.pruning.masking import apply_masks, masks
from precrop.training import checkpoints
from precrop.training.folder import RunFolder

CHECKPOINT: dict[str, Any] = {
    "epoch": 3,
    "global_step": 12,
    "state_dict": {"network.weight": torch.randn(2, 3), "network.steps": torch.tensor(7)},
    "optimizer_states": [
        {
            "state": {0: {"momentum": torch.randn(4, 3, 2, 2)}, 1: {"step": torch.tensor(1.5)}},
            "param_groups": [{"betas": (0.9, 0.999), "lr": 0.1, "maximize": False, "params": [0]}],
        }
    ],
    "loops": {"none": None, "empty": {}, "nested": [[1, 2], []], "text": "é"},
}
RUN = {"id": "0", "seed": 0}


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return bool(one.dtype == other.dtype and one.equal(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        equal = type(one) is type(other) and len(one) == len(other)
        return equal and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def test_round_trip(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "last", CHECKPOINT, RUN)
    found = checkpoints.read(tmp_path / "last")
    assert found.pop("run") == RUN
    assert same(found, {key: CHECKPOINT[key] for key in found})
    assert set(found) == set(CHECKPOINT)
    assert not list(tmp_path.glob(".*"))


def test_files_are_plain(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "last", CHECKPOINT, RUN)
    assert sorted(file.name for file in (tmp_path / "last").iterdir()) == [
        "checkpoint.json",
        "model.safetensors",
        "state.safetensors",
    ]
    assert set(load_file(tmp_path / "last/model.safetensors")) == {"weight", "steps"}
    assert json.loads((tmp_path / "last/checkpoint.json").read_text())["run"] == RUN


def test_memory_format_returns(tmp_path: Path) -> None:
    last = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    checkpoints.write(tmp_path / "last", {**CHECKPOINT, "momentum": [last]}, RUN)
    (found,) = checkpoints.read(tmp_path / "last")["momentum"]
    assert found.stride() == last.stride()
    assert found.equal(last)


def test_masked_weights_are_plain_zeros(tmp_path: Path) -> None:
    module = nn.Module()
    module.network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    apply_masks(module.network, masks(module.network, {"0": 0.5}))
    state = module.state_dict()
    checkpoints.write(tmp_path / "last", {**CHECKPOINT, "state_dict": state}, RUN)
    convolution = nn.Conv2d(3, 4, 3)
    plain = nn.Sequential(convolution, nn.Flatten(), nn.Linear(4, 2))
    plain.load_state_dict(load_file(tmp_path / "last/model.safetensors"))
    mask = state["network.0.weight_mask"].bool()
    assert convolution.weight[~mask].abs().max() == 0
    assert convolution.weight[mask].equal(state["network.0.weight_orig"][mask])
    found = checkpoints.read(tmp_path / "last")["state_dict"]
    assert found.keys() == state.keys()
    assert found["network.0.weight_mask"].equal(state["network.0.weight_mask"])
    assert checkpoints.read_masks(tmp_path / "last")["0.weight"].equal(mask)


def test_a_failed_write_leaves_the_old_one(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "last", CHECKPOINT, RUN)
    large = {**CHECKPOINT, "global_step": 99, "more": torch.zeros(100_000)}
    with full_disk(50_000), pytest.raises(PrecropError, match="cannot write the checkpoint"):
        checkpoints.write(tmp_path / "last", large, RUN)
    assert checkpoints.read(tmp_path / "last")["global_step"] == 12
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_killed_between_the_two_moves(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "last", CHECKPOINT, RUN)
    (tmp_path / "last").rename(tmp_path / "last.old")
    assert checkpoints.read(tmp_path / "last")["global_step"] == 12
    checkpoints.write(tmp_path / "last", {**CHECKPOINT, "global_step": 13}, RUN)
    assert checkpoints.read(tmp_path / "last")["global_step"] == 13


def test_leftovers_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".last.ab12").mkdir()
    (tmp_path / ".last.ab12/model.safetensors").write_text("half")
    (tmp_path / ".other").mkdir()
    RunFolder(tmp_path, "0").make_room(1)
    assert [path.name for path in tmp_path.iterdir()] == [".other"]


def test_what_json_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrecropError, match="cannot hold /callbacks/x, a set"):
        checkpoints.write(tmp_path / "last", {**CHECKPOINT, "callbacks": {"x": {1}}}, RUN)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_tensor_in_a_network_is_refused(tmp_path: Path) -> None:
    state = {**CHECKPOINT["state_dict"], "network.x._extra_state": {"steps": 3}}
    with pytest.raises(PrecropError, match="_extra_state is not a plain tensor"):
        checkpoints.write(tmp_path / "last", {**CHECKPOINT, "state_dict": state}, RUN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("checkpoint.json", "{", "is not JSON"),
        ("checkpoint.json", '{"format": 99}', "not a checkpoint of format 2"),
        ("checkpoint.json", '{"format": 1, "channels_last": ["x"]}', "is broken"),
        ("model.safetensors", "short", "was changed after it was written"),
        ("state.safetensors", None, "cannot read"),
    ],
)
def test_broken_checkpoints(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    checkpoints.write(tmp_path / "last", CHECKPOINT, RUN)
    path = tmp_path / "last" / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(PrecropError, match=message) as caught:
        checkpoints.read(tmp_path / "last")
    assert "\n" not in str(caught.value)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(PrecropError, match="holds no checkpoint"):
        checkpoints.read(tmp_path / "last")


def test_space_is_checked(tmp_path: Path) -> None:
    RunFolder(tmp_path, "0").make_room(3_000_000)
    with full_disk(1_500_000), pytest.raises(PrecropError, match="cannot write 3.0 MB") as caught:
        RunFolder(tmp_path, "0").make_room(3_000_000)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path, "0").alone(),
        pytest.raises(PrecropError, match="another process"),
        RunFolder(tmp_path, "0").alone(),
    ):
        pass
    with RunFolder(tmp_path, "0").alone():
        pass


@pytest.mark.parametrize("file", ["model.safetensors", "state.safetensors", "checkpoint.json"])
def test_changed_bytes_are_noticed(tmp_path: Path, file: str) -> None:
    """Wherever one is, a decoder may not mind it."""
    checkpoints.write(tmp_path / "last", CHECKPOINT, RUN)
    path = tmp_path / "last" / file
    content = path.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 60)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        for read in (checkpoints.read, checkpoints.described):
            with pytest.raises(PrecropError):
                read(tmp_path / "last")
    path.write_bytes(content)
    assert checkpoints.described(tmp_path / "last")["run"] == RUN


def test_a_checkpoint_without_digests(tmp_path: Path) -> None:
    """One of the format before is read; one of this format that lost them is not."""
    checkpoints.write(tmp_path / "last", CHECKPOINT, RUN)
    path = tmp_path / "last" / "checkpoint.json"
    content = json.loads(path.read_text())
    del content["digest"], content["files"]
    path.write_text(json.dumps({**content, "format": 1}))
    assert checkpoints.read(tmp_path / "last")["run"] == RUN
    path.write_text(json.dumps(content))
    with pytest.raises(PrecropError, match="changed after it was written"):
        checkpoints.read(tmp_path / "last")


@pytest.mark.parametrize(
    "rest", ["[" * 10_000, '{"dict": 1}', '{"tensor": "x"}', '{"a": 1, "b": 2}', "{}", "7"]
)
def test_a_checkpoint_of_no_sense(tmp_path: Path, rest: str) -> None:
    checkpoints.write(tmp_path / "last", CHECKPOINT, RUN)
    path = tmp_path / "last" / "checkpoint.json"
    content = json.loads(path.read_text())
    del content["digest"], content["files"], content["rest"]
    text = json.dumps({**content, "format": 1})
    path.write_text(text[:-1] + f', "rest": {rest}}}')
    with pytest.raises(PrecropError):
        checkpoints.read(tmp_path / "last")


@pytest.mark.parametrize("step", [None, "12", 1.5])
def test_a_checkpoint_without_its_step(tmp_path: Path, step: Any) -> None:
    checkpoints.write(tmp_path / "last", CHECKPOINT, RUN)
    path = tmp_path / "last" / "checkpoint.json"
    content = json.loads(path.read_text()) | {"step": step}
    del content["digest"]
    path.write_text(json.dumps({**content, "digest": digest_of(content)}))
    with pytest.raises(PrecropError, match="does not say the step"):
        checkpoints.described(tmp_path / "last")


def test_masks_of_a_run(tmp_path: Path) -> None:
    kept = {"a": torch.rand(3, 2) > 0.5, "b": torch.ones(4, dtype=torch.bool)}
    RunFolder(tmp_path, "a").keep_masks(kept)
    assert same(RunFolder(tmp_path, "a").masks(), kept)
    with pytest.raises(PrecropError, match="safetensors is not of run b but of 'a'"):
        RunFolder(tmp_path, "b").masks()
    content = bytearray((tmp_path / "masks.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "masks.safetensors").write_bytes(content)
    with pytest.raises(PrecropError, match="changed after it was written"):
        RunFolder(tmp_path, "a").masks()


def test_older_masks_do_not_say_their_run(tmp_path: Path) -> None:
    kept = {"a": torch.rand(3, 2) > 0.5}
    RunFolder(tmp_path, "a").keep_masks(kept)
    with safe_open(tmp_path / "masks.safetensors", framework="pt") as file:
        digest = file.metadata()["digest"]
    save_file(kept, tmp_path / "masks.safetensors", {"digest": digest})
    assert same(RunFolder(tmp_path, "b").masks(), kept)


@pytest.mark.parametrize("name", ["last", "last.old"])
@pytest.mark.parametrize("there", [True, False])
def test_a_link_in_the_place_of_a_checkpoint_is_replaced(
    tmp_path: Path, name: str, there: bool
) -> None:
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    run.mkdir()
    if there:
        elsewhere.mkdir()
        (elsewhere / "precious").write_text("content")
    (run / name).symlink_to(elsewhere)
    for step in range(3):
        checkpoints.write(run / "last", {**CHECKPOINT, "global_step": step}, RUN)
        assert checkpoints.read(run / "last")["global_step"] == step
    assert [path.name for path in run.iterdir()] == ["last"]
    assert [path.name for path in tmp_path.rglob("*")].count("precious") == there


def test_a_private_checkpoint_stays_private(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "last", CHECKPOINT, RUN)
    (tmp_path / "last").chmod(0o700)
    checkpoints.write(tmp_path / "last", CHECKPOINT, RUN)
    assert (tmp_path / "last").stat().st_mode & 0o777 == 0o700


def test_a_lock_follows_no_link(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "0")
    (tmp_path / "precious").write_text("content")
    (tmp_path / ".lock").symlink_to("precious")
    with (
        pytest.raises(PrecropError, match="cannot take the lock"),
        folder.alone(),
    ):
        pass
    assert (tmp_path / "precious").read_text() == "content"
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").mkdir()
    with (
        pytest.raises(PrecropError, match="cannot take the lock"),
        folder.alone(),
    ):
        pass


@pytest.mark.parametrize("name", ["last", "last.old"])
def test_a_pipe_in_the_place_of_a_checkpoint_is_replaced(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    checkpoints.write(tmp_path / "last", CHECKPOINT, RUN)
    assert checkpoints.described(tmp_path / "last")["step"] == CHECKPOINT["global_step"]
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


@pytest.mark.parametrize("file", ["model.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_in_a_checkpoint(tmp_path: Path, file: str, make: Any) -> None:
    checkpoints.write(tmp_path / "last", CHECKPOINT, RUN)
    (tmp_path / "last" / file).unlink()
    make(tmp_path / "last" / file)
    with pytest.raises(PrecropError):
        checkpoints.described(tmp_path / "last")
    with pytest.raises(PrecropError):
        checkpoints.read(tmp_path / "last")
