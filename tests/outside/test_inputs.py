"""Inputs as people have them: examples of every kind, with and without a batch."""

import collections
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.cli.app import main
from precrop.errors import PrecropError
from precrop.plans.plan import Plan
from precrop.read.inputs import Inputs
from precrop.read.lower import lower
from precrop.read.network import read_network
from tests.planning import counted_params
from tests.versions import needs_torch

IMAGES = torch.randn(4, 3, 12, 12)
IDS = torch.randint(1, 50, (4, 20))


class Words(nn.Module):
    """Token ids, a flag for each, and a number by name."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.conv = nn.Embedding(50, 48), nn.Conv1d(48, 48, 3)
        self.head = nn.Linear(48, 10)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        y = self.conv(self.table(input_ids).transpose(1, 2)).mean(2)
        if attention_mask is not None:
            y = y * attention_mask.to(y.dtype).mean(1, keepdim=True)
        return self.head(y * scale)


class Pictures(nn.Module):
    """One argument: a picture, or any container with some."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Linear(32, 10)

    def forward(self, batch: Any) -> Tensor:
        parts = batch if isinstance(batch, list | tuple) else [self.image(batch)]
        return torch.stack([self.head(self.b(self.a(x)).mean((2, 3))) for x in parts]).sum(0)

    @staticmethod
    def image(batch: Any) -> Any:
        """The picture in a batch."""
        if isinstance(batch, Tensor):
            return batch
        return batch["image"] if isinstance(batch, dict) else batch.image


class Encoding(collections.UserDict[str, Any]):
    """A mapping whose entries are attributes too, as tokenizers return."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclasses.dataclass
class Sample:
    """A batch as a dataclass."""

    image: Tensor
    name: str = "x"


@pytest.mark.parametrize(
    ("kind", "example", "named", "shape"),
    [
        (Words, IDS, None, None),
        (Words, (IDS, IDS > 3), {"scale": 0.5}, None),
        (Words, {"input_ids": IDS, "attention_mask": IDS > 3}, None, None),
        (Words, Encoding(input_ids=IDS, attention_mask=torch.ones_like(IDS)), None, None),
        (Words, None, {"input_ids": IDS, "scale": 2}, None),
        (Words, IDS.int().numpy(), None, None),
        (Pictures, IMAGES, None, (3, 12, 12)),
        (Pictures, {"image": IMAGES}, None, {"image": (3, 12, 12)}),
        (Pictures, ({"image": IMAGES},), None, [{"image": (3, 12, 12)}]),
        (Pictures, [IMAGES, IMAGES], None, [[(3, 12, 12), (3, 12, 12)]]),
        (Pictures, {"batch": (IMAGES, IMAGES)}, None, {"batch": [(3, 12, 12), (3, 12, 12)]}),
        (Pictures, Encoding(image=IMAGES), None, None),
        (Pictures, Sample(IMAGES), None, None),
        (Pictures, IMAGES.double().float().numpy(), None, (3, 12, 12)),
        (Pictures, IMAGES.to("meta"), None, (3, 12, 12)),
    ],
)
def test_examples_of_every_kind(
    kind: type[nn.Module], example: Any, named: Any, shape: Any
) -> None:
    model = kind()
    plan = precrop.plan(model, example_inputs=example, example_kwargs=named, params=0.5, macs=0.5)
    assert max(plan.params / plan.base_params, plan.macs / plan.base_macs) > 0.46
    assert counted_params(plan.build(model)) == plan.params
    if named is None and not isinstance(example, list):
        assert precrop.plan(model, example, params=0.5, macs=0.5).widths == plan.widths
    if shape is not None:
        by_shape = precrop.plan(model, shape, params=0.5, macs=0.5)
        assert (by_shape.widths, by_shape.base_macs) == (plan.widths, plan.base_macs)
    # The file tells the inputs without their classes, and the network runs on what it tells.
    again = Plan.from_json(plan.to_json())
    assert again == plan
    read = read_network(model, Inputs(again.input_shape))
    structure = lower(read).structure
    assert structure.costs["macs"](structure.units) == plan.base_macs
    assert json.loads(plan.to_json())["input_shape"]["example"]


def macs_of(model: nn.Module, example: Any) -> int:
    """MACs of the original as a plan counts them."""
    return precrop.plan(model, example_inputs=example, params=1.0).base_macs


class Last(nn.Module):
    """A sequence layer, and what it puts out for every step."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.stem, self.layer, self.head = nn.Linear(16, 32), layer, nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(self.stem(x))
        return self.head(y[0] if isinstance(y, tuple) else y)


