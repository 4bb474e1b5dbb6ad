"""Scripted modules are read through; sizes in their code stay, and the reason says so."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import precrop
from precrop.read.plain import plain

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")
aten = torch.ops.aten


class Around(nn.Module):
    """Attention between two layers; where ``valued``, the network needs values as well."""

    def __init__(self, inner: nn.Module, *, valued: bool) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 32), nn.Linear(32, 48)
        self.inner, self.head, self.valued = inner, nn.Linear(48, 5), valued

    def forward(self, x: Tensor) -> Tensor:
        if self.valued and x.isnan().any():
            x = x.nan_to_num()
        x = self.enter(x)
        x = self.attend(x)
        out: Tensor = self.head(self.leave(x).relu().mean(1))
        return out

    def attend(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out


class AroundAttention(Around):
    def attend(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x, x, x, need_weights=False)[0]
        return out


def network(block: bool, scripted: bool, valued: bool) -> nn.Module:
    torch.manual_seed(0)
    inner: Any = nn.MultiheadAttention(32, 4, batch_first=True)
    if block:
        inner = nn.TransformerEncoderLayer(32, 4, 40, 0.0, batch_first=True)
    inner = torch.jit.script(inner) if scripted else inner
    return (Around if block else AroundAttention)(inner, valued=valued)


@pytest.mark.parametrize("valued", [False, True])
@pytest.mark.parametrize("block", [False, True])
def test_scripted_attention_is_counted_and_what_is_around_it_cropped(
    block: bool, valued: bool
) -> None:
    model = network(block, True, valued).eval()
    beside = precrop.plan(network(block, False, valued), (6, 8), params=0.8)
    plan = precrop.plan(model, (6, 8), params=0.8, divisor=1)
    assert (plan.base_params, plan.base_macs) == (beside.base_params, beside.base_macs)
    assert not beside.frozen
    assert plan.frozen
    assert all(why.endswith("in scripted code keeps its sizes") for why in plan.frozen.values())
    assert plan.widths["leave"][1] < 48
    # PyTorch's counter sees no operation of a script; the same widths unscripted have as many.
    with FlopCounterMode(display=False) as counter:
        plan.build(network(block, False, valued)).train()(torch.ones(1, 6, 8))
    assert counter.get_total_flops() == 2 * plan.macs
    built = plan.build(model)
    for training in (True, False):
        assert built.train(training)(torch.randn(3, 6, 8)).shape == (3, 5)


def taken_apart(op: Any) -> Any:
    """What computes an operation in plain ones."""
    parts = plain(op)
    assert parts is not None
    return parts


def weights(*shapes: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(shape) / 3 for shape in shapes]


@pytest.mark.parametrize("mask", [None, 0, 1, 2])
@pytest.mark.parametrize("alike", [True, False])
def test_attention_is_what_pytorch_computes(mask: int | None, alike: bool) -> None:
    ends = weights((48, 16), (48,), (16, 16), (16,))
    x, y, z = weights((2, 5, 16), (2, 5, 16), (2, 5, 16))
    given = (x, x, x) if alike else (x, y, z)
    shapes = {0: (5, 5), 1: (2, 5), 2: (2, 4, 5, 5)}
    hidden = None
    if mask is not None:
        hidden = torch.rand(shapes[mask]) > 0.7
        hidden[..., 0] = False
    for averaged in (True, False):
        args = (*given, 16, 4, *ends, hidden, True, averaged, mask)
        op = aten._native_multi_head_attention.default
        for ours, theirs in zip(taken_apart(op)(*args), op(*args), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_an_encoder_layer_is_what_pytorch_computes(gelu: bool, first: bool) -> None:
    ends = weights((48, 16), (48,), (16, 16), (16,))
    norms = weights((16,), (16,), (16,), (16,))
    feed = weights((40, 16), (40,), (16, 40), (16,))
    (x,) = weights((2, 5, 16))
    args = (x, 16, 4, *ends, gelu, first, 1e-5, *norms, *feed)
    op = aten._transformer_encoder_layer_fwd.default
    assert torch.allclose(taken_apart(op)(*args), op(*args), atol=1e-4)


@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_methods_with_data_on_a_scripted_network(method: str) -> None:
    plain_one = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    options: Any = {"method": method, "params": 0.3}
    options["data"] = [(torch.randn(4, 4), torch.arange(4) % 3)]
    found = precrop.densities(torch.jit.script(plain_one), (4,), **options)
    assert found == precrop.densities(plain_one, (4,), **options)
