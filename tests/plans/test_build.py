"""Building: tensors are cut and filled by segments, other networks are refused."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import precrop
from precrop.errors import PlanError, PrecropError
from precrop.modules.streams import Stream
from precrop.plans.build import build, fan_scale, resize
from precrop.plans.kinds import INITS, Init
from precrop.read.unused import leave_out
from precrop.zoo import load_model
from tests.networks import SHAPE, small


def test_segments_keep_their_leading_entries() -> None:
    tensor = torch.arange(10.0)
    assert resize(tensor, [((4, 2), (6, 3))]).tolist() == [0, 1, 4, 5, 6]
    assert resize(tensor.view(2, 5), [2, ((5, 3),)]).tolist() == [[0, 1, 2], [5, 6, 7]]


def test_both_axes_at_once() -> None:
    tensor = torch.arange(12.0).view(3, 4)
    assert resize(tensor, [((3, 2),), ((2, 1), (2, 1))]).tolist() == [[0, 2], [4, 6]]


def test_vectors_repeat_what_they_have() -> None:
    tensor = torch.tensor([1.0, 2.0, 5.0])
    assert resize(tensor, [((2, 4), (1, 2))]).tolist() == [1, 2, 1, 2, 5, 5]
    assert resize(torch.tensor([7, 8]), [((2, 3),)]).tolist() == [7, 8, 7]


def test_weights_are_filled_with_noise_of_their_own_spread() -> None:
    torch.manual_seed(0)
    tensor = torch.randn(64, 32, 3, 3) * 0.02 + 0.5
    wider = resize(tensor, [((64, 128),), ((32, 64),), 3, 3])
    assert wider.shape == (128, 64, 3, 3)
    assert torch.equal(wider[:64, :32], tensor)
    new = wider[64:]
    assert new.std().item() == pytest.approx(0.02, rel=0.1)
    assert new.mean().item() == pytest.approx(0.5, rel=0.01)
    assert torch.equal(wider, resize(tensor, [((64, 128),), ((32, 64),), 3, 3]))


def test_new_channels_are_not_copies() -> None:
    torch.manual_seed(0)
    wider = resize(torch.randn(4, 6), [((4, 12),), 6])
    assert len({tuple(row.tolist()) for row in wider}) == 12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_types_stay(dtype: torch.dtype) -> None:
    assert resize(torch.ones(4, 4, dtype=dtype), [((4, 6),), ((4, 2),)]).dtype == dtype


def test_a_resized_tensor_owns_its_memory() -> None:
    tensor = torch.zeros(4, 4)
    resize(tensor, [((4, 2),), 4]).add_(1)
    assert tensor.sum() == 0


def test_scale_of_a_weight_follows_its_fan_in() -> None:
    axes = (((8, 2),), ((16, 4),), 3, 3)
    assert fan_scale(axes, "conv") == 2.0
    assert fan_scale(axes, "transposed") == 2.0
    assert fan_scale((((8, 2),), 16), "linear") == 1.0
    assert fan_scale((((8, 2),), 1, 3, 3), "depthwise") == 1.0


def test_built_weights_are_rescaled_slices() -> None:
    model = small("conv")
    plan = precrop.plan(model, SHAPE, params=0.5)
    built: Any = plan.build(model)
    old, new = model.blocks[0][0].weight, built.blocks[0][0].weight  # type: ignore[index]
    assert isinstance(old, torch.Tensor)
    scale = (old.shape[1] / new.shape[1]) ** 0.5
    assert torch.equal(new, old[: new.shape[0], : new.shape[1]] * scale)
    norm = built.blocks[0][1]
    assert (norm.weight == 1).all()
    assert norm.num_batches_tracked == 0


def test_reset_calls_the_modules_own_initialisers() -> None:
    model = small("conv")
    plan = precrop.plan(model, SHAPE, params=0.5)
    torch.manual_seed(1)
    one, two = plan.build(model, "reset"), plan.build(model, "reset")
    torch.manual_seed(1)
    same = plan.build(model, "reset")
    first, second, third = (net.state_dict()["stem.0.weight"] for net in (one, two, same))
    assert torch.equal(first, third)
    assert not torch.equal(first, second)
    assert first.shape == second.shape == plan.build(model).state_dict()["stem.0.weight"].shape


def test_unknown_init() -> None:
    model = small("conv")
    plan = precrop.plan(model, SHAPE, params=0.5)
    with pytest.raises(PrecropError, match="init='magic' is unknown: choose from slice, reset"):
        build(plan, model, "magic")  # type: ignore[arg-type]


def test_requires_grad_and_modes_stay() -> None:
    model = small("conv").eval()
    model.stem.requires_grad_(False)
    built: Any = precrop.plan(model, SHAPE, params=0.5).build(model)
    assert not built.training
    assert [p.requires_grad for p in built.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]


class FixedParts(nn.Module):
    """Filters, a norm and the lengths of a head's weights that no training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16).requires_grad_(False)
        self.blur = nn.Conv2d(16, 24, 3, bias=False).requires_grad_(False)
        self.mix, self.sums = nn.Conv2d(24, 24, 1), nn.Conv2d(24, 1, 1, bias=False)
        self.sums.weight.requires_grad_(False)
        self.register_buffer("kernel", torch.ones(1, 24, 1, 1))
        self.head = weight_norm(nn.Linear(24, 4, bias=False))
        lengths = self.get_parameter("head.parametrizations.weight.original0").requires_grad_(False)
        for fixed in (self.norm.running_var, self.blur.weight, self.sums.weight, lengths):
            assert isinstance(fixed, torch.Tensor)
            nn.init.constant_(fixed, 2)
        nn.init.constant_(self.norm.bias, 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mix(self.blur(self.norm(self.stem(x))))
        gate = self.sums(x) + nn.functional.conv2d(x, self.kernel)  # type: ignore[arg-type]
        return self.head((x * gate.sigmoid()).mean((2, 3)))


@pytest.mark.parametrize("init", INITS)
def test_what_is_not_trained_keeps_its_values(init: Init) -> None:
    """It is cropped as buffers are; for nothing would train other values."""
    torch.manual_seed(0)
    model = FixedParts()
    plan = precrop.plan(model, SHAPE, params=0.2, divisor=1)
    built: Any = plan.build(model, init)
    fixed = {n: p for n, p in built.named_parameters() if not p.requires_grad}
    assert fixed.keys() == {n for n, p in model.named_parameters() if not p.requires_grad}
    assert fixed["blur.weight"].shape < model.blur.weight.shape
    assert fixed["sums.weight"].shape == built.kernel.shape < model.sums.weight.shape
    values = {name: set(tensor.flatten().tolist()) for name, tensor in fixed.items()}
    assert values["norm.weight"] == {1}
    assert values["norm.bias"] == {0.5}
    assert {tuple(values[n]) for n in values if not n.startswith("norm")} == {(2,)}
    assert set(built.norm.running_var.tolist()) == {2}  # its statistics are the norm's, too
    assert plan.solver["untrained"] == ["blur", "sums"]
    assert "Cropped, though not trained (requires_grad): blur, sums" in str(plan)
    built(torch.rand(2, *SHAPE)).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in built.parameters())


