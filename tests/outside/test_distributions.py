"""Latent variables drawn in forward, by PyTorch's distributions and by its operations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as D
from torch import Tensor, nn

import precrop
from tests.outside.cropping import cropped

Latent = Callable[[Tensor, Tensor], Tensor]


class Autoencoder(nn.Module):
    """A latent vector of two that its encoder makes, which is decoded again."""

    def __init__(self, latent: Latent) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.latent = latent
        self.encoder, self.decoder = nn.Linear(10, 48), nn.Linear(16, 48)
        self.one, self.two, self.head = nn.Linear(48, 16), nn.Linear(48, 16), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x).relu()
        return self.head(self.decoder(self.latent(self.one(x), self.two(x))).relu())


def divergence(a: Tensor, b: Tensor) -> Tensor:
    """A map with a number for each sample that says how far two distributions are apart."""
    prior = D.Normal(torch.zeros_like(a), torch.ones_like(b))
    return a + D.kl_divergence(D.Normal(a, b.exp()), prior).sum(1, keepdim=True)


def flow(a: Tensor, b: Tensor) -> Tensor:
    steps = [D.AffineTransform(0.0, 2.0), D.TanhTransform()]
    return D.TransformedDistribution(D.Normal(a, b.exp()), steps).rsample()


def likelihood(a: Tensor, b: Tensor) -> Tensor:
    return a + D.Independent(D.Normal(a, b.exp()), 1).log_prob(a.tanh())[:, None]


DRAWN: dict[str, Latent] = {
    "normal": lambda a, b: D.Normal(a, b.exp()).rsample(),
    "independent": likelihood,
    "laplace": lambda a, b: D.Laplace(a, b.exp()).rsample(),
    "gamma": lambda a, b: D.Gamma(a.exp(), b.exp()).rsample(),
    "beta": lambda a, b: D.Beta(a.exp(), b.exp()).rsample(),
    "dirichlet": lambda a, b: D.Dirichlet(a.exp()).rsample() + b,
    "bernoulli": lambda a, b: D.Bernoulli(logits=a).sample() * b,
    "binomial": lambda a, b: D.Binomial(5, logits=a).sample() * b,
    "poisson": lambda a, b: D.Poisson(a.exp()).sample() * b,
    "many normals": lambda a, b: D.MultivariateNormal(a, torch.diag_embed(b.exp())).rsample(),
    "transformed": flow,
    "divergence": divergence,
    "means and deviations": lambda a, b: torch.normal(a, b.exp()) + a,
    "as many as there are": lambda a, b: torch.normal(0.0, 1.0, size=a.shape) * b.exp() + a,
    "in place": lambda a, b: (
        torch.empty_like(a).cauchy_() * b + torch.empty_like(b).geometric_(0.5)
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_latent_widths_follow(name: str) -> None:
    plan, _ = cropped(Autoencoder(DRAWN[name]), (10,), ["encoder", "one", "two"], params=0.5)
    assert not plan.frozen
    assert plan.widths["one"][1] == plan.widths["two"][1] == plan.widths["decoder"][0] < 16


@torch.library.custom_op("outside::energy", mutates_args=())
def energy(x: Tensor) -> Tensor:
    return x.square().mean()


@energy.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(())


@torch.library.custom_op("outside::distance", mutates_args=())
def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()


@distance.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(())


@torch.library.custom_op("outside::write", mutates_args=("b",))
def write(a: Tensor, b: Tensor) -> None:
    b.copy_(a)


@write.register_fake
def _(a: Tensor, b: Tensor) -> None:
    return None


def tangent(a: Tensor, b: Tensor) -> Tensor:
    """How much a product moves with one factor."""
    return sum(torch.func.jvp(lambda x: x.sin() * a, (b,), (torch.ones_like(b),)))


LOOKED_AT: dict[str, Latent] = {
    "an operation of its own": lambda a, b: (a + b) * energy(a.detach()),
    "all true": lambda a, b: a + b * torch._is_all_true(a < 9),
    "any true": lambda a, b: a + b * torch._is_any_true(a < 9),
    "derivatives": tangent,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # PyTorch's own
@pytest.mark.parametrize("name", LOOKED_AT)
def test_a_number_hands_no_width_on(name: str) -> None:
    plan, _ = cropped(Autoencoder(LOOKED_AT[name]), (10,), ["one", "two"], params=0.5)
    assert not plan.frozen


COMPARED: dict[str, Latent] = {
    "a distance of its own": lambda a, b: a * distance(a.detach(), b.detach()),
    "equal": lambda a, b: a if torch.equal(a, b) else a * 2,
    "close": lambda a, b: a if torch.allclose(a, b) else a * 2,
    "of one size": lambda a, b: a * 2 if torch.is_same_size(a, b) else a,
}


@pytest.mark.parametrize("name", COMPARED)
def test_what_is_compared_agrees(name: str) -> None:
    """The second vector is only looked at, and must be as wide as the first all the same."""
    plan, _ = cropped(Autoencoder(COMPARED[name]), (10,), ["one", "two"], params=0.5)
    assert not plan.frozen
    assert plan.widths["one"][1] == plan.widths["two"][1] < 16


def test_what_an_unknown_operation_writes_into_keeps_its_size() -> None:
    def written(a: Tensor, b: Tensor) -> Tensor:
        made = torch.empty_like(b)
        write(a.detach(), made)
        return b * made

    plan = precrop.plan(Autoencoder(written), (10,), params=0.6)
    assert plan.widths["one"][1] == plan.widths["two"][1] == 16
    assert "outside::write" in plan.frozen["two"]


def test_other_methods_say_what_they_cannot_read() -> None:
    model: Any = Autoencoder(DRAWN["beta"])
    data = [(torch.randn(4, 10), torch.tensor([0, 1, 2, 0]))]
    with pytest.raises(precrop.PrecropError, match="no reading of exp"):
        precrop.densities(model, (10,), method="synflow", params=0.5)
    with pytest.raises(precrop.PrecropError, match="differentiated twice"):
        precrop.densities(model, (10,), method="grasp", params=0.5, data=data)
    model = Autoencoder(DRAWN["normal"])
    found = precrop.densities(model, (10,), method="grasp", params=0.5, data=data)
    assert found.keys() == {"encoder", "one", "two", "decoder", "head"}
