"""The rules for layer densities against published figures, their papers' words and exact sums."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from numpy.typing import NDArray
from torch import nn

from precrop.errors import BudgetError
from precrop.linear.closed_form import closed_form
from precrop.models import cifar_mobilenet_v2, cifar_vgg16_bn, resnet20
from precrop.pruning import rules
from precrop.pruning.problem import Problem

Floats = NDArray[np.float64]

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (resnet20, (3, 32, 32)),
    "cifar_vgg16_bn": (cifar_vgg16_bn, (3, 32, 32)),
    "cifar_mobilenet_v2": (cifar_mobilenet_v2, (3, 32, 32)),
    "resnet50": (torchvision.models.resnet50, (3, 224, 224)),
    "mobilenetv1": (lambda: timm.create_model("mobilenetv1_100"), (3, 224, 224)),
}
OURS = ["resnet20", "cifar_vgg16_bn", "cifar_mobilenet_v2", "resnet50"]


@cache
def whole(network: str) -> Problem:
    """The problem whose budgets are all of the network."""
    make, shape = NETWORKS[network]
    with torch.device("meta"):
        model = make()
    return Problem.of(model, shape, {"params": 1.0, "macs": 1.0})


def problem(network: str, **shares: float) -> Problem:
    of = whole(network)
    return replace(
        of, limits={cost: int(share * of.limits[cost]) for cost, share in shares.items()}
    )


def values(found: dict[str, float]) -> Floats:
    return np.array(list(found.values()))


def costs(of: Problem) -> dict[str, Floats]:
    layers = of.layers.values()
    return {
        "params": np.array([layer.weights for layer in layers], float),
        "macs": np.array([layer.macs for layer in layers], float),
    }


def used(of: Problem, densities: Floats) -> float:
    """The largest share of a budget that is taken."""
    return max(float(costs(of)[cost] @ densities) / limit for cost, limit in of.limits.items())


BUDGETS: list[dict[str, float]] = [
    {"params": 0.5},
    {"params": 0.1},
    {"params": 0.02},
    {"macs": 0.5},
    {"macs": 0.1},
    {"macs": 0.03},
    {"params": 0.2, "macs": 0.3},
    {"params": 0.4, "macs": 0.1},
]
each_budget = pytest.mark.parametrize("shares", BUDGETS, ids=str)
each_network = pytest.mark.parametrize("network", OURS)


# --- ERK ----------------------------------------------------------------------------------------

# Sparsities of torchvision's ResNet-50 under ERK at 90%, in per cent and in the order of its
# layers: column "ERK" of budgets/SparsityDistributions_90_ResNet50.csv in github.com/RAIVNLab/STR,
# the code of Kusupati et al. 2020 (2002.03231). The first block's shortcut is there after its
# third convolution, as here.
STR_RESNET50 = [
    *[58, 0, 82, 4, 4, 4, 82, 4, 4, 82, 4],
    *[43, 91, 52, 71, 52, 91, 52, 52, 91, 52, 52, 91, 52],
    *[71, 96, 76, 86, 76, 96, 76, 76, 96, 76, 76, 96, 76, 76, 96, 76, 76, 96, 76],
    *[86, 98, 88, 93, 88, 98, 88, 88, 98, 88],
    93,
]


def test_erk_of_resnet50_as_published() -> None:
    found = values(rules.erk(problem("resnet50", params=0.1)))
    assert len(found) == len(STR_RESNET50)
    assert (100 * (1 - found)).round().tolist() == STR_RESNET50


PADDED = {"resnet50": (7, 3), "mobilenetv1": (3, 1)}
"""Kernel of the layers of stride 2 before which Keras pads, and outputs more that a side has."""


def counted(network: str, densities: Floats) -> tuple[float, float]:
    """Millions of FLOPs and megabytes of a sparse network, as RigL counts them.

    `get_stats` in rigl/sparse_utils.py of github.com/google-research/rigl, after the rules of the
    MicroNet challenge: every output takes a product and a sum a weight, one sum less without a
    bias, and an activation; a weight and a bias take four bytes, and the mask of a layer that is
    not dense one bit a weight. Depthwise layers were counted without a bias when its figures were
    made. The Keras networks that it counts pad images before some layers, and padding is counted
    once more: ResNet-50's stem has 115 outputs a side.
    """
    of = whole(network)
    kernel, more = PADDED[network]
    flops = size = 0.0
    for (name, layer), density in zip(of.layers.items(), densities, strict=True):
        side = round((layer.macs / layer.weights) ** 0.5)
        module = of.network.model.get_submodule(name)
        if isinstance(module, nn.Conv2d) and (module.kernel_size, module.stride) == (
            (kernel, kernel),
            (2, 2),
        ):
            side += more
        bias = layer.out_channels if layer.kind != "depthwise" else 0
        flops += side**2 * (2 * layer.weights * density + bias)
        size += 4 * (layer.weights * density + bias)
        size += layer.weights / 8 if density < 1 - 1e-9 else 0
    return flops / 1e6, size / 1e6


def test_dense_networks_as_rigl_counts_them() -> None:
    # README.md of github.com/google-research/rigl, row "DENSE", in two and six digits.
    flops, megabytes = counted("resnet50", np.ones(54))
    assert (round(flops, -2), round(megabytes, 3)) == (8200, 102.122)
    # Printed by rigl/imagenet_resnet/colabs/MobileNet_Counting.ipynb of the same repository.
    flops, megabytes = counted("mobilenetv1", np.ones(28))
    assert flops == pytest.approx(1141.544, abs=0.05)
    assert megabytes == pytest.approx(16.864, abs=0.001)


# README.md of github.com/google-research/rigl: rows "ERK". Those at sparsities 0.965 and 0.99 are
# left out: by their sizes the stem was dense, which is not the rule (the README says so of 0.99).
@pytest.mark.parametrize(
    ("density", "flops", "megabytes"),
    [(0.2, 0.42, 23.683), (0.1, 0.24, 13.499), (0.05, 0.12, 8.399)],
)
def test_erk_costs_as_published(density: float, flops: float, megabytes: float) -> None:
    of = problem("resnet50", params=density)
    found, size = counted("resnet50", values(rules.erk(of)))
    assert round(found / counted("resnet50", np.ones(54))[0], 2) == flops
    assert size == pytest.approx(megabytes, abs=0.001)


# Printed by rigl/imagenet_resnet/colabs/MobileNet_Counting.ipynb of github.com/google-research/rigl
# for MobileNet v1: sparsity; FLOPs in millions and megabytes with the depthwise layers dense, and
# with the stem alone dense, where ERK takes a depthwise layer for one of a single input channel.
RIGL_MOBILENET = [
    (0.75, 599.144, 4.888, 588.355, 4.757),
    (0.85, 439.152, 3.224, 422.419, 3.075),
    (0.90, 334.134, 2.392, 312.956, 2.235),
    (0.95, 205.281, 1.560, 180.359, 1.393),
]


@pytest.mark.parametrize(("sparsity", "flops", "size", "stem_flops", "stem_size"), RIGL_MOBILENET)
def test_erk_with_depthwise_layers_as_published(
    sparsity: float, flops: float, size: float, stem_flops: float, stem_size: float
) -> None:
    of = whole("mobilenetv1")
    depthwise = {name for name, layer in of.layers.items() if layer.kind == "depthwise"}
    assert len(depthwise) == 13
    for dense, expected in ((depthwise, (flops, size)), ({of.stem}, (stem_flops, stem_size))):
        rest = {name: layer for name, layer in of.layers.items() if name not in dense}
        total = sum(layer.weights for layer in rest.values())
        parameters = {name: of.parameters[name] for name in rest}
        limits = {"params": int((1 - sparsity) * total)}
        found = rules.erk(replace(of, layers=rest, parameters=parameters, limits=limits))
        densities = np.array([found.get(name, 1.0) for name in of.layers])
        figures = counted("mobilenetv1", densities)
        assert figures[0] == pytest.approx(expected[0], abs=0.05)
        assert figures[1] == pytest.approx(expected[1], abs=0.001)


def erk_in_words(of: Problem) -> Floats:
    """ERK as in section 3 of Evci et al. 2020 (1911.11134), one budget after another.

    The density of a layer is epsilon times (in + out + width + height) over their product; if that
    is above one for some layers, those with the highest are dense, and epsilon is found anew for
    the rest of the layers and of the budget.
    """
    shapes = [tuple(of.weights()[name].shape) for name in of.layers]
    raw = [sum(shape) / np.prod(shape) for shape in shapes]
    answers = []
    for cost, limit in of.limits.items():
        price = costs(of)[cost]
        dense: set[int] = set()
        while True:
            rest = [i for i in range(len(raw)) if i not in dense]
            spent = sum(price[i] for i in dense)
            epsilon = (limit - spent) / sum(price[i] * raw[i] for i in rest)
            highest = max(raw[i] for i in rest)
            if epsilon * highest <= 1:
                break
            dense |= {i for i in rest if raw[i] == highest}
        answers.append([1.0 if i in dense else epsilon * raw[i] for i in range(len(raw))])
    return np.min(answers, axis=0)  # both budgets hold at the smaller epsilon


@each_network
@each_budget
def test_erk_as_in_words(network: str, shares: dict[str, float]) -> None:
    of = problem(network, **shares)
    found = values(rules.erk(of))
    np.testing.assert_allclose(found, erk_in_words(of), rtol=1e-9)
    assert used(of, found) == pytest.approx(1, abs=1e-11)


# --- uniform and uniform+ -----------------------------------------------------------------------


@each_network
@each_budget
def test_uniform(network: str, shares: dict[str, float]) -> None:
    of = problem(network, **shares)
    totals = whole(network).limits
    smallest = min(limit / totals[cost] for cost, limit in of.limits.items())
    np.testing.assert_allclose(values(rules.uniform(of)), smallest, rtol=1e-11)


def uniform_plus_in_words(of: Problem) -> Floats:
    """A dense stem, a fifth of the classifier at least, the rest alike (Gale et al., 1902.09574).

    What the rest may keep follows from what is left, as in the code of Lee et al. 2021
    (2010.07611): if the classifier would have less than its share, it has just that.
    """
    names = list(of.layers)
    stem, last = names.index(of.stem), names.index(of.classifier)
    answers = []
    for cost, limit in of.limits.items():
        price = costs(of)[cost]
        density = (limit - price[stem]) / (price.sum() - price[stem])
        classifier = density
        if density < 0.2:
            classifier = 0.2
            left = limit - price[stem] - 0.2 * price[last]
            density = left / (price.sum() - price[stem] - price[last])
        row = np.full(len(names), density)
        row[last], row[stem] = classifier, 1.0
        answers.append(row)
    return np.min(answers, axis=0)


@each_network
@each_budget
def test_uniform_plus_as_in_words(network: str, shares: dict[str, float]) -> None:
    of = problem(network, **shares)
    words = uniform_plus_in_words(of)
    if (words <= 0).any():
        with pytest.raises(BudgetError, match="too small for uniform_plus"):
            rules.uniform_plus(of)
        return
    found = values(rules.uniform_plus(of))
    np.testing.assert_allclose(found, words, rtol=1e-9)
    assert used(of, found) == pytest.approx(1, abs=1e-11)


# README.md of github.com/google-research/rigl, rows "Uniform": a dense stem and one density for all
# other layers. At 0.2 and above that is uniform+; below, the sizes agree and the FLOPs need not.
@pytest.mark.parametrize(
    ("density", "flops", "megabytes"), [(0.2, 0.23, None), (0.1, None, 13.532), (0.05, None, 8.433)]
)
def test_uniform_plus_costs_as_published(
    density: float, flops: float | None, megabytes: float | None
) -> None:
    of = whole("resnet50")
    stem = of.layers["conv1"].weights
    limit = int(density * (of.limits["params"] - stem)) + stem
    found = values(rules.uniform_plus(replace(of, limits={"params": limit})))
    np.testing.assert_allclose([found[0], found[-1]], [1, 0.2], rtol=1e-6)
    cost, size = counted("resnet50", found)
    assert flops is None or round(cost / counted("resnet50", np.ones(54))[0], 2) == flops
    assert megabytes is None or size == pytest.approx(megabytes, abs=0.001)


@pytest.mark.parametrize("cost", ["params", "macs"])
@each_network
def test_uniform_plus_says_what_is_too_small(network: str, cost: str) -> None:
    of = whole(network)
    price = dict(zip(of.layers, costs(of)[cost], strict=True))
    least = float(price[of.stem] + 0.2 * price[of.classifier])
    for limit in (1, int(least)):
        with pytest.raises(BudgetError) as caught:
            rules.uniform_plus(replace(of, limits={cost: limit}))
        assert f"{cost}={limit} is too small for uniform_plus" in str(caught.value)
        assert f"{least:.0f}" in str(caught.value)
    found = values(rules.uniform_plus(replace(of, limits={cost: int(least) + 1})))
    assert ((found > 0) & (found <= 1)).all()


@pytest.mark.parametrize("layers", [1, 2])
def test_uniform_plus_of_one_or_two_layers(layers: int) -> None:
    model = nn.Sequential(*[nn.Linear(10, 10) for _ in range(layers)])
    assert set(rules.uniform_plus(Problem.of(model, (10,), {"params": 1.0})).values()) == {1.0}
    of = Problem.of(model, (10,), {"params": 0.7})
    if layers == 1:
        with pytest.raises(BudgetError, match="too small"):
            rules.uniform_plus(of)
    else:
        assert values(rules.uniform_plus(of)).tolist() == pytest.approx([1.0, 0.4])


# --- ideal gas quotas ---------------------------------------------------------------------------


def force(of: Problem, cost: str, limit: int) -> Decimal:
    """The force of `rules.igq` for one budget, to forty digits, by halving its logarithm."""
    rows = [(layer.weights, layer.weights if cost == "params" else layer.macs)
            for layer in of.layers.values()]  # fmt: skip
    with localcontext(prec=40):
        low, high = Decimal(-100), Decimal(100)
        for _ in range(140):
            middle = (low + high) / 2
            total = sum(price / (1 + middle.exp() * weights) for weights, price in rows)
            low, high = (middle, high) if total > limit else (low, middle)
        return high.exp()


@each_network
@each_budget
def test_igq_to_forty_digits(network: str, shares: dict[str, float]) -> None:
    of = problem(network, **shares)
    found = values(rules.igq(of))
    forces = [force(of, cost, limit) for cost, limit in of.limits.items()]
    # igq_quotas in pruning.py of github.com/avysogorets/effective-sparsity: a cylinder of length n
    # and area 1 / n has length n / (F n + 1) under the force F.
    expected = [float(1 / (1 + max(forces) * layer.weights)) for layer in of.layers.values()]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert used(of, found) == pytest.approx(1, abs=1e-11)
    pressed = (1 / found - 1) / costs(of)["params"]
    np.testing.assert_allclose(pressed, pressed[-1], rtol=1e-5)  # 1 / p - 1 loses digits near p = 1


# --- all of them --------------------------------------------------------------------------------


@each_network
@each_budget
def test_synexp_is_the_closed_form(network: str, shares: dict[str, float]) -> None:
    of = problem(network, **shares)
    expected = closed_form(costs(of), of.limits)
    assert values(rules.highest_synexp(of)).tolist() == expected.tolist()
    assert used(of, expected) == pytest.approx(1, abs=1e-11)


ALL: list[Callable[[Problem], dict[str, float]]] = [
    rules.highest_synexp,
    rules.uniform,
    rules.uniform_plus,
    rules.erk,
    rules.igq,
]
each_rule = pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.__name__)


@each_rule
def test_budgets_of_nearly_everything(rule: Callable[[Problem], dict[str, float]]) -> None:
    of = whole("resnet50")
    for cost, total in of.limits.items():
        found = values(rule(replace(of, limits={cost: total - 1})))
        assert float(costs(of)[cost] @ found) == pytest.approx(total - 1, abs=1e-3)
        for limit in (total, 10 * total):
            assert set(rule(replace(of, limits={cost: limit})).values()) == {1.0}


@each_rule
@pytest.mark.parametrize("scale", [1, 10**6])
def test_layers_of_very_different_sizes(
    rule: Callable[[Problem], dict[str, float]], scale: int
) -> None:
    of = whole("resnet20")
    sizes = [scale, 3, *[7 * scale + 1] * 10, 2, *[10**9 // scale] * 4]
    layers: dict[str, Any] = {}
    for (name, layer), size in zip(of.layers.items(), sizes, strict=False):
        layers[name] = replace(layer, weights=size, macs=size * (1 if size % 2 else 10**5))
    small = replace(of, layers=layers, classifier=list(layers)[-1])
    for cost, price in costs(small).items():
        for share in (1e-3, 0.1, 0.9):
            limited = replace(small, limits={cost: max(1, int(share * price.sum()))})
            try:
                found = values(rule(limited))
            except BudgetError:
                assert rule is rules.uniform_plus
                continue
            assert ((found > 0) & (found <= 1)).all()
            assert used(limited, found) == pytest.approx(1, abs=1e-9)