def test_macs_are_those_of_one_input_whatever_the_batch() -> None:
    model = Pictures()
    one = precrop.plan(model, (3, 12, 12), params=1.0).base_macs
    for batch in (1, 2, 5):
        assert macs_of(model, torch.randn(batch, 3, 12, 12)) == one
    assert macs_of(Words(), IDS) == macs_of(Words(), IDS[:1])
    steps, batch = 9, 5
    for layer in (nn.LSTM(32, 32), nn.TransformerEncoderLayer(32, 4, 64)):
        first = macs_of(Last(layer), torch.randn(steps, batch, 16))
        layer.batch_first = True
        if isinstance(layer, nn.TransformerEncoderLayer):
            layer.self_attn.batch_first = True
        assert first == macs_of(Last(layer), torch.randn(batch, steps, 16))
        assert first == macs_of(Last(layer), torch.randn(1, steps, 16))


def test_inputs_without_a_batch() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 10, 3))
    plan = precrop.plan(model, example_inputs=torch.randn(3, 16, 16), params=0.5)
    assert plan.base_macs == precrop.plan(model, (3, 16, 16), params=0.5).base_macs
    assert plan.build(model)(torch.randn(3, 16, 16)).shape == (10, 12, 12)
    with pytest.raises(PrecropError, match="batch_size=2: the example inputs have no batch axis"):
        precrop.plan(
            model, example_inputs=torch.randn(3, 16, 16), params=0.5, memory=1.0, batch_size=2
        )


