"""Masks and densities of small networks straight from the formulas of the papers, for the tests.

Nothing of the package is used: the networks are written out here, weights and images come from
NumPy's legacy generator, whose numbers never change, and everything is in double precision. Run
from the repository's root: ``python -m scripts.reference_masks`` writes the file that
``tests/pruning/test_references.py`` compares with.
"""

import base64
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

FILE = Path("tests/pruning/reference_masks.json")
SHAPE, CLASSES, SAMPLES = (3, 8, 8), 5, 12
DENSITY = {"chain": 0.2, "residual": 0.25}
GAP = 1e-9
"""Least relative distance of the lowest score that is kept from the highest that is not."""

Weights = Mapping[str, Tensor]
Pool = Callable[[Tensor, int], Tensor]


class Chain(nn.Module):
    """Convolutions with biases, a max-pool, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 12, 3, padding=1)
        self.third = nn.Conv2d(12, 12, 3)
        self.last = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        x = F.max_pool2d(self.first(x).relu(), 2)
        x = self.third(self.second(x).relu()).relu()
        out: Tensor = self.last(x.mean((2, 3)))
        return out


def chain_flow(w: Weights, x: Tensor, pool: Pool) -> Tensor:
    """The chain with only weights and a pool."""
    x = pool(F.conv2d(x, w["first.weight"], padding=1), 2)
    x = F.conv2d(F.conv2d(x, w["second.weight"], padding=1), w["third.weight"])
    return F.linear(x.mean((2, 3)), w["last.weight"])


class Residual(nn.Module):
    """A stem, a residual block, a residual block with a projection, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a, self.norm_a = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.b, self.norm_b = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.c, self.norm_c = nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.d, self.norm_d = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.shortcut, self.norm_s = nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16)
        self.last = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        x = self.norm(self.stem(x)).relu()
        x = (self.norm_b(self.b(self.norm_a(self.a(x)).relu())) + x).relu()
        short = self.norm_s(self.shortcut(x))
        x = (self.norm_d(self.d(self.norm_c(self.c(x)).relu())) + short).relu()
        out: Tensor = self.last(x.mean((2, 3)))
        return out


def residual_flow(w: Weights, x: Tensor, pool: Pool) -> Tensor:
    """The residual network with only weights; it has no pool."""

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = conv("stem", x)
    x = conv("b", conv("a", x)) + x
    x = conv("d", conv("c", x, 2)) + conv("shortcut", x, 2)
    return F.linear(x.mean((2, 3)), w["last.weight"])


FLOWS: dict[str, Callable[[Weights, Tensor, Pool], Tensor]] = {
    "chain": chain_flow,
    "residual": residual_flow,
}


def flow(name: str, weights: Weights, pool: Pool) -> Tensor:
    """Return R: the sum of a linear network's outputs for an image of ones."""
    return FLOWS[name](weights, torch.ones(1, *SHAPE, dtype=torch.float64), pool).sum()


def network(name: str) -> nn.Module:
    """Return a network whose weights, norms and running statistics depend only on its name."""
    model = {"chain": Chain, "residual": Residual}[name]().double()
    random = np.random.RandomState(len(name))
    state = {}
    for key, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        drawn = torch.from_numpy(random.standard_normal(tuple(tensor.shape)))
        if tensor.dim() > 1:
            state[key] = drawn * math.sqrt(2 / tensor[0].numel())
        elif key.endswith(("weight", "running_var")):
            state[key] = 0.5 + drawn.abs()
        else:
            state[key] = 0.1 * drawn
    model.load_state_dict(state, strict=False)
    return model


def batch() -> tuple[Tensor, Tensor]:
    """Return images and their classes."""
    images = np.random.RandomState(1).standard_normal((SAMPLES, *SHAPE))
    return torch.from_numpy(images), torch.arange(SAMPLES) % CLASSES


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of convolutions and linear layers, by parameter name."""
    return {name: p for name, p in model.named_parameters() if p.dim() > 1}


# --- scores ---------------------------------------------------------------------------------------


def gradients(output: Tensor, weights: Weights, *, again: bool = False) -> dict[str, Tensor]:
    """Return an output's derivatives by parameter name; ``again`` keeps them differentiable."""
    found = torch.autograd.grad(output, list(weights.values()), create_graph=again)
    return dict(zip(weights, found, strict=True))


def magnitude(model: nn.Module, name: str, density: float) -> Weights:
    """Return the magnitudes of the weights."""
    return {key: weight.detach().abs() for key, weight in prunable(model).items()}


def snip(model: nn.Module, name: str, density: float) -> Weights:
    """``|w dL/dw|`` (1810.02340)."""
    weights, (images, classes) = prunable(model), batch()
    slopes = gradients(F.cross_entropy(model(images), classes), weights)
    return {key: (weight * slopes[key]).detach().abs() for key, weight in weights.items()}


def grasp(model: nn.Module, name: str, density: float) -> Weights:
    """``w Hg`` of the loss of logits over 200 (2002.07376); the highest remain."""
    weights, (images, classes) = prunable(model), batch()
    slopes = gradients(F.cross_entropy(model(images) / 200, classes), weights, again=True)
    norm = sum((slope * slope).sum() for slope in slopes.values()) / 2
    products = gradients(torch.as_tensor(norm), weights)
    return {key: (weight * products[key]).detach() for key, weight in weights.items()}


