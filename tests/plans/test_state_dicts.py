"""Weights from files of ``torch.save``: what is taken, and what a hostile file cannot do."""

import os
import pickle
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from precrop.errors import PrecropError
from precrop.plans.state_dicts import load_state, read_state, renamed
from precrop.plans.weights import fill, find_misfit
from tests.training.small_runs import Signed, signed_net

HOW = "save the network's state_dict alone: torch.save(model.state_dict(), 'weights.pt')"


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def prefixed(prefix: str) -> Callable[[Any], Any]:
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    "saved",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"model": state, "args": [1, "x"]},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"epoch": 1, "model_state_dict": OrderedDict(state)},
        lambda state: {"epoch": 1, "state_dict_ema": state},
        prefixed("module."),
        prefixed("_orig_mod."),
        prefixed("module._orig_mod."),
        lambda state: {"state_dict": prefixed("network.")(state)},
        lambda state: {"state_dict": {"loss.weight": torch.ones(2)} | prefixed("net.")(state)},
        lambda state: {"n_averaged": torch.tensor(3)} | prefixed("module.")(state),
        lambda state: {n: v.int() if "tracked" in n else v for n, v in state.items()},
        lambda state: {n: v for n, v in state.items() if "tracked" not in n},
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_what_is_taken(tmp_path: Path, saved: Callable[[Any], Any], legacy: bool) -> None:
    trained, model, path = net(), net(), tmp_path / "net.pth"
    content = saved(trained.state_dict())
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    load_state(model, path)
    for name, value in trained.state_dict().items():
        assert model.state_dict()[name].equal(value)


def old(state: Any) -> Any:
    """A state_dict of the first version of its modules."""
    for about in state._metadata.values():
        about["version"] = 1
    return state


def without_versions(state: Any) -> Any:
    return dict(state)


def renamed_by_hand(state: Any) -> Any:
    """Whose versions are still under the old names."""
    for name in list(state):
        state[f"module.{name}"] = state.pop(name)
    return state


