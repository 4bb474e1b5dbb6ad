"""How long tensors live, against what PyTorch's allocator really did."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from precrop.costs.batches import follow
from precrop.errors import PrecropError
from precrop.models import cifar_mobilenet_v2, cifar_vgg16_bn, resnet20
from precrop.read.inputs import Inputs
from precrop.read.lifetimes import INPUT, Lifetimes
from precrop.read.network import read_network
from tests.costs.allocations import allocated_peak, tensor_peak
from tests.networks import BLOCKS, SHAPE, assemble, small

SCALAR = 8
"""Bytes of the tensor that PyTorch makes of a Python number in a sum or product."""

KERNEL = "torch attention"
"""A block that PyTorch may run as one operation, which the allocator sees but no reading."""


def lives(model: nn.Module, shape: Any = SHAPE, batch: int = 1) -> Lifetimes:
    return follow(read_network(model, Inputs(shape)), batch)[1]


def peak(found: Lifetimes) -> int:
    """The largest sum of storages, from births and deaths alone."""
    changes = []
    for call in range(INPUT, len(found.sizes)):
        changes += [x.elements * x.bytes for x in found.lives if x.call == call]
        changes += [-x.elements * x.bytes for x in found.lives if x.last == call]
    assert sum(changes) == 0
    assert found.peak == max(accumulate(changes, initial=0))
    return found.peak


def assert_as_allocated(model: nn.Module, shape: Any, batch: int) -> None:
    real = allocated_peak(model, shape, batch)
    assert real - SCALAR <= peak(lives(model, shape, batch)) <= real


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("block", sorted(set(BLOCKS) - {KERNEL}))
def test_every_construction(block: str, batch: int) -> None:
    assert_as_allocated(small(block), SHAPE, batch)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_attention_holds_no_table_of_weights(dtype: torch.dtype, batch: int) -> None:
    model, plain = small(KERNEL).to(dtype), F.scaled_dot_product_attention
    assert peak(lives(model, SHAPE, batch)) == tensor_peak(model, SHAPE, batch)
    assert F.scaled_dot_product_attention is plain


@pytest.mark.parametrize("head", ["pool", "flatten", "conv", "prototypes"])
@pytest.mark.parametrize("output", ["tensor", "tuple", "dict"])
def test_every_head_and_output(head: str, output: str) -> None:
    model = assemble([("residual", 8), ("dense", 8)], head=head, output=output)
    assert_as_allocated(model, SHAPE, 3)


@pytest.mark.parametrize(
    ("build", "batch"),
    [
        (resnet20, 1),
        (resnet20, 3),
        (cifar_vgg16_bn, 3),
        (cifar_mobilenet_v2, 1),
        (torchvision.models.densenet121, 1),
        (torchvision.models.densenet121, 3),
    ],
)
def test_whole_networks(build: Callable[[], nn.Module], batch: int) -> None:
    size = 64 if build is torchvision.models.densenet121 else 32
    assert_as_allocated(build(), (3, size, size), batch)


class Keeping(nn.Module):
    """Keeps a map in an attribute until the next pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.first(x)
        y = self.second(self.seen)
        return self.second(self.first(x) + 1.0) + y


class Noisy(nn.Module):
    """Draws a number in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) * torch.rand(1))


def test_numbers_are_not_drawn_from_the_process() -> None:
    model, before = Noisy(), torch.get_rng_state()
    lives(model)
    assert torch.equal(torch.get_rng_state(), before)


class Several(nn.Module):
    """Two inputs of different sizes; one of them may be given by name."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.hint = nn.Conv2d(3, 8, 3), nn.Linear(5, 8)

    def forward(self, image: Tensor, hint: Tensor) -> Tensor:
        return F.relu(self.image(image)) * self.hint(hint)[:, :, None, None]


class Placed(nn.Module):
    """Makes tensors of its own, and detaches one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        places = torch.arange(y.shape[-1], device=x.device, dtype=x.dtype)
        return y * places.detach() + torch.zeros(x.shape[0], 1, 7, 7, device=x.device)


class Chosen(nn.Module):
    """Asks for values: it can only be read on real tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        rows = (y.mean((1, 2, 3)) > -100).nonzero().flatten()
        return self.head(y[rows].mean((2, 3)))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (Keeping, (3, 16, 16)),
        (Several, [(3, 9, 9), (5,)]),
        (Several, {"image": (3, 9, 9), "hint": (5,)}),
        (Placed, (3, 9, 9)),
        (Chosen, (3, 9, 9)),
    ],
)
def test_special_networks(build: Callable[[], nn.Module], shape: Any, batch: int) -> None:
    assert_as_allocated(build(), shape, batch)


class Steps(nn.Module):
    """Few calls whose storages are easily followed by hand."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2.0  # call 0
        z = y.flatten(1)  # call 1, a view
        y = y + 1.0  # call 2; the product lives on in z
        y.relu_()  # call 3
        z = z.sum(1)  # call 4; now the product dies
        return z + y.mean()  # calls 5, 6


def test_by_hand() -> None:
    found = lives(Steps(), (2, 3), batch=4)
    seen = [(life.call, life.last, life.elements, life.bytes) for life in found.lives]
    assert seen == [
        (INPUT, 6, 24, 4),
        (0, 4, 24, 4),
        (2, 6, 24, 4),
        (4, 6, 4, 4),
        (5, 6, 1, 4),
        (6, 6, 4, 4),
    ]
    assert found.sizes == [(24,), (24,), (24,), (24,), (4,), (1,), (4,)]


def test_parameters_and_buffers_are_not_counted() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1000), nn.BatchNorm1d(1000))
    assert peak(lives(model, (4,))) == 4 * 4 + 2 * 4 * 1000


def test_networks_of_other_types() -> None:
    model = small("residual").double()
    assert peak(lives(model)) == pytest.approx(2 * peak(lives(small("residual"))), rel=0.01)


def test_the_network_is_only_looked_at() -> None:
    model = Keeping().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    follow(read_network(model, Inputs(SHAPE)), 2)
    assert model.training
    assert not hasattr(model, "seen")
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())


class Alone(nn.Module):
    """Only takes one image at once, or runs other code for several."""

    def __init__(self, strict: bool) -> None:
        super().__init__()
        self.conv, self.strict = nn.Conv2d(3, 4, 3), strict

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.strict:
            return y.view(1, 4, 6, 6)
        return y if x.shape[0] == 1 else y.relu()


@pytest.mark.parametrize(
    ("strict", "text"),
    [(True, "the network fails at batch size 2: "), (False, "write batch_size=1")],
)
def test_networks_for_single_images(strict: bool, text: str) -> None:
    assert lives(Alone(strict), SHAPE).lives
    with pytest.raises(PrecropError, match=text) as raised:
        lives(Alone(strict), SHAPE, 2)
    assert "\n" not in str(raised.value)