def test_a_network_that_is_frozen_as_a_whole_is_built_as_if_it_were_trained() -> None:
    model = small("conv")
    plan = precrop.plan(model, SHAPE, params=0.5)
    trained = plan.build(model).state_dict()
    frozen = plan.build(model.requires_grad_(False)).state_dict()
    assert all(torch.equal(trained[name], frozen[name]) for name in trained)
    torch.manual_seed(1)
    again = plan.build(model, "reset").state_dict()
    torch.manual_seed(1)
    model.requires_grad_(True)
    assert all(torch.equal(again[n], t) for n, t in plan.build(model, "reset").state_dict().items())


def test_built_tensors_are_the_networks_own() -> None:
    """Even those that keep their size: training the crop leaves the original as it was."""
    model = small("conv")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    built = precrop.plan(model, SHAPE, params=0.9).build(model)
    with torch.no_grad():
        for tensor in (*built.parameters(), *built.buffers()):
            tensor.zero_()
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_built_on_meta() -> None:
    model = small("conv")
    plan = precrop.plan(model, SHAPE, params=0.5)
    with torch.device("meta"):
        empty = small("inception")
    assert precrop.plan(empty, SHAPE, params=0.5).build(empty).state_dict()["stem.0.weight"].is_meta
    built = plan.build(model.to("meta"))
    assert sum(p.numel() for p in built.parameters()) == plan.params


