"""Fitting: sizes that modules state are found by probing, and what cannot be found is held."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.errors import PlanError
from precrop.fit.attributes import apply_edits, get_attribute, integers, set_attribute
from precrop.fit.fitting import Fitter
from precrop.fit.lessons import Lessons
from precrop.read.inputs import Inputs
from precrop.read.lower import lower
from precrop.read.network import read_network
from tests.networks import SHAPE, Checked, Hierarchy, Mixed, Net, conv, small
from tests.planning import counted_params


def halved(model: nn.Module) -> tuple[Any, dict[str, Any]]:
    """A network at half its parameters, and the attributes that were set in it."""
    plan = precrop.plan(model, SHAPE, params=0.5)
    built = plan.build(model)
    built.eval()(torch.randn(2, *SHAPE))
    assert counted_params(built) == plan.params
    return built, {f"{path}.{name}": value for path, name, value in plan.attributes}


class Stated(nn.Module):
    """Any way to state a size of the 12 channels between two convolutions."""

    width: int
    part: int
    channels: int
    splits: Any
    shape: Any

    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        self.first, self.second = conv(3, 12), conv(12, 12)
        self.head = nn.Linear(12, 5)
        for name, size in sizes.items():
            setattr(self, name, size)

    def change(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.change(self.first(x)))
        return self.head(x.mean((2, 3)))


class Width(Stated):
    def change(self, x: Tensor) -> Tensor:
        return x.view(-1, self.width, 8, 8)


class Half(Stated):
    def change(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, self.width // 2 :], x[:, : self.width // 2]], 1)


class Part(Stated):
    def change(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, -self.part :], x[:, : -self.part]], 1)


class Splits(Stated):
    def change(self, x: Tensor) -> Tensor:
        return torch.cat(x.split(self.splits, 1), 1)


class Equal(Stated):
    def change(self, x: Tensor) -> Tensor:
        return torch.stack(x.split(self.width, 1), 2).flatten(1, 2)


class Times(Stated):
    def change(self, x: Tensor) -> Tensor:
        rows = x.reshape(x.shape[0], 2 * self.width, 2, 8, 8)
        return rows.sum(2).repeat(1, 2, 1, 1)


class Narrowed(Stated):
    def change(self, x: Tensor) -> Tensor:
        return x.narrow(1, 0, self.channels)


class Formatted(Stated):
    def change(self, x: Tensor) -> Tensor:
        return x.reshape(self.shape)


class Folded(Stated):
    """Both sizes into which an axis is split are stated, and checked: neither moves alone."""

    def __init__(self) -> None:
        super().__init__(part=4, width=4)
        self.first, self.second = conv(3, 16), conv(16, 12)

    def change(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.part * self.width:
            raise ValueError(f"{x.shape[1]} channels are not {self.part} times {self.width}")
        return x.view(-1, self.part, self.width, 8, 8).flip(2).flatten(1, 2)


@pytest.mark.parametrize(
    ("model", "attribute", "share"),
    [
        (Width(width=12), "width", 1.0),
        (Half(width=12), "width", None),
        (Part(part=4), "part", None),
        (Splits(splits=[4, 8]), "splits.0", None),
        (Splits(splits=(4, 6, 2)), "splits.2", None),
        (Equal(width=6), "width", 0.5),
        (Equal(width=4), "width", 1 / 3),
        (Times(width=3), "width", 0.25),
        (Narrowed(channels=12), "channels", 1.0),
        (Formatted(shape=(-1, 12, 8, 8)), "shape.1", 1.0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_stated_sizes_follow(model: nn.Module, attribute: str, share: float | None) -> None:
    """The attribute is set and the layer is narrower; nothing else was frozen for it."""
    before = get_attribute(model, attribute)
    built, edits = halved(model)
    width = built.first[0].out_channels
    assert width < 12
    assert get_attribute(model, attribute) == before
    assert edits[f".{attribute}"] == get_attribute(built, attribute) < before
    if share is not None:
        assert get_attribute(built, attribute) == share * width


def test_two_equal_sizes_whose_product_is_checked() -> None:
    """The one that varies is set, not the first that makes the product right."""
    built, edits = halved(Folded())
    assert built.part * built.width == built.first[0].out_channels < 16
    assert edits.keys() & {".part", ".width"} == {".width"}


def test_width_of_a_hierarchy() -> None:
    """Res2Net: one stored width that splits, convolutions of that width."""
    model = Net(conv(3, 16), [Hierarchy(16, 24), Hierarchy(24, 30)], small("conv", 16, 30).head)
    built, edits = halved(model)
    for block in built.blocks:
        assert block.conv1[0].out_channels == 3 * block.width
        assert block.convs[0][0].in_channels == block.width
    assert {"blocks.0.width", "blocks.1.width"} <= set(edits)


def test_list_of_splits() -> None:
    """MixNet: every entry of the list is a width of its own."""
    built, _ = halved(Net(conv(3, 16), [Mixed(16, 24)], small("conv", 16, 24).head))
    block = built.blocks[0]
    assert block.splits == [layer[0].groups for layer in block.convs]
    assert sum(block.splits) == block.expand[0].out_channels < 24


def test_what_one_module_teaches_holds_for_its_class() -> None:
    model = Net(conv(3, 16), [Hierarchy(16, 18), Hierarchy(18, 18)], small("conv", 16, 18).head)
    network = read_network(model, Inputs(SHAPE))
    lowered = lower(network)
    structure, lessons = lowered.structure, Lessons(network)
    fitter = Fitter(lowered.network, lessons)
    fit = fitter.fit(lowered.sizes([max(1, n // 2) for n in structure.units]))
    assert fit.mismatch is None
    assert [rule.driver for rule in lessons.rules] == ["width"]
    again = fitter.fit(lowered.sizes([max(1, n // 3) for n in structure.units]))
    assert again.mismatch is None
    assert len(lessons.rules) == 1


def test_an_assertion_on_a_stored_size() -> None:
    """Its module may keep its widths, but the network is never built wrong."""
    model = Net(
        conv(3, 12), [conv(12, 12), Checked(12, 12), conv(12, 12)], small("conv", 12, 12).head
    )
    built, _ = halved(model)
    assert built.blocks[1].inputs == built.blocks[1].conv[0].in_channels
    assert built.blocks[0][0].in_channels < 12


class Stale(Stated):
    """A slice beyond the end does not raise: only the comparison of traces shows it."""

    def change(self, x: Tensor) -> Tensor:
        return x * x[:, :10].mean(1, keepdim=True)


def test_a_stale_slice_is_caught() -> None:
    plan = precrop.plan(Stale(), SHAPE, params=0.6)
    assert plan.widths["first.0"][1] >= 10
    built: Any = plan.build(Stale())
    assert built.change(torch.ones(1, 12, 1, 1)).shape == (1, 12, 1, 1)


def test_a_number_in_code_that_no_attribute_holds() -> None:
    class Fixed(Stated):
        def change(self, x: Tensor) -> Tensor:
            return x.view(-1, 12, 8, 8)

    plan = precrop.plan(Fixed(), SHAPE, params=0.6)
    assert plan.widths["first.0"][1] == 12
    assert "view" in plan.frozen["first.0"]
    assert plan.widths["second.0"][1] < 12


def test_full_width_needs_no_edit() -> None:
    network = read_network(small("hierarchy"), Inputs(SHAPE))
    lowered = lower(network)
    sizes = lowered.sizes(lowered.structure.units)
    fit = Fitter(lowered.network, Lessons(network)).fit(sizes)
    assert (fit.tensors, fit.edits, fit.mismatch) == ({}, [], None)


def test_attributes_of_pytorch_layers_follow() -> None:
    for name in ("layer norm", "group norm", "instance norm", "depthwise", "torch attention"):
        built, _ = halved(small(name))
        for module in built.modules():
            weight = getattr(module, "weight", None)
            if isinstance(module, nn.Conv2d):
                assert weight is not None
                inputs = weight.shape[1] * module.groups
                assert (module.in_channels, module.out_channels) == (inputs, len(weight))
            elif isinstance(module, nn.LayerNorm):
                assert module.normalized_shape == tuple(module.weight.shape)
            elif isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d)):
                assert module.num_features == len(module.weight)
            elif isinstance(module, nn.GroupNorm):
                assert module.num_channels == len(module.weight)
            elif isinstance(module, nn.PReLU):
                assert module.num_parameters == len(module.weight)
            elif isinstance(module, nn.Linear):
                assert (module.out_features, module.in_features) == tuple(module.weight.shape)
            elif isinstance(module, nn.MultiheadAttention):
                assert module.embed_dim == module.head_dim * 2 == module.kdim


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width, self.flag, self.rate = 8, True, 0.5
        self.splits, self.pair = [3, "x", 5], (1, 2)
        self.info: list[dict[str, Any]] = [{"num_chs": 4}]
        self._private = 7


def test_integers_of_a_module() -> None:
    found = dict(integers(Holder()))
    assert found["width"] == 8
    assert (found["splits.0"], found["splits.2"], found["pair.1"]) == (3, 5, 2)
    assert found["_private"] == 7
    assert not {"flag", "rate", "training"} & set(found)


@pytest.mark.parametrize(
    ("path", "value"), [("width", 9), ("splits.2", 1), ("pair.0", 6), ("info.0.num_chs", 2)]
)
def test_attributes_are_set_by_path(path: str, value: int) -> None:
    holder = Holder()
    set_attribute(holder, path, value)
    assert get_attribute(holder, path) == value
    assert type(holder.pair) is tuple


@pytest.mark.parametrize("edit", [("", "depth", 3), ("inner", "width", 3), ("", "splits.9", 1)])
def test_an_edit_of_what_is_not_there(edit: tuple[str, str, int]) -> None:
    with pytest.raises(PlanError, match="which this network does not have"):
        apply_edits(Holder(), [edit])
