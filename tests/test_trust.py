"""Files from strangers: what they name is looked up, what they set are numbers of the network."""

import contextlib
import copy
import functools
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import precrop
from precrop.cli.app import main
from precrop.deployment.exporting import Origin, export, load_safetensors
from precrop.errors import PlanError, PrecropError
from precrop.fit.attributes import apply_edits, get_attribute
from precrop.model_spec import ModelSpec
from precrop.plans.file import digest
from precrop.plans.plan import Plan
from precrop.study.spec import read_study
from precrop.training import checkpoints
from precrop.training.evaluate import load_trained
from precrop.training.loop import train
from precrop.training.runs import Run
from precrop.trust import check_named, runs_user_code
from precrop.zoo import load_model
from tests.training.small_runs import digits, small_run

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def refused(capsys: Output, *argv: str) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    assert main(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one of our own networks."""
    run = replace(
        small_run(settings={"epochs": 1}), model=ModelSpec("resnet20", {"num_classes": 10})
    )
    output = tmp_path_factory.mktemp("runs")
    return train(run, data=digits(), output=output, loggers=("none",)).folder


def of_another(folder: Path, target: Path, model: str, args: dict[str, Any]) -> Path:
    """A checkpoint as a stranger would make it: of another network, with the right id."""
    content = checkpoints.read(folder / "last")
    run = replace(Run.from_json(content.pop("run")), model=ModelSpec(model, args))
    content["state_dict"] = {f"network.{n}": v for n, v in nn.Linear(2, 2).state_dict().items()}
    checkpoints.write(target, content, run.described())
    return target


STRANGE: list[tuple[str, dict[str, Any]]] = [
    ("os:system", {"command": "touch ran"}),
    ("touching:net", {}),
    ("subprocess:getoutput", {"cmd": "touch ran"}),
    ("timm:resnet18", {"model_name": "local-dir:/tmp/x"}),
    ("timm:resnet18", {"checkpoint_path": "x.pth"}),
    ("timm:resnet18", {"pretrained": True}),
    ("timm:resnet18", {"pretrained_cfg": {"file": "x.pth"}}),
    ("timm:resnet18", {"pretrained_cfg_overlay": {"url": "http://x"}}),
    ("timm:resnet18", {"cache_dir": "x"}),
    ("timm:local-dir:x", {}),
    ("timm:hf-hub:x/y", {}),
    ("timm:hf_hub:x/y", {}),
    ("timm:resnet18.hf-hub:x", {}),
    ("timm:../resnet18", {}),
    ("resnet18", {"weights": "DEFAULT"}),
    ("resnet18", {"weights": "x"}),
    ("resnet18", {"width_per_group": 10**12}),
    ("resnet18", {"norm_layer": "../x.py"}),
    ("fcn_resnet50", {"weights_backbone": "DEFAULT"}),
]


@pytest.mark.parametrize(("model", "args"), STRANGE)
def test_a_strangers_checkpoint(
    trained: Path, tmp_path: Path, capsys: Output, model: str, args: dict[str, Any]
) -> None:
    """Evaluated, exported, or its weights exported: nothing is imported, loaded or run."""
    Path("touching.py").write_text(
        "import pathlib; pathlib.Path('ran').touch()\nfrom torch.nn import Identity as net\n"
    )
    folder = of_another(trained, tmp_path / "given", model, args)
    before = set(sys.modules)
    for words in (["eval", str(folder)], ["export", str(folder)]):
        refused(capsys, *words)
    refused(capsys, "export", str(folder / "model.safetensors"))
    assert not Path("ran").exists()
    assert "touching" not in set(sys.modules) - before


def test_what_the_user_says_again_is_run(trained: Path, tmp_path: Path, capsys: Output) -> None:
    Path("touched.py").write_text(
        "import pathlib; pathlib.Path('ran').touch()\nfrom precrop.models import resnet20 as net\n"
    )
    content = checkpoints.read(trained / "last")
    touched = ModelSpec("touched:net", {"num_classes": 10})
    run = replace(Run.from_json(content.pop("run")), model=touched)
    checkpoints.write(tmp_path / "given", content, run.described())
    line = refused(capsys, "eval", "given")
    assert "say --model touched:net, or --trust" in line
    assert "which is not run unasked" in refused(capsys, "export", "given", "--model", "resnet20")
    assert not Path("ran").exists()
    assert main(["eval", "given", "--model", "touched:net"]) == 0
    assert Path("ran").exists()
    network = load_trained(tmp_path / "given", trust=True).network
    origin = Origin(touched)
    export(network, (3, 32, 32), "net.safetensors", "safetensors", origin=origin)
    with pytest.raises(PrecropError, match="say model='touched:net'"):
        load_safetensors(Path("net.safetensors"))
    assert load_safetensors(Path("net.safetensors"), "touched:net", {"num_classes": 10})


def test_a_strangers_plan(capsys: Output) -> None:
    plan = precrop.plan(load_model("resnet20", {}), (3, 32, 32), params=0.5)
    for model, args in STRANGE:
        replace(plan, source=ModelSpec(model, args)).save("given.json")
        for words in (["build"], ["export"], ["eval", "--weights", "x", "--data", "digits"]):
            refused(capsys, words[0], "given.json", *words[1:])
    assert not Path("ran").exists()


def test_a_strangers_study(capsys: Output) -> None:
    Path("touching.py").write_text(
        "import pathlib; pathlib.Path('ran').touch()\nfrom precrop.models import resnet20 as net\n"
    )
    text = (
        "study: given\ndescription: x\ndata: digits\nrecipe: digits\nseeds: [0]\n"
        "networks: [resnet20, {}]\nvariants: [{{name: dense}}]\n"
    )
    file = Path("given.yaml")
    for model, args in STRANGE:
        if runs_user_code(model) or args:
            file.write_text(text.format(json.dumps({"model": model, "args": args})))
            for words in ([], ["--dry-run"]):
                assert model in refused(capsys, "study", "run", "given.yaml", *words)
    assert not Path("ran").exists()
    file.write_text(text.format("touching:net"))
    assert "say --trust" in refused(capsys, "study", "run", "given.yaml", "--dry-run")
    assert main(["study", "status", "given.yaml"]) == 0
    assert not Path("ran").exists()
    assert read_study(file, "touching:net") == read_study(file, trust=True)
    with pytest.raises(PrecropError, match="not run unasked"):
        read_study(file, "os:system")
    sys.modules.pop("touching", None)
    assert main(["study", "run", "given.yaml", "--dry-run", "--trust"]) == 0
    assert Path("ran").exists()


class Touching:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def test_pickles_of_a_stranger(capsys: Output) -> None:
    """Every command that takes weights reads tensors, and runs nothing."""
    precrop.plan(load_model("resnet20", {}), (3, 32, 32), params=0.5).save("half.json")
    torch.save({"state_dict": {"conv1.weight": Touching()}}, "given.pt")
    own, data = ["--model", "resnet20"], ["--data", "digits"]
    for words in (
        ["build", "half.json", *own],
        ["crop", "resnet20", "--params", "0.5"],
        ["export", "half.json", *own],
        ["eval", "half.json", *own, *data],
        ["recalibrate", "half.json", *own, *data, "-o", "out"],
        ["train", "resnet20", "-q", "--epochs", "1"],
    ):
        line = refused(capsys, *words, "--weights", "given.pt")
        assert "given.pt is not a plain state_dict: it holds code or objects" in line
    assert not Path("ran").exists()


def test_weights_of_a_stranger(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    resnet = ModelSpec("resnet20", {})
    export(resnet.build(), (3, 32, 32), path, "safetensors", origin=Origin(resnet))
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["precrop"])
    for model, args in STRANGE:
        text = json.dumps({**record, "name": model, "args": args})
        save_file(load_file(path), tmp_path / "given.safetensors", metadata={"precrop": text})
        with pytest.raises(PrecropError):
            load_safetensors(tmp_path / "given.safetensors")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "args",
    [
        {"num_classes": 7},
        {"drop_path_rate": 0.1, "global_pool": "avg", "act_layer": "gelu"},
        {"layers": [2, 2, 2], "use_checkpoint": False, "widths": (8, 16)},
        {"block_args": {"ratio": 0.5}, "aux": None},
    ],
)
def test_plain_arguments_are_taken(args: dict[str, Any]) -> None:
    check_named("timm:resnet18", args, False, "")


@pytest.mark.parametrize(
    "value",
    [
        "a/b",
        "a:b",
        "..",
        "\x1b[2J",
        "a b",
        "x" * 65,
        math.nan,
        math.inf,
        1e300,
        2**21,
        10**400,
        {1: 2},
        b"",
        ["x/y"],
        {"a": {"url": "x"}},
        {"not a name": 1},
        [0] * 1001,
        [[[[[[1]]]]]],
    ],
)
def test_what_is_no_plain_argument(value: Any) -> None:
    with pytest.raises(PrecropError, match="argument size of resnet20 is not taken from a file"):
        check_named("resnet20", {"size": value}, True, "")


@pytest.mark.parametrize(
    "args", [{"depth": 1001}, {"num_layers": 2**20}, {"layers": [2, 5000]}, {"widths": [2**15]}]
)
def test_sizes_that_would_take_memory_or_time(args: dict[str, Any]) -> None:
    with pytest.raises(PrecropError, match="is not taken from a file"):
        check_named("timm:resnet18", args, False, "")


@pytest.mark.parametrize("args", [{"widths": [2**14] * 65}, {"a": 2**20, "b": {"c": 1.5}}])
def test_sizes_that_add_up(args: dict[str, Any]) -> None:
    with pytest.raises(PrecropError, match="their numbers add up to more than 1,048,576"):
        check_named("timm:resnet18", args, False, "")


def test_a_factory_of_ones_own_gets_plain_arguments_from_a_file_unless_the_file_is_trusted() -> (
    None
):
    args = {"checkpoint": "/tmp/other.pt", "width": 8}
    said = "argument checkpoint of mine:net is not taken from .*, or trust the whole file"
    with pytest.raises(PrecropError, match=said):
        check_named("mine:net", args, "mine:net", "")
    check_named("mine:net", {"width": 8}, "mine:net", "")
    check_named("mine:net", args, True, "")


# --- what a plan's edits reach -------------------------------------------------------------------


class Inner(nn.Module):
    """Everything that an attribute path may run into."""

    shared: ClassVar = [1, 2]
    count = 3

    def __init__(self) -> None:
        super().__init__()
        self.width, self.flag, self.rate, self.name, self._private = 8, True, 0.5, "x", 7
        self.splits: list[Any] = [3, "x", 5, math.sqrt]
        self.shape = (1, 2)
        self._pairs = (("dim", 4),)
        self.config = {"dim": 4, "make": nn.Linear, "inner": {"dims": [1, 2]}}
        self.activation = torch.relu
        self.helper = nn.functional
        self.partial = functools.partial(filled, pad=3, mode="constant")
        self.nothing = None
        self.table = {"embed-dim": 4, "a.b": [{"dim": 4}], ("up", 0): 4, "embed_dim": "x"}
        self.counted, self.array = np.uint8(4), np.array([[1, 2], [3, 4]])
        self.helper_object, self.held_class = Helper(), Helper

    @property
    def made(self) -> int:
        """Of the class."""
        return 3


class Helper:
    """A thing that a module calls."""

    shared: ClassVar = [1, 2]

    def __init__(self) -> None:
        self.dim = 4

    def __call__(self) -> int:
        return self.dim

    @property
    def total(self) -> int:
        """Of the class."""
        return self.dim


def filled(x: torch.Tensor, pad: int, mode: str) -> torch.Tensor:
    """What a partial may hold."""
    return nn.functional.pad(x, [pad, pad], mode)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.blocks = nn.ModuleList([Inner(), nn.Linear(3, 4), nn.Conv2d(3, 4, 3, padding=1)])
        self.width = 8


EDITS = [
    ("", "width", 3),
    ("inner", "width", 12),
    ("blocks.1", "out_features", 2),
    ("blocks.2", "groups", 3),
    ("inner", "rate", 0.25),
    ("inner", "splits.0", 4),
    ("inner", "shape", (3, 4)),
    ("blocks.0", "shape.1", 7),
    ("inner", "config.dim", 2),
    ("inner", "config.inner.dims.1", 9),
    ("inner", "partial.pad", 2),
    ("inner", "_private", 12),
    ("inner", "_pairs.0.1", 5),
    ("inner", "count", 2),
    ("inner", "table.'embed-dim'", 6),
    ("inner", "table.'a\\x2eb'.0.dim", 6),
    ("inner", "table.('up', 0)", 6),
    ("inner", "counted", 6),
    ("inner", "array.3", 6),
    ("inner", "helper_object.dim", 6),
]
OUT = [
    ("", "named_parameters.__globals__.torch.sys.path", ["x"]),
    ("inner", "forward.__func__.__globals__.x", 1),
    ("inner", "__class__.count", 1),
    ("inner", "__dict__.width", 1),
    ("inner", "array", [1, 2, 3, 4]),
    ("inner", "array.4", 1),
    ("inner", "array.dtype", 1),
    ("inner", "counted", 300),
    ("inner", "counted.dtype", 1),
    ("inner", "table.embed-dim", 1),
    ("inner", "table.'a.b'.0.dim", 1),
    ("inner", "table.keys", 1),
    ("inner", "helper_object.__call__", 1),
    ("inner", "helper_object.total", 1),
    ("inner", "helper_object.shared.0", 1),
    ("inner", "held_class.dim", 1),
    ("inner", "partial.func", 1),
    ("inner", "partial.keywords.pad", 1),
    ("inner", "partial.mode", 1),
    ("inner", "shared.0", 1),
    ("inner", "made", 1),
    ("inner", "_parameters.x", 1),
    ("inner", "_is_full_backward_hook", 1),
    ("", "_modules.inner", 1),
    ("", "inner.width", 1),
    ("inner", "training", 1),
    ("inner", "flag", False),
    ("inner", "name", "y"),
    ("inner", "nothing", 1),
    ("inner", "activation", 1),
    ("inner", "helper.torch", 1),
    ("inner", "splits.1", 1),
    ("inner", "splits.3", 1),
    ("inner", "splits.-1", 1),
    ("inner", "splits.\u0660", 1),
    ("inner", "splits.append", 1),
    ("inner", "_pairs.0.0", 1),
    ("inner", "splits", [1, 2, 3, 4]),
    ("inner", "config.make", 1),
    ("inner", "config", {}),
    ("inner", "config.new", 1),
    ("inner", "shape", (1,)),
    ("inner", "shape", 1),
    ("inner", "width", 10**18),
    ("inner", "width", -1),
    ("inner", "width", True),
    ("inner", "width", 0.5),
    ("inner", "width", None),
    ("inner", "rate", math.nan),
    ("inner", "rate", math.inf),
    ("inner", "rate", 10**400),
    ("inner", "", 1),
    ("inner.", "width", 1),
    ("inner.made", "width", 1),
    ("inner.forward", "width", 1),
    ("blocks.__getitem__", "width", 1),
    ("blocks.2", "padding", (900, 900)),
    ("blocks.2", "padding.0", 900),
    ("blocks.2", "stride", (2, 2)),
]


@pytest.mark.parametrize("edit", EDITS, ids=str)
def test_edits_of_sizes_and_numbers(edit: tuple[str, str, Any]) -> None:
    model = Outer()
    apply_edits(model, [edit])
    assert get_attribute(model.get_submodule(edit[0]), edit[1]) == edit[2]


@pytest.mark.parametrize("edit", OUT, ids=str)
def test_edits_of_anything_else(edit: tuple[str, str, Any]) -> None:
    model, path = Outer(), list(sys.path)
    before = held(model)
    with pytest.raises(PlanError, match="the plan sets"):
        apply_edits(model, [edit])
    assert (held(model), sys.path, Inner.shared, Inner.count) == (before, path, [1, 2], 3)


def test_edits_of_one_number_do_not_add_up() -> None:
    """Each may make it 1,024 times larger: all refer to what the network holds."""
    model = Outer()
    apply_edits(model, [("", "width", 80), ("", "width", 800)])
    assert model.width == 800
    with pytest.raises(PlanError, match="the plan sets width"):
        apply_edits(Outer(), [("", "width", 8 * 1024), ("", "width", 8 * 1024 * 1024)])


def held(model: nn.Module) -> str:
    """All that the modules hold, in a form that can be compared."""
    return repr([(name, vars(module)) for name, module in model.named_modules()])


STEPS = st.sampled_from(
    [
        "",
        "inner",
        "blocks",
        "0",
        "1",
        "-1",
        "width",
        "splits",
        "config",
        "partial",
        "keywords",
        "func",
        "pad",
        "inner",
        "dims",
        "shape",
        "__class__",
        "__dict__",
        "__globals__",
        "__init__",
        "__func__",
        "__builtins__",
        "forward",
        "named_parameters",
        "torch",
        "sys",
        "path",
        "modules",
        "_modules",
        "_parameters",
        "_private",
        "_pairs",
        "training",
        "shared",
        "count",
        "counted",
        "array",
        "table",
        "'embed-dim'",
        "helper_object",
        "held_class",
        "dim",
        "made",
        "helper",
        "activation",
        "append",
        "update",
        "weight",
        "data",
    ]
)
VALUES = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.none(), st.text(), st.lists(st.integers())
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=4), st.lists(STEPS, min_size=1, max_size=6), VALUES)
def test_no_edit_gets_out(module: list[str], path: list[str], value: Any) -> None:
    """An edit either changes numbers that modules hold, as many as there were, or nothing."""
    model = Outer()
    outside: list[Any] = [
        sys.path,
        vars(nn.functional),
        vars(torch),
        Inner.__dict__,
        Helper.__dict__,
        nn.Module.__dict__,
    ]
    before = [copy.copy(x) if isinstance(x, (dict, list)) else dict(x) for x in outside]
    shared, plain = list(Inner.shared), numbers_to_zero(model)
    with contextlib.suppress(PlanError):
        apply_edits(model, [(".".join(module), ".".join(path), value)])
    for inner in (model.inner, model.blocks[0]):
        vars(inner).pop("count", None)  # one of the module's own hides that of the class
    after = [copy.copy(x) if isinstance(x, (dict, list)) else dict(x) for x in outside]
    assert all(a == b for a, b in zip(before, after, strict=True))
    assert Inner.shared == shared
    assert numbers_to_zero(model) == plain


def numbers_to_zero(model: nn.Module) -> Any:
    """What modules hold, with every number replaced by its type's zero."""
    return {name: zeroed(own_data(module)) for name, module in model.named_modules()}


def own_data(module: nn.Module) -> dict[str, Any]:
    bookkeeping = vars(nn.Module())
    return {n: repr(v) if n in bookkeeping else v for n, v in vars(module).items()}


def zeroed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: zeroed(item) for key, item in value.items()}
    if isinstance(value, functools.partial):
        return value.func, value.args, zeroed(value.keywords)
    if isinstance(value, (list, tuple)):
        return type(value)(map(zeroed, value))
    if isinstance(value, Helper):
        return zeroed(vars(value))
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape
    number: Callable[[Any], Any] = type(value)
    return number(0) if type(value) in (int, float, np.uint8) else value


