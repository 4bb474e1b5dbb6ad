"""Files of every format give PyTorch's outputs at any batch size, or they are not kept."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import precrop
from precrop.deployment.exportable import innermost_reason, noise
from precrop.deployment.exporting import (
    FORMATS,
    TOLERANCE,
    Exportable,
    Origin,
    difference,
    export,
    load_safetensors,
    write,
)
from precrop.errors import PrecropError
from precrop.model_spec import ModelSpec
from precrop.read.inputs import Inputs
from precrop.zoo import load_model
from tests.deployment.nets import (
    Gamma,
    Heads,
    Listed,
    Named,
    Nested,
    OneByOne,
    Pair,
    Taken,
    Valued,
    small,
)
from tests.versions import needs_torch

SHAPE = (3, 12, 12)
MULTIPLE: list[Any] = [
    (Pair, [(3, 8, 8), (1, 8, 8)]),
    (Heads, (3, 8, 8)),
    (Named, {"mask": (3, 8, 8), "image": (3, 8, 8)}),
    pytest.param(
        Listed,
        [(3, 8, 8), (3, 8, 8)],
        marks=needs_torch("2.11", "torch.onnx cannot write inputs in a list"),
    ),
    (Nested, [[(3, 8, 8), (3, 8, 8)], {"gain": (4,)}]),
    (Taken, [(3, 8, 8), (3, 8, 8)]),
    (Taken, {"mask": (3, 8, 8), "image": (3, 8, 8)}),
]


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def assert_all_formats(model: nn.Module, shape: Any, folder: Path) -> None:
    source = Exportable(model, Inputs(shape))
    for name, kind in FORMATS.items():
        path = folder / f"net{kind.suffix}"
        made = write(source, path, name)
        assert made.files == (path,)
        assert made.bytes == path.stat().st_size
        assert made.batches == (1, 3)
        assert made.telling
        assert 0 <= made.difference <= TOLERANCE
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        f"net{kind.suffix}" for kind in FORMATS.values()
    )


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet20", (3, 32, 32)),
        ("tests.networks:short_mobilenet", (3, 32, 32)),
        ("tests.networks:short_shufflenet", (3, 64, 64)),
        ("squeezenet1_1", (3, 64, 64)),
    ],
)
def test_networks_in_every_format(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    assert_all_formats(load_model(name, {}), shape, tmp_path)


def test_a_cropped_network_with_streams_of_several_widths(tmp_path: Path) -> None:
    model = load_model("resnet20", {})
    plan = precrop.plan(model, (3, 32, 32), params=0.5, residual="crop")
    assert plan.streams
    assert_all_formats(plan.build(model), (3, 32, 32), tmp_path)


@pytest.mark.parametrize(("kind", "shape"), MULTIPLE)
def test_several_inputs_and_outputs(kind: type[nn.Module], shape: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert_all_formats(kind(), shape, tmp_path)


@needs_torch("2.11", "torch.onnx names inputs after outputs")
def test_names_in_onnx_are_those_of_arguments_and_keys(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    export(Pair(), [(3, 8, 8), (1, 8, 8)], path)
    found = session(path)
    assert [one.name for one in found.get_inputs()] == ["x", "input"]
    assert [one.name for one in found.get_outputs()] == ["output_0", "output_1"]
    assert [one.shape for one in found.get_inputs()] == [["batch", 3, 8, 8], ["batch", 1, 8, 8]]
    export(Named(), {"mask": (3, 8, 8), "image": (3, 8, 8)}, path)
    assert [one.name for one in session(path).get_inputs()] == ["mask", "image"]
    export(Nested(), [[(3, 8, 8), (3, 8, 8)], {"gain": (4,)}], path)
    assert [one.name for one in session(path).get_inputs()] == [
        "images_0",
        "images_1",
        "scales_gain",
    ]
    export(Heads(), (3, 8, 8), path)
    names = [one.name for one in session(path).get_outputs()]
    assert names[1:] == ["relu_0", "relu_1", "out"]
    assert names[0] != "x"  # the input has it
    onnx.checker.check_model(onnx.load(path), full_check=True)


def test_any_batch_size(tmp_path: Path) -> None:
    model = small().eval()
    export(model, SHAPE, tmp_path / "net.onnx")
    export(model, SHAPE, tmp_path / "net.pt2", "pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    for batch in (1, 2, 7):
        x = torch.randn(batch, *SHAPE)
        with torch.no_grad():
            wanted = model(x)
            torch.testing.assert_close(loaded(x), wanted)
        (found,) = session(tmp_path / "net.onnx").run(None, {"input": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("format", ["onnx", "pt2"])
@pytest.mark.parametrize(
    ("model", "example", "batches"),
    [
        pytest.param(
            nn.LSTM(6, 8),
            torch.randn(7, 2, 6),
            (1, 3),
            marks=needs_torch("2.11", "torch.export refuses LSTMs of any batch size"),
        ),
        (nn.Linear(3, 8), torch.randn(3), (1,)),
    ],
)
def test_inputs_lie_along_the_axis_that_examples_show(
    model: nn.Module, example: Tensor, batches: tuple[int, ...], format: str, tmp_path: Path
) -> None:
    made = export(model, example, tmp_path / f"net.{format}")
    assert (made.batches, made.batch) == (batches, None if len(batches) > 1 else 1)
    if format == "onnx":
        (given,) = onnxruntime.InferenceSession(made.path).get_inputs()
        assert given.shape == ([7, "batch", 6] if len(batches) > 1 else [3])


def test_one_batch_size(tmp_path: Path) -> None:
    for name in FORMATS:
        made = export(OneByOne(), (3, 8, 8), tmp_path / f"net.{name}", name, batch=2)
        assert (made.batch, made.batches) == (2, (2,))
    (given,) = session(tmp_path / "net.onnx").get_inputs()
    assert given.shape == [2, 3, 8, 8]


@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_what_takes_one_batch_size_alone_says_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(PrecropError, match="for any batch size: .*--batch 1") as caught:
        export(OneByOne(), (3, 8, 8), tmp_path / "net", name)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_network_stays_as_it_was(tmp_path: Path) -> None:
    model = small()
    model[1].eval()  # type: ignore[index]
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for name in FORMATS:
        export(model, SHAPE, tmp_path / f"net.{name}", name)
    assert [module.training for module in model.modules()] == modes
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())


def test_networks_are_exported_as_in_eval_mode(tmp_path: Path) -> None:
    model = nn.Sequential(small(), nn.Dropout(0.9)).train()
    path = tmp_path / "net.onnx"
    export(model, SHAPE, path)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert "Dropout" not in kinds


def test_files_name_no_folder_of_this_machine(tmp_path: Path) -> None:
    for name in FORMATS:
        path = tmp_path / f"net.{name}"
        export(Heads(), (3, 8, 8), path, name)
        assert b"site-packages" not in path.read_bytes()
        assert str(Path(__file__).parent).encode() not in path.read_bytes()


def test_nothing_is_printed(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from precrop.deployment.exporting import export\n"
        "from tests.deployment.nets import Heads\n"
        "for name in ('onnx', 'pt2'):\n"
        "    export(Heads(), (3, 8, 8), sys.argv[1] + '/net.' + name, name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == done.stderr == ""
    assert len(list(tmp_path.iterdir())) == 2


# --- safetensors ----------------------------------------------------------------------------------


def test_safetensors_says_how_its_network_is_built(tmp_path: Path) -> None:
    model = load_model("resnet20", {"num_classes": 7})
    plan = precrop.plan(model, (3, 32, 32), macs=0.5)
    built = plan.build(model).eval()
    path = tmp_path / "net.safetensors"
    made = export(
        built,
        (3, 32, 32),
        path,
        "safetensors",
        origin=Origin(ModelSpec("resnet20", {"num_classes": 7}), plan),
    )
    assert made.difference == 0
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert load_safetensors(path)(x).equal(built(x))


def test_safetensors_without_a_record(tmp_path: Path) -> None:
    model, path = small().eval(), tmp_path / "net.safetensors"
    export(model, SHAPE, path, "safetensors")
    with pytest.raises(PrecropError, match="does not say which network"):
        load_safetensors(path)
    network = load_safetensors(path, "tests.deployment.nets:small")
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        assert network(x).equal(model(x))


def test_a_users_code_is_not_run_unasked(tmp_path: Path) -> None:
    name, path = "tests.deployment.nets:small", tmp_path / "net.safetensors"
    export(small(), SHAPE, path, "safetensors", origin=Origin(ModelSpec(name, {})))
    with pytest.raises(PrecropError, match="not run unasked"):
        load_safetensors(path)
    assert isinstance(load_safetensors(path, name), nn.Module)


def test_broken_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"nonsense")
    with pytest.raises(PrecropError, match="cannot read"):
        load_safetensors(path)


def test_weights_of_another_network_are_noticed(tmp_path: Path) -> None:
    """The record says one network, the weights are another's."""
    with pytest.raises(PrecropError, match="does not fit the model"):
        export(
            small(),
            SHAPE,
            tmp_path / "net.safetensors",
            "safetensors",
            origin=Origin(ModelSpec("tests.deployment.nets:small", {"classes": 6})),
        )
    assert not list(tmp_path.iterdir())