@pytest.mark.parametrize(
    ("wrapped", "change", "sign"),
    [
        (False, lambda state: state, 1),
        (True, lambda state: state, 1),
        (False, lambda state: {"state_dict": state, "epoch": 3}, 1),
        (False, without_versions, 1),
        (False, renamed_by_hand, 1),
        (False, old, -1),
        (True, old, -1),
        (False, lambda state: {"model": old(state)}, -1),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_modules_are_told_the_version_of_their_weights(
    tmp_path: Path, wrapped: bool, change: Callable[[Any], Any], sign: int, legacy: bool
) -> None:
    """That of the file, whatever the names begin with; what says none is as the model is."""
    trained, model, path = signed_net(), signed_net(), tmp_path / "net.pth"
    saved = nn.ModuleDict({"module": trained}) if wrapped else trained
    torch.save(change(saved.state_dict()), path, _use_new_zipfile_serialization=not legacy)
    load_state(model, path)
    assert weight_of(model).equal(sign * weight_of(trained))


def test_safetensors_are_of_the_models_version(tmp_path: Path) -> None:
    trained, model, path = signed_net(), signed_net(), tmp_path / "net.safetensors"
    save_file(trained.state_dict(), path)
    load_state(model, path)
    assert weight_of(model).equal(weight_of(trained))


def weight_of(network: nn.Module) -> torch.Tensor:
    """Of the layer that looks at its version."""
    return next(layer for layer in network.modules() if isinstance(layer, Signed)).weight.detach()


@pytest.mark.parametrize(
    "versions",
    [
        [1, 2],
        {"": {"version": 1}},
        {"": {"version": 1}, "9": 3},
        {"": {"version": 1}, "9": {"version": "2"}},
    ],
)
def test_versions_of_no_sense(tmp_path: Path, versions: Any) -> None:
    model, path = signed_net(), tmp_path / "net.pth"
    state: Any = signed_net().state_dict()
    state._metadata = versions
    torch.save(state, path)
    if isinstance(versions, list):
        load_state(model, path)
        return
    with pytest.raises(PrecropError, match="cannot load .* into the model: KeyError: 'no version"):
        load_state(model, path)


def test_a_file_does_not_say_how_its_tensors_are_taken(tmp_path: Path) -> None:
    """PyTorch would put the file's own tensors in the place of the model's."""
    model, path = signed_net(), tmp_path / "net.pth"
    state: Any = signed_net().double().state_dict()
    for about in state._metadata.values():
        about["assign_to_params_buffers"] = True
    torch.save(state, path)
    load_state(model, path)
    assert weight_of(model).dtype == torch.float32


def test_objects_beside_the_weights_are_left_out(tmp_path: Path) -> None:
    trained, model, path = net(), net(), tmp_path / "net.pth"
    beside = {
        "args": Namespace(lr=0.1, root=Path("x")),
        "best": np.float64(0.7),
        "history": np.ones((2, 3)),
        "hooks": defaultdict(list),
    }
    torch.save({"state_dict": trained.state_dict(), **beside}, path)
    allowed = {*torch.serialization.get_safe_globals()}
    load_state(model, path)
    for name, value in trained.state_dict().items():
        assert model.state_dict()[name].equal(value)
    assert {*torch.serialization.get_safe_globals()} == allowed


def test_objects_are_left_out_in_several_threads_at_once(tmp_path: Path) -> None:
    """PyTorch's list of what may be made is one for all threads."""
    path, trained, before = tmp_path / "net.pth", net(), {*torch.serialization.get_safe_globals()}
    torch.save({"state_dict": trained.state_dict(), "args": Namespace(lr=0.1)}, path)
    with ThreadPoolExecutor(8) as pool:
        for state in pool.map(read_state, [path] * 200):
            assert state["0.bias"].equal(trained.state_dict()["0.bias"])
    assert {*torch.serialization.get_safe_globals()} == before


def test_several_networks_in_one_file(tmp_path: Path) -> None:
    path, state = tmp_path / "net.ckpt", net().state_dict()
    torch.save(prefixed("student.")(state) | prefixed("teacher.")(state), path)
    assert "holds 2 such networks, as student. and teacher.*" in refusal(path)
    state = {f"{'a.' * k}0.weight": torch.ones(1) for k in range(300)}
    assert "0.weight has shape (1,)" in str(find_misfit(net(), renamed(state, net())))


@pytest.mark.parametrize("protocol", [4, 5])
def test_pickles_that_no_weights_alone_are_read_of(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "net.pt"
    torch.save(net().state_dict(), path, pickle_protocol=protocol)
    assert f"has pickle protocol {protocol}, which is not read as weights alone" in refusal(path)
    path.write_bytes(pickle.dumps(net().state_dict(), protocol))
    assert f"has pickle protocol {protocol}" in refusal(path)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(tmp_path: Path, odd: float) -> None:
    path = tmp_path / "net.pt"
    for name in ("3.weight", "1.running_var"):
        state = net().state_dict()
        state[name].flatten()[1] = odd
        torch.save(state, path)
        assert f"does not fit the model: {name} holds NaN or infinity" in refusal(path)
    masked = nn.Linear(2, 2)
    masked.register_buffer("mask", torch.tensor([0.0, odd]))
    fill(masked, masked.state_dict(), path)


def test_safetensors_are_told_from_pickles_by_their_content(tmp_path: Path) -> None:
    state = {name: value.clone() for name, value in net().state_dict().items()}
    for name in ("net.pt", "net.safetensors"):
        save_file(state, tmp_path / name)
        assert read_state(tmp_path / name).keys() == state.keys()
    torch.save(state, tmp_path / "net.safetensors")
    assert read_state(tmp_path / "net.safetensors").keys() == state.keys()
    # A header of 640 bytes begins as a pickle does.
    for more in range(800):
        save_file(state, tmp_path / "padded.safetensors", {"x": "x" * more})
        if (tmp_path / "padded.safetensors").read_bytes()[:2] == b"\x80\x02":
            break
    assert (tmp_path / "padded.safetensors").read_bytes()[:2] == b"\x80\x02"
    assert read_state(tmp_path / "padded.safetensors").keys() == state.keys()


class Hostile:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("nested", [lambda x: x, lambda x: {"state_dict": {"0.weight": x}}])
@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_hostile_pickle_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: Callable[[Any], Any], how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(nested(Hostile()), 2))
    else:
        torch.save(nested(Hostile()), path, _use_new_zipfile_serialization=how == "zip")
    assert refusal(path).startswith(f"{path} is ")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    refusal(path)
    assert not Path("ran").exists()


class Evaluated:
    """Evaluates Python when it is unpickled."""

    def __reduce__(self) -> Any:
        return eval, ("open('ran', 'w')",)


def test_hostile_objects_beside_the_weights_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, state = tmp_path / "net.pt", net().state_dict()
    torch.save({"model": state, "args": Evaluated(), "more": [{"x": Evaluated()}]}, path)
    assert read_state(path).keys() == state.keys()
    assert not Path("ran").exists()


def test_what_is_no_state_dict(tmp_path: Path) -> None:
    path, state = tmp_path / "net.pt", net().state_dict()
    for content, message in (
        (net(), "it holds an object (a whole network?)"),
        ({"state_dict": net()}, "'state_dict' is an object (a whole network?), no tensor"),
        (torch.ones(3), "it holds a Tensor"),
        ({"state_dict": state, "model": 3, "x": 1}, None),
        ({"epoch": 3, "mine": state}, "'epoch' is a int, no tensor"),
        ({0: torch.ones(2)}, "a name is a int, no text"),
        ({"0.weight": torch.ones(2).to_sparse()}, "0.weight is not a plain tensor"),
        ({"0.weight": torch.empty(2, device="meta")}, "0.weight is not a plain tensor"),
        ({"model": {}}, "holds no tensors"),
    ):
        torch.save(content, path)
        if message is None:
            assert read_state(path).keys() == state.keys()
            continue
        said = refusal(path)
        assert message in said
        assert said.endswith(HOW)
    held: dict[str, Any] = {}
    held["model"] = held
    torch.save(held, path)
    assert "not a plain state_dict" in refusal(path)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(net().state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "torch.load cannot read it" in refusal(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x", "y")
    assert "torch.load cannot read it" in refusal(path)
    torch.jit.script(net()).save(path)
    assert "is a TorchScript program, no state_dict" in refusal(path)
    path.write_bytes(b"")
    assert "is not a safetensors file" in refusal(path)
    assert "cannot read" in refusal(tmp_path / "none.pt")
    assert "cannot read" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module.0.weight": torch.ones(2)}, "0.weight has shape (2,), not (4, 3, 3, 3)"),
        ({"other.weight": torch.ones(2)}, "it has an unknown tensor other.weight"),
        ({"0.bias": None}, "it lacks tensor 0.bias"),
    ],
)
def test_weights_of_another_network(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    model, path = net(), tmp_path / "net.pt"
    state: dict[str, Any] = {**model.state_dict(), **change}
    if "module.0.weight" in change:
        state = {**prefixed("module.")(model.state_dict()), **change}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save({name: value for name, value in state.items() if value is not None}, path)
    with pytest.raises(PrecropError) as caught:
        load_state(model, path)
    assert str(caught.value) == f"{path} does not fit the model: {message}"
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def refusal(path: Path) -> str:
    with pytest.raises(PrecropError) as caught:
        load_state(net(), path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_files_are_one_line_or_tensors(tmp_path: Path, legacy: bool) -> None:
    path, random = tmp_path / "net.pt", torch.Generator().manual_seed(0)
    torch.save(net().state_dict(), path, _use_new_zipfile_serialization=not legacy)
    whole, refusals = path.read_bytes(), 0
    for _ in range(150):
        changed = bytearray(whole)
        for place in torch.randint(len(whole), (4,), generator=random).tolist():
            changed[place] = int(torch.randint(256, (), generator=random))
        path.write_bytes(changed)
        try:
            found = read_state(path)
        except PrecropError as error:
            assert "\n" not in str(error)
            refusals += 1
        else:
            assert all(isinstance(value, torch.Tensor) for value in found.values())
    assert refusals


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(("0.weight", torch.int8), ("0.weight", torch.bool), ("0.weight", torch.complex64)),
        *(("0.weight", torch.float8_e4m3fn), ("1.running_var", torch.int64)),
        *(("1.num_batches_tracked", torch.bool), ("1.num_batches_tracked", torch.complex64)),
    ],
)
def test_weights_of_a_senseless_type(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    state, path = net().state_dict(), tmp_path / "net.pt"
    state[name] = state[name].to(dtype)
    for save in (torch.save, save_file):
        save(state, path)
        assert f"does not fit the model: {name} holds {str(dtype)[6:]}, not " in refusal(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    trained, model, path = net(), net(), tmp_path / "net.pt"
    state = trained.state_dict()
    torch.save({name: value.to(dtype) for name, value in state.items()}, path)
    load_state(model, path)
    with pytest.raises(PrecropError, match=r"num_batches_tracked holds \w+, not int64"):
        fill(net(), state | {"1.num_batches_tracked": torch.tensor(0.5, dtype=dtype)}, path)
    for name, value in model.state_dict().items():
        assert value.dtype == state[name].dtype
        assert value.equal(state[name].to(dtype).to(value.dtype))


@pytest.mark.parametrize("hidden", ["get", "keys", "values", "_metadata", "__iter__"])
@pytest.mark.parametrize("legacy", [False, True])
def test_attributes_that_hide_methods_of_a_dict(tmp_path: Path, hidden: str, legacy: bool) -> None:
    trained, model, path = net(), net(), tmp_path / "net.pth"
    state = OrderedDict(trained.state_dict())
    vars(state)[hidden] = 5
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=not legacy)
    load_state(model, path)
    assert model.state_dict()["0.weight"].equal(trained.state_dict()["0.weight"])


@pytest.mark.parametrize("hidden", ["isfinite", "detach", "dim", "to", "equal", "numel", "round"])
def test_attributes_that_hide_methods_of_a_tensor(tmp_path: Path, hidden: str) -> None:
    state, model, path = net().state_dict(), net(), tmp_path / "net.pth"
    given = nn.Parameter(state["0.weight"].clone())
    setattr(given, hidden, 5)
    torch.save({**state, "0.weight": given}, path)
    load_state(model, path)
    assert model.state_dict()["0.weight"].equal(state["0.weight"])


@pytest.mark.parametrize("value", [1e30, -1e30, float("inf"), 2.0**63, 0.5])
def test_numbers_that_no_integer_type_holds(value: float) -> None:
    given = {**net().state_dict(), "1.num_batches_tracked": torch.tensor(value)}
    assert find_misfit(net(), given) == "1.num_batches_tracked holds float32, not int64"
    small = nn.Module()
    small.register_buffer("count", torch.zeros(2, dtype=torch.int8))
    assert find_misfit(small, {"count": torch.tensor([-128, 127])}) is None
    assert find_misfit(small, {"count": torch.tensor([0, 128])}) == "count holds int64, not int8"
    small.register_buffer("count", torch.zeros(0, dtype=torch.int8))
    assert find_misfit(small, {"count": torch.zeros(0, dtype=torch.int64)}) is None