def test_a_plan_for_another_network_names_what_differs() -> None:
    plan = precrop.plan(small("conv", 16, 24), SHAPE, params=0.5)
    with pytest.raises(PlanError) as caught:
        plan.build(small("conv", 16, 20))
    message = str(caught.value)
    assert "blocks.0.0.weight is 20x16x3x3, planned for 24x16x3x3" in message
    assert message.endswith("more")
    assert "\n" not in message


def test_followers_that_are_no_modules_are_refused() -> None:
    model = small("conv")
    plan = precrop.plan(model, SHAPE, params=0.5)
    odd = replace(plan, followers={f"stem.{n}": "stem" for n in range(10, 60)})
    with pytest.raises(PlanError, match="has a follower 'stem.*', which is not a module"):
        odd.build(model)


def test_a_cropped_network_is_not_cropped_again() -> None:
    model = small("conv")
    plan = precrop.plan(model, SHAPE, params=0.5)
    with pytest.raises(PlanError, match="cropped by the plan already: give the original"):
        plan.build(plan.build(model))


def test_a_plan_for_a_network_of_other_layers() -> None:
    plan = precrop.plan(small("conv"), SHAPE, params=0.5)
    with pytest.raises(PlanError, match=r"it has no blocks\.0\.0\.weight, planned for 24x16x3x3"):
        plan.build(small("inception"))


def test_another_instance_of_the_same_network() -> None:
    plan = precrop.plan(small("hierarchy"), SHAPE, params=0.5)
    other = small("hierarchy")
    nn.init.zeros_(other.stem[0].weight)  # type: ignore[index]
    built = plan.build(other)
    assert built.state_dict()["stem.0.weight"].abs().sum() == 0


@pytest.mark.parametrize("path", ["", "nope", "0.nope"])
def test_modules_that_the_network_does_not_have(path: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    plan = precrop.plan(model, (3, 8, 8), params=0.5, divisor=1)
    changes: list[dict[str, Any]] = [
        {"left_out": (path,)},
        {"streams": (Stream(path, "write", 1, 8),)},
        {"left_out": ("0",), "streams": (Stream("0", "write", 1, 8),)},
    ]
    for change in changes:
        with pytest.raises(PlanError, match="which is not a module|network does not have"):
            replace(plan, **change).build(model)


def test_what_is_left_out_may_lie_in_what_is_left_out() -> None:
    model = nn.Sequential(nn.Sequential(nn.ReLU()), nn.ReLU())
    leave_out(model, ["0", "0.0", "0"])
    assert not list(model[0].children())


@pytest.mark.parametrize("value", [1.5, 1e300])
def test_an_edit_of_what_the_original_does_not_have(value: float) -> None:
    """A stream's hooks are in the built network alone."""
    model = load_model("resnet20", {})
    plan = precrop.plan(model, (3, 32, 32), params=0.5, residual="crop")
    path, name = next((path, name) for path, name, _ in plan.attributes if "stream" in name)
    edits = ((path, name, value), *plan.attributes, ("nowhere", "scale", value))
    for edit in (edits[0], edits[-1]):
        with pytest.raises(PlanError, match=f"the plan sets {edit[0]}.{edit[1]}") as told:
            build(replace(plan, attributes=(*plan.attributes, edit)), model)
        assert "\n" not in str(told.value)


class Momentum(nn.Module):
    """An encoder and a copy of it that follows as its moving average, as MoCo has."""

    def __init__(self) -> None:
        super().__init__()
        convs = nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 32, 3)
        self.query = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.key = copy.deepcopy(self.query).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.query(x) * self.key(x)).sum(1)


def test_a_momentum_encoder_remains_a_copy() -> None:
    model = Momentum()
    plan = precrop.plan(model, (3, 8, 8), params=0.5)
    built: Any = plan.build(model)
    assert built.query[0].out_channels < 24
    assert not plan.frozen
    for trained, average in zip(built.query.parameters(), built.key.parameters(), strict=True):
        assert torch.equal(trained, average)
        assert not average.requires_grad
