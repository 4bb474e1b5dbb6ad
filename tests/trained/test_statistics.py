"""Batch norms' statistics: by hand, and that nothing else changes."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.errors import PrecropError
from tests.networks import SHAPE, small


def batches(count: int = 3, size: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(size, *SHAPE, generator=generator) for _ in range(count)]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    norms = nn.BatchNorm2d(8), nn.BatchNorm1d(4, momentum=0.3)
    first = nn.Conv2d(3, 8, 3)
    return nn.Sequential(first, norms[0], nn.ReLU(), nn.Flatten(), nn.Linear(288, 4), norms[1])


def test_statistics_are_the_means_over_batches_by_hand() -> None:
    model = net()
    assert precrop.recalibrate(model, batches()) is model
    parts: Any = [*model.children()]
    conv, norm, relu, flat, linear, last = parts
    means, variances, after = [], [], []
    with torch.no_grad():
        for x in batches():
            y = conv(x)
            means.append(y.mean((0, 2, 3)))
            variances.append(y.transpose(0, 1).flatten(1).var(1))
            z = (y - means[-1].view(-1, 1, 1)) / torch.sqrt(
                y.transpose(0, 1).flatten(1).var(1, correction=0).view(-1, 1, 1) + 1e-5
            )
            after.append(linear(flat(relu(z))))
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(0))
    torch.testing.assert_close(last.running_mean, torch.stack([y.mean(0) for y in after]).mean(0))
    torch.testing.assert_close(last.running_var, torch.stack([y.var(0) for y in after]).mean(0))
    assert int(norm.num_batches_tracked) == 3


def test_nothing_else_changes() -> None:
    model = small("stochastic depth", head="flatten")
    model.stem.eval()
    model.head.requires_grad_(False)
    model.blocks[0](model.stem(batches()[0])).sum().backward()
    before = copy.deepcopy(model)
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    assert any(gradient is not None for gradient in gradients)
    numbers = torch.get_rng_state()
    precrop.recalibrate(model, batches())
    assert torch.equal(torch.get_rng_state(), numbers)
    for (name, new), old in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(new, old), name
        assert new.requires_grad == old.requires_grad
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        if parameter.grad is not None and gradient is not None:
            assert torch.equal(parameter.grad, gradient)
    pairs = list(zip(model.modules(), before.modules(), strict=True))
    assert [m.training for m, _ in pairs] == [m.training for _, m in pairs]
    assert [getattr(m, "momentum", 0) for m, _ in pairs] == [
        getattr(m, "momentum", 0) for _, m in pairs
    ]
    changed = [
        name
        for (name, new), old in zip(model.named_buffers(), before.buffers(), strict=True)
        if not torch.equal(new, old)
    ]
    assert all(name.endswith(("running_mean", "running_var", "tracked")) for name in changed)
    assert any(name.endswith("running_var") for name in changed)


@pytest.mark.parametrize(
    "form",
    [lambda x: (x, torch.zeros(5)), lambda x: [x], lambda x: {"input": x}],
    ids=["with targets", "list", "by name"],
)
def test_batches_come_in_several_forms(form: Any) -> None:
    plain, other = net(), net()
    precrop.recalibrate(plain, batches())
    precrop.recalibrate(other, map(form, batches()))
    for a, b in zip(plain.buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b)


class Aside(nn.Module):
    """A norm that only training uses, and dropout before the other."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.aside = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.dropout = nn.Dropout()

    def forward(self, x: Tensor) -> Any:
        y = self.used(self.dropout(x))
        return (y, self.aside(y)) if self.training else y


def test_norms_that_no_batch_reaches_keep_their_statistics() -> None:
    model = Aside()
    model.aside.running_mean = torch.ones(3)
    precrop.recalibrate(model, batches())
    assert torch.equal(model.aside.running_mean, torch.ones(3))
    expected = torch.stack([x.mean((0, 2, 3)) for x in batches()]).mean(0)
    assert model.used.running_mean is not None
    torch.testing.assert_close(model.used.running_mean, expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "there is no batch to recalibrate on"),
        ([torch.zeros(5, 7, 8, 8)], "the network fails on batch 1: RuntimeError"),
        ([*batches(), torch.full((5, *SHAPE), torch.nan)], "the statistics of 1 are not finite"),
    ],
    ids=["none", "of another shape", "not a number"],
)
def test_after_an_error_all_is_as_it_was(given: list[Tensor], message: str) -> None:
    model = net()
    before = copy.deepcopy(model)
    with pytest.raises(PrecropError, match=message):
        precrop.recalibrate(model, given)
    for a, b in zip(model.buffers(), before.buffers(), strict=True):
        assert torch.equal(a, b)
    assert all(module.training for module in model.modules())


def test_one_tensor_is_no_list_of_batches() -> None:
    with pytest.raises(PrecropError, match="batches=3 is not an iterable of batches"):
        precrop.recalibrate(net(), 3)  # type: ignore[arg-type]
    with pytest.raises(PrecropError, match=r"give a list of batches, such as \[tensor\]"):
        precrop.recalibrate(net(), torch.zeros(5, *SHAPE))


def test_a_network_without_batch_norms_is_told() -> None:
    with pytest.raises(PrecropError, match="Linear has no batch norm that keeps statistics"):
        precrop.recalibrate(nn.Linear(2, 2), [torch.zeros(2, 2)])