class Graph(nn.Module):
    """Nodes and an adjacency matrix: nothing in it is a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        y = edges @ self.a(x).relu()
        return self.head(edges @ self.b(y).relu())


def test_a_graph_is_one_input() -> None:
    plan = precrop.plan(Graph(), (torch.randn(7, 16), torch.rand(7, 7)), params=0.5)
    (x, edges), _ = Inputs(plan.input_shape).make(5, Graph(), "cpu")
    assert (x.shape, edges.shape) == ((7, 16), (7, 7))
    assert plan.base_macs == 7 * (16 * 32 + 32 * 32 + 32 * 4) + 2 * 7 * 7 * 32


def test_types_are_those_of_the_example() -> None:
    example = (torch.ones(2, 3, dtype=torch.float64), torch.ones(2, dtype=torch.int16), True, None)
    args, named = Inputs(example=example, named={"k": [1, "a"]}).make(3, nn.Linear(1, 1), "cpu")
    assert [t.dtype for t in args[:2]] == [torch.float64, torch.int16]
    assert [tuple(t.shape) for t in args[:2]] == [(3, 3), (3,)]
    assert (args[2:], named) == ([True, None], {"k": [1, "a"]})
    large = Inputs(example=torch.randint(5, 90, (2, 100)))
    ((made,), _) = Inputs(large.spec).make(1, nn.Linear(1, 1), "cpu")
    assert (made.dtype, made.shape) == (torch.int64, (1, 100))
    assert 5 <= int(made.min()) <= 90


def test_the_example_stays_as_it_was() -> None:
    example = {"image": IMAGES.clone().requires_grad_()}
    precrop.plan(Pictures(), example_inputs=example, params=0.5)
    assert torch.equal(example["image"], IMAGES)
    assert example["image"].requires_grad


def test_other_functions_take_examples() -> None:
    model, example = Pictures(), {"image": IMAGES}
    small = precrop.crop(model, example_inputs=example, params=0.5)
    assert small(example).shape == (4, 10)
    found = precrop.densities(model, example_inputs=example, params=0.5)
    assert found == precrop.densities(model, [{"image": (3, 12, 12)}], params=0.5)
    assert precrop.scores(model, example_inputs=example, method="magnitude", params=0.5)
    assert precrop.synexp(model, example_inputs=IMAGES) == precrop.synexp(model, (3, 12, 12))
    assert precrop.expected_output(model, IMAGES) == precrop.expected_output(model, (3, 12, 12))


class Named(Pictures):
    """Takes two inputs by name."""

    def forward(self, image: Tensor, meta: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(image) + meta.sum()


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (Pictures, {"input_shape": (3, 12, 12)}, "Pictures is a class, not a network: make one"),
        ("resnet18", {"input_shape": (3, 12, 12)}, r"torchvision.models.resnet18\(\)"),
        ({"a": 1}, {"input_shape": (3, 12, 12)}, "is not a network: give an instance"),
        (Pictures(), {"input_shape": (1, 3, 12, 12)}, r"without the batch, \(3, 12, 12\)"),
        (Pictures(), {"input_shape": IMAGES, "example_inputs": IMAGES}, "not both"),
        (
            Pictures(),
            {"input_shape": (3, 12, 12), "example_kwargs": {"image": IMAGES}},
            "give input_shape or example_kwargs=, not both",
        ),
        (
            Named(),
            {"input_shape": {"image": (3, 12, 12), "metta": (4,)}},
            "forward has no argument 'metta': its arguments are image, meta",
        ),
        (Pictures(), {}, "input_shape None is not a shape.*example_inputs="),
        (Pictures(), {"example_kwargs": 3}, "example_kwargs=3 is not a mapping"),
        (
            Pictures(),
            {"example_inputs": (IMAGES for _ in range(1))},
            "an input of type generator cannot be copied",
        ),
        (Pictures(), {"example_kwargs": {"y": IMAGES}}, "network fails on input 4x3x12x12"),
        pytest.param(
            Words(),
            {"input_shape": (20,)},
            "example_inputs= takes tensors of any type",
            marks=needs_torch("2.13", "embeddings take floats on meta tensors"),
        ),
        *(
            (Pictures(), {"input_shape": shape}, "is not a shape")
            for shape in ((3, 10**30, 8), (3, -1, 8), (3, float("nan"), 8), (3, True), "3x8x8", 7)
        ),
    ],
)
def test_mistakes_are_one_line(model: Any, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(PrecropError, match=message) as caught:
        precrop.plan(model, params=0.5, **inputs)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "os.system"},
        {"shape": [3, -1]},
        {"shape": [2**40, 2**40]},
        {"batch": 7},
        {"batch": "a"},
        {"values": [1, 2]},
        {"values": {"a": 1}},
    ],
)
def test_records_of_inputs_that_are_broken(change: dict[str, Any]) -> None:
    record = {"shape": [2, 3], "dtype": "int64", "batch": 0, "values": 1, **change}
    with pytest.raises(PrecropError, match="not a record of an input"):
        Inputs({"example": {"args": [["tensor", record]], "kwargs": {}}})
    for spec in (3, {"args": 3, "kwargs": {}}, {"args": [["x", 1]], "kwargs": {}}, {"args": [1]}):
        with pytest.raises(PrecropError, match="record"):
            Inputs({"example": spec})


def test_example_inputs_in_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "shop.py").write_text(
        "import torch\nfrom tests.outside.test_inputs import Words\n"
        "def words(): return {'input_ids': torch.ones(2, 20, dtype=torch.long)}\n"
    )
    words = ["plan", "shop:Words", "--input", "shop:words", "--params", "0.5"]
    assert main([*words, "-o", "half.json"]) == 0
    plan = Plan.load("half.json")
    assert plan.budgets["params"].used <= 0.5 * plan.base_params
    assert main(["crop", *words[1:], "-o", "half"]) == 0
    assert main(["densities", "shop:Words", "--input", "shop:words", "--params", "0.5"]) == 0
    capsys.readouterr()
    assert main([*words, "--input-shape", "20"]) == 2
    assert "goes without --input-shape" in capsys.readouterr().err
    assert main(["plan", "resnet20", "--input", "20", "--params", "0.5"]) == 2
    assert "--input is like module:factory" in capsys.readouterr().err


def test_arrays_are_tensors() -> None:
    inputs = Inputs(np.ones((2, 5), dtype=np.int32))
    ((made,), _) = inputs.make(1, nn.Linear(1, 1), "cpu")
    assert (made.dtype, tuple(made.shape)) == (torch.int32, (1, 5))


def test_an_exported_network_is_given_a_batch_as_it_was_exported_for() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    images = torch.zeros(2, 3, 8, 8)
    exported = torch.export.export(layers.eval(), (images,)).module()
    message = r"batches of 2: give example_inputs=torch.randn\(2"
    with pytest.raises(PrecropError, match=message) as caught:
        precrop.plan(exported, (3, 8, 8), params=0.5)
    assert "\n" not in str(caught.value)
    with pytest.raises(PrecropError, match=message):
        precrop.plan(exported, example_inputs=images[:1], params=0.5)
    plan = precrop.plan(exported, example_inputs=images, params=0.5)
    assert plan.build(exported)(images).shape == (2, 4, 4, 4)
    assert plan.params < plan.base_params
