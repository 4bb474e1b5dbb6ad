"""Entries of an axis by their places: found in forward, drawn, or one after the other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import Tensor, nn

import precrop
from tests.outside.cropping import cropped

Latent = Callable[[Tensor, Tensor], Tensor]


class Discrete(nn.Module):
    """Two vectors, of which a third one is made that goes on."""

    def __init__(self, function: Latent, inputs: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.stem, self.last = nn.Linear(10, 48), nn.Linear(inputs, 48)
        self.one, self.two, self.head = nn.Linear(48, 16), nn.Linear(48, 16), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(self.last(self.function(self.one(x), self.two(x))).relu())


def hard(a: Tensor) -> Tensor:
    return torch.zeros_like(a).scatter_(1, a.argmax(1, keepdim=True), 1.0)


def sparse(a: Tensor, count: int) -> Tensor:
    """The largest entries where they are, and zeros."""
    values, places = a.topk(count, 1)
    return torch.zeros_like(a).scatter(1, places, values)


def drawn(a: Tensor, b: Tensor) -> Tensor:
    places = torch.multinomial(a.softmax(1), 3)
    return torch.zeros_like(a).scatter(1, places, 1.0) * b


def written(a: Tensor, b: Tensor) -> Tensor:
    rows = torch.arange(len(a), device=a.device)
    return b.index_put((rows, a.argmax(1)), a.amax(1)) + a


def looked_up(a: Tensor, b: Tensor) -> Tensor:
    rows = torch.arange(len(a), device=a.device)
    return a[rows, b.argmax(1)][:, None] * b + a


FOUND: dict[str, Latent] = {
    "gumbel": lambda a, b: F.gumbel_softmax(a, hard=True) * b,
    "one-hot": lambda a, b: D.OneHotCategorical(logits=a).sample() * b,
    "straight through": lambda a, b: D.OneHotCategoricalStraightThrough(logits=a).rsample() + b,
    "counts": lambda a, b: D.Multinomial(4, logits=a).sample() * b,
    "likelihood": lambda a, b: D.Categorical(logits=a).log_prob(b.argmax(1))[:, None] + b,
    "hard": lambda a, b: hard(a) + b,
    "rows": lambda a, b: F.one_hot(a.argmax(-1), a.size(-1)) * b,
    "drawn rows": lambda a, b: F.one_hot(D.Categorical(logits=a).sample(), a.size(-1)) * b,
    "one of another": lambda a, b: b * torch.take_along_dim(a, b.argmax(1, keepdim=True), 1) + a,
    "looked up": looked_up,
    "written": written,
    "drawn": drawn,
    "largest": lambda a, b: a * (a >= a.topk(4, 1)[0][:, -1:]) + b,
    "largest where they are": lambda a, b: sparse(a, 4) + b,
    "half of them": lambda a, b: sparse(a, a.shape[1] // 2) + b,
    "above a rank": lambda a, b: a * (a > a.kthvalue(3, 1, keepdim=True)[0]) + b,
    "in another's order": lambda a, b: b.gather(1, a.argsort(1)) + a,
    "in one order": lambda a, b: a[:, b.mean(0).argsort()] + b,
    "in any order": lambda a, b: a[:, torch.randperm(a.shape[1], device=a.device)] + b,
}


@pytest.mark.parametrize("name", FOUND)
def test_places_that_are_found_hold_no_width(name: str) -> None:
    plan, built = cropped(Discrete(FOUND[name]), (10,), ["one", "two"], params=0.5)
    assert not plan.frozen
    assert plan.widths["one"][1] == plan.widths["two"][1] == plan.widths["last"][0] < 16
    for _ in range(8):
        assert built(4 * torch.randn(64, 10)).isfinite().all()


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: sparse(a, 9) + b,
        lambda a, b: torch.zeros_like(a).scatter(1, torch.multinomial(a.softmax(1), 9), 1.0) + b,
        lambda a, b: a * (a > a.kthvalue(9, 1, keepdim=True)[0]) + b,
    ],
    ids=["largest", "drawn", "rank"],
)
def test_a_width_is_no_less_than_what_is_taken_of_it(function: Latent) -> None:
    model = Discrete(function)
    plan = precrop.plan(model, (10,), params=0.3, divisor=1)
    assert not plan.frozen
    assert plan.widths["one"][1] == 9
    assert plan.build(model)(torch.randn(4, 10)).shape == (4, 3)


class Routed(nn.Module):
    """Experts of which the largest of a router's outputs chooses."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.stem, self.router, self.head = nn.Linear(10, 24), nn.Linear(24, 8), nn.Linear(24, 3)
        self.experts = nn.ModuleList(nn.Linear(24, 24) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        scores = self.router(x)
        if self.way == "one":
            shares = (scores.argmax(1, keepdim=True) == torch.arange(8, device=x.device)).float()
        elif self.way == "compared":
            best = scores.argmax(1, keepdim=True)
            shares = torch.cat([(best == place).float() for place in range(8)], 1)
        else:
            values, places = scores.topk(2, 1)
            shares = torch.zeros_like(scores).scatter(1, places, values.softmax(1))
        made = sum(shares[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))
        return self.head(made)


@pytest.mark.parametrize("way", ["one", "compared", "two"])
def test_a_router_has_as_many_outputs_as_there_are_experts(way: str) -> None:
    model = Routed(way)
    plan, _ = cropped(model, (10,), ["stem"], params=0.5)
    assert plan.widths["router"][1] == 8
    assert plan.frozen.keys() == {"router"}
    assert "chooses among its channels" in plan.frozen["router"]


class Maxout(nn.Module):
    """The larger of two halves, whose width it keeps."""

    def __init__(self, halves: Callable[[Tensor, int], list[Tensor]], width: int) -> None:
        super().__init__()
        self.halves, self.width = halves, width

    def forward(self, x: Tensor) -> Tensor:
        return torch.max(*self.halves(x, self.width))


def from_caffe(x: Tensor, width: int) -> list[Tensor]:
    """As a converter writes Caffe's slices."""
    ends = [(0, width), (width, x.size(1))]
    return [x.index_select(1, torch.LongTensor(range(*pair)).to(x.device)) for pair in ends]


HALVES: dict[str, Callable[[Tensor, int], list[Tensor]]] = {
    "slices": lambda x, n: [x[:, :n], x[:, n:]],
    "aranges": lambda x, n: [x[:, torch.arange(n)], x[:, torch.arange(n, 2 * n)]],
    "selected": lambda x, n: [
        x.index_select(1, torch.arange(n, device=x.device)),
        x.index_select(1, torch.arange(n, x.shape[1], device=x.device)),
    ],
    "integers": from_caffe,
}


def light(way: str) -> nn.Module:
    """Two convolutions with the larger of their halves each."""
    torch.manual_seed(0)
    halves = HALVES[way]
    layers = [nn.Conv2d(3, 32, 3), Maxout(halves, 16), nn.Conv2d(16, 48, 3), Maxout(halves, 24)]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Conv2d(24, 8, 1), *pool, nn.Linear(8, 4))


@pytest.mark.parametrize("way", list(HALVES)[1:])
def test_successive_places_are_a_slice(way: str) -> None:
    plan, built = cropped(light(way), (3, 12, 12), ["0", "2", "4"], params=0.5)
    other, twin = cropped(light("slices"), (3, 12, 12), ["0", "2", "4"], params=0.5)
    assert not plan.frozen
    assert plan.widths == other.widths
    assert built[1].width < 16
    x = torch.randn(2, 3, 12, 12)
    twin.load_state_dict(built.state_dict())
    assert torch.equal(built.eval()(x), twin.eval()(x))


def test_successive_places_that_code_names_stay_within_the_axis() -> None:
    """The last ones of as many as there are: an index behind the end is seen on no meta tensor."""
    model: Any = Discrete(lambda a, b: a[:, torch.arange(12, 16)] * b.mean(1, keepdim=True), 4)
    plan = precrop.plan(model, (10,), params=0.6, divisor=1)
    assert plan.widths["one"][1] == 16
    assert plan.frozen["one"]
    assert plan.build(model)(torch.randn(4, 10)).shape == (4, 3)