# --- the check ------------------------------------------------------------------------------------


def tampered(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the largest weight ten per cent wrong in every file of a format."""
    kind = FORMATS[name]
    torch.manual_seed(0)

    def wrong(source: Exportable, path: Path) -> None:
        model = small()
        model.load_state_dict(source.model.state_dict())
        with torch.no_grad():
            weights = next(model.parameters()).view(-1)
            weights[weights.abs().argmax()] *= 1.1
        kind.write(Exportable(model, source.inputs), path)

    monkeypatch.setitem(FORMATS, name, replace(kind, write=wrong))


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_wrong_file_is_not_kept(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tampered(name, monkeypatch)
    path = tmp_path / "net"
    path.write_text("the old one")
    with pytest.raises(PrecropError, match="was not kept: .*differ from PyTorch's") as caught:
        export(small(), SHAPE, path, name)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_a_file_that_its_runtime_cannot_read_is_not_kept(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = FORMATS[name]

    def garbled(source: Exportable, path: Path) -> None:
        path.write_bytes(b"no network")

    monkeypatch.setitem(FORMATS, name, replace(kind, write=garbled))
    with pytest.raises(PrecropError, match=f"was not kept: {kind.reader} cannot read it: ") as e:
        export(small(), SHAPE, tmp_path / "net", name)
    assert "\n" not in str(e.value)
    assert not list(tmp_path.iterdir())


def test_missing_tensors_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = FORMATS["safetensors"]

    def lacking(source: Exportable, path: Path) -> None:
        kind.write(source, path)
        save_file({k: v for k, v in load_file(path).items() if "running" not in k}, path)

    monkeypatch.setitem(FORMATS, "safetensors", replace(kind, write=lacking))
    with pytest.raises(PrecropError, match="lacks tensor 1.running_mean"):
        export(small(), SHAPE, tmp_path / "net", "safetensors")
    assert not list(tmp_path.iterdir())


def test_difference() -> None:
    ones, nan, inf = torch.ones(2), torch.tensor([1, torch.nan]), float("inf")
    assert difference([ones * 4, ones], [ones * 4, ones * 2]) == 0.5
    assert difference([ones], [ones, ones]) == inf
    assert difference([ones], [torch.ones(3)]) == inf
    assert difference([ones.double()], [ones]) == inf
    assert difference([nan], [ones]) == inf
    assert difference([ones], [nan]) == inf
    assert difference([nan], [nan]) == 0
    assert difference([ones.long()], [ones.long()]) == 0
    assert difference([ones.long()], [ones.long() * 2]) == inf
    assert difference([ones], [ones * 0]) == inf
    assert difference([ones * 0], [ones * 0]) == 0
    assert difference([torch.ones(0)], [torch.ones(0)]) == 0


def test_outputs_that_no_input_changes_are_reported(tmp_path: Path) -> None:
    model = small()
    nn.init.zeros_(model[-1].weight)  # type: ignore[index]
    assert not export(model, SHAPE, tmp_path / "net.pt2", "pt2").telling


def test_networks_without_a_finite_output_are_refused(tmp_path: Path) -> None:
    model = small()
    nn.init.constant_(model[-1].bias, torch.nan)  # type: ignore[index]
    with pytest.raises(PrecropError, match="no output of the network is finite"):
        export(model, SHAPE, tmp_path / "net.pt2", "pt2")


def test_random_inputs() -> None:
    (one,), _ = noise(Inputs(SHAPE), small(), 3)
    (same,), _ = noise(Inputs(SHAPE), small(), 3)
    (other,), _ = noise(Inputs(SHAPE), small().double(), 3, seed=1)
    assert one.equal(same)
    assert other.dtype == torch.float64
    assert not one.equal(other.float())
    assert 0.8 < float(one.std()) < 1.2


# --- bad input ------------------------------------------------------------------------------------


def refused(match: str, folder: Path, *args: Any, **kwargs: Any) -> None:
    """An export that ends in one line and leaves nothing."""
    before = sorted(folder.iterdir())
    with pytest.raises(PrecropError, match=match) as caught:
        export(*args, **kwargs)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert sorted(folder.iterdir()) == before


def test_operations_that_onnx_lacks(tmp_path: Path) -> None:
    refused("torch.onnx cannot translate.*lgamma", tmp_path, Gamma(), (4,), tmp_path / "net")
    assert export(Gamma(), (4,), tmp_path / "net.pt2", "pt2").difference <= TOLERANCE


@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_paths_that_depend_on_values(name: str, tmp_path: Path) -> None:
    refused("torch.export cannot read", tmp_path, Valued(), (3, 8, 8), tmp_path / "net", name)


def test_wrong_words(tmp_path: Path) -> None:
    path = tmp_path / "net"
    refused("'tflite' is unknown: choose from onnx, pt2", tmp_path, small(), SHAPE, path, "tflite")
    refused("batch=0 is not a batch size", tmp_path, small(), SHAPE, path, batch=0)
    refused("fails on 1 inputs of 1x12x12", tmp_path, small(), (1, 12, 12), path)
    refused("not a shape", tmp_path, small(), (0, 3), path)
    refused("meta device", tmp_path, small().to("meta"), SHAPE, path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_suffix_says_the_format(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{FORMATS[name].suffix}"
    assert export(small(), SHAPE, path).format == name
    other = next(one for one in FORMATS if one != name)
    path = tmp_path / f"other{FORMATS[name].suffix.upper()}"
    line = f"under the suffix of {name}: write other.{other}, or drop the format"
    with pytest.raises(PrecropError, match=line):
        export(small(), SHAPE, path, other)
    assert not path.exists()


def test_a_suffix_that_says_nothing_is_of_onnx(tmp_path: Path) -> None:
    assert export(small(), SHAPE, tmp_path / "net.v2").format == "onnx"
    assert export(small(), SHAPE, tmp_path / "net", "pt2").format == "pt2"


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_libraries(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else real(name)
    )
    match = f"{missing} is not installed: pip install 'precrop\\[deploy\\]'"
    refused(match, tmp_path, small(), SHAPE, tmp_path / "net.onnx")
    export(small(), SHAPE, tmp_path / "net.pt2", "pt2")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    for name in FORMATS:
        path = tmp_path / "none" / "net"
        refused("cannot write .*No such file", tmp_path, small(), SHAPE, path, name)
        refused("cannot write .*it is a folder", tmp_path, small(), SHAPE, tmp_path, name)


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PrecropError, match="it is not a plain file"):
        export(small(), SHAPE, tmp_path / "pipe", "safetensors")
    assert (tmp_path / "pipe").is_fifo()


def test_half_precision_is_compared_in_its_own_steps(tmp_path: Path) -> None:
    made = export(small().half(), SHAPE, tmp_path / "net.onnx")
    assert made.difference < 2e-3


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    match = "cannot write .*net: No space left"
    refused(match, tmp_path, small(), SHAPE, tmp_path / "net", "pt2")


def test_weights_in_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with more than 1.5 GB of weights."""
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1)
    path = tmp_path / "net.onnx"
    made = export(small(), SHAPE, path)
    assert made.files == (path, tmp_path / "net.onnx.data")
    assert sorted(tmp_path.iterdir()) == sorted(made.files)
    assert made.to_json()["bytes"] == sum(file.stat().st_size for file in made.files)
    assert session(path).run(None, {"input": torch.ones(2, *SHAPE).numpy()})[0].shape == (2, 5)