# --- sizes that a plan makes up ------------------------------------------------------------------


@pytest.mark.parametrize(
    "tensors",
    [
        {"0.weight": (((8, 10**9),), 3, 3, 3)},
        {"0.weight": (((8, -4),), 3, 3, 3)},
        {"0.weight": (((4, 2),), 3, 3, 3)},
        {"0.weight": (((8, 4),), 3, 3)},
        {"0.weight": (8, 4, 3, 3)},
        {"0.weight": (((8, 8), (0, 5)), 3, 3, 3)},
        {"other": (((8, 4),),)},
        {"0.weight": (((8, 4),), 3, 3, 3)},
    ],
    ids=str,
)
def test_sizes_that_do_not_belong_together(tensors: Any) -> None:
    """Of a plan with the right digest; refused before memory is taken."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 10))
    plan = precrop.plan(model, (3, 8, 8), params=0.5)
    assert plan.build(model)(torch.zeros(1, 3, 8, 8)).shape == (1, 10)
    text = replace(plan, tensors={**plan.tensors, **tensors}).to_json()
    said = "as the network has it|parameters and builds|its sizes make no sense|weights are others"
    with pytest.raises(PlanError, match=said):
        Plan.from_json(text).build(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: {"base_params": plan.base_params + 1},
        lambda plan: {"params": plan.params - 1},
        lambda plan: {"base_macs": plan.base_macs - 1},
        lambda plan: {"macs": plan.macs - 1},
        lambda plan: {"budgets": {"params": replace(plan.budgets["params"], used=1)}},
        lambda plan: {"budgets": {"params": replace(plan.budgets["params"], base=10**6)}},
        lambda plan: {"layers": (replace(plan.layers[0], weights=1), *plan.layers[1:])},
        lambda plan: {"layers": (replace(plan.layers[0], base_weights=1), *plan.layers[1:])},
    ],
)
def test_counts_that_do_not_belong_together(change: Callable[[Plan], dict[str, Any]]) -> None:
    """Of a plan with the right digest: what is shown is what is built."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 10))
    plan = precrop.plan(model, (3, 8, 8), params=0.5, memory=0.9)
    text = replace(plan, **change(plan)).to_json()
    with pytest.raises(PlanError, match=r"miscounted|are others|parameters (and builds|of)|sum"):
        Plan.from_json(text).build(model)


@pytest.mark.parametrize("number", [10**400, -(10**30), "1e999", "NaN"])
def test_numbers_that_no_plan_has(number: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 10))
    text = precrop.plan(model, (3, 8, 8), params=0.5).to_json()
    with pytest.raises(PlanError):
        Plan.from_json(text.replace('"seconds":', f'"seconds": {number}, "before":'))
    content = json.loads(text)
    content.pop("digest")
    for name in ("params", "base_macs"):
        wrong = {**content, name: 10**30}
        with pytest.raises(PlanError, match=f"plan.{name} of this plan is broken"):
            Plan.from_json(json.dumps({"digest": digest(wrong), **wrong}))


@pytest.mark.parametrize("shape", [(3, 10**5, 10**6), [(3, 8, 8), (2**40,)], {"x": (2**20, 2**20)}])
def test_inputs_that_no_memory_holds(shape: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 10))
    plan = precrop.plan(model, (3, 8, 8), params=0.5)
    with pytest.raises(PlanError, match="input_shape of this plan is broken"):
        Plan.from_json(replace(plan, input_shape=shape).to_json())