def synflow(model: nn.Module, name: str, density: float, rounds: int) -> Weights:
    """``|w| dR/d|w|``, iterated (2006.05467, Algorithm 1, with the counts of its code)."""
    weights = {key: weight.detach().abs() for key, weight in prunable(model).items()}
    total = sum(weight.numel() for weight in weights.values())
    scores: Weights = {}
    for done in range(1, rounds + 1):
        leaves = {key: weight.clone().requires_grad_() for key, weight in weights.items()}
        slopes = gradients(flow(name, leaves, F.max_pool2d), leaves)
        scores = {key: weight * slopes[key] for key, weight in weights.items()}
        if done < rounds:
            pruned = int((1.0 - density ** (done / rounds)) * total)
            kept = highest(scores, total - pruned)
            weights = {key: weight * kept[key] for key, weight in weights.items()}
    return scores


def highest(scores: Weights, count: int) -> dict[str, Tensor]:
    """Keep the highest scores of the whole network; no two near the threshold are close."""
    row = torch.cat([values.flatten() for values in scores.values()]).sort(descending=True).values
    lowest, next_one = float(row[count - 1]), float(row[count])
    assert lowest - next_one > GAP * abs(lowest), "two scores at the threshold are too close"
    masks = {key: values >= lowest for key, values in scores.items()}
    gone = [key for key, mask in masks.items() if not mask.any()]
    assert not gone, f"{gone} collapsed"
    return masks


def _stored(score: Callable[..., Weights]) -> Callable[..., Weights]:
    return lambda model, *args: score(model.eval(), *args)


SCORES: dict[str, Callable[..., Weights]] = {
    "magnitude": magnitude,
    "snip": snip,
    "snip, stored": _stored(snip),
    "grasp": grasp,
    "grasp, stored": _stored(grasp),
    "synflow, 1 round": partial(synflow, rounds=1),
    "synflow, 15 rounds": partial(synflow, rounds=15),
}

# --- densities ------------------------------------------------------------------------------------


def erk(shapes: Mapping[str, tuple[int, ...]], budget: float) -> dict[str, float]:
    """In proportion to (in + out + kernel) / (in out kernel) (1911.11134), at most 1."""
    raw = {key: sum(shape) / math.prod(shape) for key, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        rest = [key for key in raw if key not in dense]
        left = budget - sum(math.prod(shapes[key]) for key in dense)
        factor = left / sum(raw[key] * math.prod(shapes[key]) for key in rest)
        above = {key for key in rest if factor * raw[key] > 1}
        if not above:
            return {key: 1.0 if key in dense else factor * raw[key] for key in raw}
        dense |= {max(above, key=lambda key: raw[key])}


def synexp(shapes: Mapping[str, tuple[int, ...]], budget: float) -> dict[str, float]:
    """The same number of weights everywhere, but for layers with fewer (2203.02549)."""
    sizes = sorted(map(math.prod, shapes.values()))
    for index, size in enumerate(sizes):
        even = (budget - sum(sizes[:index])) / (len(sizes) - index)
        if even <= size:
            return {key: min(1.0, even / math.prod(shape)) for key, shape in shapes.items()}
    return dict.fromkeys(shapes, 1.0)


def igq(shapes: Mapping[str, tuple[int, ...]], budget: float) -> dict[str, float]:
    """``1 / (1 + F n)`` with one force F (2107.02306), by bisection."""
    sizes = {key: math.prod(shape) for key, shape in shapes.items()}
    low, high = 0.0, 1.0
    for _ in range(200):
        force = (low + high) / 2
        used = sum(size / (1 + force * size) for size in sizes.values())
        low, high = (force, high) if used > budget else (low, force)
    return {key: 1 / (1 + low * size) for key, size in sizes.items()}


RULES = {"erk": erk, "synexp": synexp, "igq": igq}


def expectations(model: nn.Module, name: str, densities: Mapping[str, float]) -> dict[str, float]:
    """The logarithms of the expected sum of all scores and of R, maxima read as averages."""
    leaves = {}
    for key, weight in prunable(model).items():
        mean = densities[key] * float(weight.detach().abs().mean())
        leaves[key] = torch.full_like(weight, mean, requires_grad=True)
    output = flow(name, leaves, F.avg_pool2d)
    slopes = gradients(output, leaves)
    scores = sum(float((leaf.detach() * slopes[key]).sum()) for key, leaf in leaves.items())
    return {"synexp": math.log(scores), "output": math.log(float(output.detach()))}


# --- the file -------------------------------------------------------------------------------------


def references() -> dict[str, Any]:
    """Return what every method gives, per network."""
    found = {}
    for name, density in DENSITY.items():
        shapes = {key: tuple(weight.shape) for key, weight in prunable(network(name)).items()}
        count = int(density * sum(map(math.prod, shapes.values())))
        masks = {}
        for method, score in SCORES.items():
            kept = highest(score(network(name).train(), name, density), count)
            masks[method] = {key: packed(mask) for key, mask in kept.items()}
        densities = {method: rule(shapes, count) for method, rule in RULES.items()}
        values = expectations(network(name), name, densities["synexp"])
        found[name] = {"masks": masks, "densities": densities, "log": values}
    return found


def packed(mask: Tensor) -> str:
    """Return the number of weights that remain, and all bits, eight per byte, in base 64."""
    bits = np.packbits(mask.flatten().numpy())
    return f"{int(mask.sum())} {base64.b64encode(bits.tobytes()).decode()}"


if __name__ == "__main__":
    FILE.write_text(json.dumps(references(), indent=1) + "\n", encoding="utf-8")
