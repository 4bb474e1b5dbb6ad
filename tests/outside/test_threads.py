"""Other threads: planning neither notices them nor is noticed by them."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precrop
from tests.networks import SHAPE, small

KINDS = ("conv", "group norm", "strided", "torch attention")


def planned(model: nn.Module) -> dict[str, Any]:
    """All that is asked of a network, without what depends on the clock."""
    plan = precrop.plan(model, SHAPE, params=0.5, macs=0.6, memory=0.9)
    built = plan.build(model)
    densities = precrop.densities(model, SHAPE, method="erk", params=0.5)
    masks = precrop.masks(model, densities)
    return {
        "widths": plan.widths,
        "costs": (plan.params, plan.macs, plan.base_macs),
        "edits": plan.attributes,
        "shapes": {name: tuple(p.shape) for name, p in built.named_parameters()},
        "densities": densities,
        "masks": {name: int(mask.sum()) for name, mask in masks.items()},
    }


class Meanwhile:
    """Runs something over and over in another thread."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.work, self.errors, self.rounds = work, list[BaseException](), 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self.over.is_set() or not self.rounds:
            try:
                self.work()
            except Exception as error:
                self.errors.append(error)
            self.rounds += 1

    def __enter__(self) -> "Meanwhile":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


def trained(seed: int, steps: int) -> list[Tensor]:
    """Losses and weights of a few steps with dropout; the random numbers are its own."""
    random = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random) / 4
    optimiser = torch.optim.SGD(net.parameters(), 0.01)
    seen = []
    for _ in range(steps):
        loss = net(torch.randn(4, 3, 6, 6, generator=random)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(loss.detach())
    return [*seen, *(p.detach() for p in net.parameters())]


@pytest.fixture(autouse=True)
def _one_thread_each() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_plans_of_eight_threads_are_those_made_alone() -> None:
    models = [small(name) for name in KINDS] * 2
    alone = [planned(model) for model in models]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(planned, models)) == alone


def test_one_model_may_be_planned_by_all_threads_at_once() -> None:
    model = small("conv")
    alone = planned(model)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(planned, [model] * 8)) == [alone] * 8


def test_a_thread_that_serves_is_not_disturbed_and_does_not_disturb() -> None:
    model = small("conv").eval()
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x, tokens = torch.ones(1, *SHAPE), torch.ones(1, 4, 8)
    with torch.inference_mode():
        wanted = (model(x), attention(tokens))
    alone = planned(model)

    def serve() -> None:
        assert torch.backends.mha.get_fastpath_enabled()
        with torch.inference_mode():
            found = (model(x), attention(tokens))
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))

    with Meanwhile(serve) as server:
        for _ in range(3):
            assert planned(model) == alone
    assert not server.errors


def test_a_thread_that_trains_gets_the_same_weights() -> None:
    model, wanted = small("conv"), trained(3, 4)
    alone = planned(model)

    def train() -> None:
        found = trained(3, 4)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))

    with Meanwhile(train) as trainer:
        for _ in range(3):
            assert planned(model) == alone
    assert not trainer.errors