def test_reason() -> None:
    inner, outer = ValueError("too\n  many"), RuntimeError("outer")
    outer.__cause__ = inner
    assert innermost_reason(outer) == "too many"
    assert innermost_reason(KeyError()) == "KeyError"
    assert len(innermost_reason(ValueError("x" * 999))) == 240
    noisy = ValueError('Failed! For more information, run with TORCH_LOGS="+dynamic". - You see')
    assert innermost_reason(noisy) == "Failed! You see"


def test_outputs_are_flattened_as_in_pytorch() -> None:
    tensor = torch.ones(1, 3, 8, 8)
    found: list[Tensor] = tree_leaves(Heads().eval()(tensor))
    assert len(found) == 4


def test_metadata_is_json_and_says_nothing_twice(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 16, 2))
    for metadata, message in (
        ({"mean": object()}, "metadata must be plain JSON values"),
        ({"mean": float("nan")}, "metadata must be plain JSON values"),
        ({"input_shape": 3}, "metadata: input_shape is what the file says by itself"),
        ({"plan": {}}, "metadata: plan is what the file says by itself"),
    ):
        with pytest.raises(PrecropError, match=message):
            export(model, (3, 6, 6), tmp_path / "net.onnx", metadata=metadata)
    assert not list(tmp_path.iterdir())


def test_bfloat16_is_refused_for_onnx_in_one_line(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3)).bfloat16()
    with pytest.raises(PrecropError, match=r"no bfloat16 kernels on a CPU: export model.float\(\)"):
        export(network, (3, 8, 8), tmp_path / "net.onnx")
    assert not [*tmp_path.iterdir()]
