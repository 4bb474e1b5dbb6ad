"""SynFlow's scores against its formula, computed by PyTorch on a network that is linear."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import pytest
import timm
import torch
from torch import Tensor, nn

import precrop
from precrop.errors import PrecropError
from precrop.linear.replay import Replay
from precrop.models import (
    cifar_efficientnet_b0,
    cifar_mobilenet_v2,
    cifar_vgg16_bn,
    resnet20,
    resnet110,
)
from precrop.pruning.problem import Problem
from precrop.pruning.ranking import kept_weights
from precrop.pruning.synflow import saliency, synflow
from tests.linear.linear import layer_weights, linear_copy, scored

SHAPE = (3, 16, 16)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def flat(scores: Mapping[str, Tensor]) -> Tensor:
    """All scores in one row, up to their common factor."""
    row = torch.cat([scores[name].double().flatten() for name in sorted(scores)])
    return row / row.sum()


def shares(masks: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(mask.double().mean()) for name, mask in masks.items()}


def best(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The highest scores of the whole network."""
    row = torch.cat([values.flatten() for values in scores.values()])
    least = row.topk(count).values[-1]
    return {name: values >= least for name, values in scores.items()}


FACTORIES: dict[str, Callable[[], nn.Module]] = {
    "resnet20": resnet20,
    "resnet20 padded": lambda: resnet20(shortcut="pad"),
    "vgg16": cifar_vgg16_bn,
    "mobilenet_v2": cifar_mobilenet_v2,
    "efficientnet_b0": cifar_efficientnet_b0,
}


@pytest.mark.parametrize(
    "name",
    [
        *(name for name in FACTORIES if name != "vgg16"),
        pytest.param("vgg16", marks=pytest.mark.matrix),
    ],
)
def test_one_round_is_the_formula(name: str) -> None:
    model = FACTORIES[name]().double()
    shape = (3, 32, 32) if name == "vgg16" else SHAPE
    found = precrop.scores(model, shape, method="synflow", params=0.1, rounds=1)
    _, expected = scored(linear_copy(model), shape)
    expected = {name: expected.get(name, torch.zeros_like(found[name])) for name in found}
    ours, theirs = flat(found), flat(expected)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    ranked = theirs[ours.argsort(stable=True)]
    assert (ranked.diff() >= -1e-12 * ranked[1:]).all()


def test_a_gate_is_one_and_its_layers_score_nothing() -> None:
    found = precrop.scores(cifar_efficientnet_b0(), SHAPE, method="synflow", params=0.5, rounds=1)
    for name, values in found.items():
        assert bool(values.any()) == (".gate." not in name)


@pytest.mark.parametrize(
    ("name", "density", "rounds"), [("resnet20", 0.1, 10), ("mobilenet_v2", 0.4, 4)]
)
def test_many_rounds_are_the_loop(name: str, density: float, rounds: int) -> None:
    model = FACTORIES[name]().double()
    problem = Problem.of(model, (3, 8, 8), {"params": density})
    weights = {parameter: layer for layer, parameter in problem.parameters.items()}
    kept = kept_weights(problem, synflow(problem, rounds=rounds))
    linear = linear_copy(model)
    total = sum(weight.numel() for weight in layer_weights(linear).values())
    limit = problem.limits["params"]
    for done in range(1, rounds + 1):
        _, scores = scored(linear, (3, 8, 8))
        pruned = int((1.0 - density ** (done / rounds)) * total)
        chosen = best(scores, total - pruned if done < rounds else limit)
        with torch.no_grad():
            for parameter, weight in layer_weights(linear).items():
                weight.mul_(chosen[parameter])
    for parameter, mask in chosen.items():
        assert torch.equal(kept[weights[parameter]], mask), parameter
    assert sum(int(mask.sum()) for mask in kept.values()) == limit


def test_rounds_prune_what_scored_low_before() -> None:
    model = resnet20()
    problem = Problem.of(model, (3, 8, 8), {"params": 0.01})
    scores = synflow(problem, rounds=5)
    kept = sum(int(values.count_nonzero()) for values in scores.values())
    total = sum(values.numel() for values in scores.values())
    # Some of what remained lies on no path any more.
    assert 0.95 * total * 0.01 ** (4 / 5) < kept <= total * 0.01 ** (4 / 5) + 1


def test_what_was_asked_decides_the_rounds_as_long_as_it_is_the_limit() -> None:
    problem = Problem.of(resnet20(), (3, 8, 8), {"params": "10%", "macs": 1_000_000})
    limit, total = problem.limits["params"], problem.totals["params"]
    assert problem.share("params") == 0.1 != limit / total
    assert problem.share("macs") == 1_000_000 / problem.totals["macs"]
    other = replace(problem, limits={"params": limit - 1})
    assert other.share("params") == (limit - 1) / total
    assert replace(problem, limits={"params": 2 * total}).share("params") == 1.0


# --- deep networks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factory", "shape", "density", "overflows"),
    [
        (resnet110, SHAPE, 0.05, True),
        (cifar_efficientnet_b0, SHAPE, 0.1, False),
        # The same architecture, initialised with larger weights.
        (partial(timm.create_model, "efficientnet_b0"), (3, 32, 32), 0.1, True),
    ],
)
def test_deep_networks_in_single_precision(
    factory: Callable[[], nn.Module], shape: tuple[int, ...], density: float, overflows: bool
) -> None:
    model = factory()
    naive, naive_scores = scored(linear_copy(model, dtype=torch.float32), shape)
    assert bool(naive.isfinite()) != overflows
    if overflows:
        assert not all(values.isfinite().all() for values in naive_scores.values())

    found = precrop.scores(model, shape, method="synflow", params=density, rounds=1)
    assert all(values.dtype == torch.float32 for values in found.values())
    assert all(values.isfinite().all() for values in found.values())
    _, expected = scored(linear_copy(model), shape)
    expected = {name: expected.get(name, torch.zeros_like(found[name])) for name in found}
    torch.testing.assert_close(flat(found), flat(expected), rtol=1e-4, atol=0)

    total = sum(values.numel() for values in found.values())
    count = int(density * total)
    ours, theirs = shares(best(found, count)), shares(best(expected, count))
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_half_precision_weights_are_scored_in_single() -> None:
    model = resnet110().half()
    found = precrop.scores(model, (3, 8, 8), method="synflow", params=0.1, rounds=1)
    _, expected = scored(linear_copy(model), (3, 8, 8))
    torch.testing.assert_close(flat(found), flat(expected), rtol=1e-4, atol=0)


# --- properties -----------------------------------------------------------------------------------


def test_scores_of_a_layer_that_every_path_passes_add_up_to_r() -> None:
    for model, passed in (
        (cifar_vgg16_bn().double(), None),
        (resnet20().double(), {"conv1", "fc"}),
    ):
        problem = Problem.of(model, (3, 32, 32), {"params": 0.5})
        replay = Replay(problem.network, average_pool=False)
        weights = {name: weight.abs() for name, weight in problem.weights().items()}
        parameters = {problem.parameters[name]: weight for name, weight in weights.items()}
        total, scores = saliency(replay, parameters)
        for name in weights:
            values = scores[problem.parameters[name]]
            share = float(values.sum() / total.values)
            if passed is None or name in passed:
                assert share == pytest.approx(1, rel=1e-9)
            else:
                assert 0 < share < 1


def test_scores_do_not_depend_on_signs_biases_and_norms() -> None:
    model = resnet20()
    one = precrop.scores(model, (3, 8, 8), method="synflow", params=0.1, rounds=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.randn_like(parameter).sign())
            elif "bn" in name or name.endswith("bias"):
                parameter.uniform_(-1, 1)
    two = precrop.scores(model, (3, 8, 8), method="synflow", params=0.1, rounds=3)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_model_stays_as_it_was() -> None:
    model = resnet20()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        precrop.scores(model, (3, 8, 8), method="synflow", params=0.1, rounds=2)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [0, -1, 2.0, True, "many"])
def test_senseless_rounds(rounds: object) -> None:
    with pytest.raises(PrecropError, match="write a whole number from 1 up"):
        precrop.scores(resnet20(), (3, 8, 8), method="synflow", params=0.1, rounds=rounds)


def test_a_layer_of_zeros_is_named() -> None:
    model = resnet20()
    nn.init.zeros_(model.fc.weight)
    with pytest.raises(PrecropError, match="all weights of fc are zero"):
        precrop.scores(model, (3, 8, 8), method="synflow", params=0.1)


def test_weights_that_are_no_numbers() -> None:
    model = resnet20()
    nn.init.constant_(model.fc.weight, math.nan)
    with pytest.raises(PrecropError, match="not all finite"):
        precrop.densities(model, (3, 8, 8), method="synflow", params=0.1)


def test_weights_without_values() -> None:
    with torch.device("meta"):
        model = resnet20()
    with pytest.raises(PrecropError, match="conv1 has no values"):
        precrop.scores(model, (3, 8, 8), method="synflow", params=0.1)


def test_where_no_path_is_left_the_last_scores_count() -> None:
    # Eight hidden units have one strong weight in and weak ones out, eight more the reverse: after
    # the first round the strong ones remain, and no two of them meet.
    layers = nn.Linear(4, 16, bias=False), nn.Linear(16, 4, bias=False)
    one = torch.eye(4).repeat(2, 1)
    with torch.no_grad():
        layers[0].weight.copy_(torch.cat([10 * one, torch.ones(8, 4)]))
        layers[1].weight.copy_(torch.cat([torch.full((4, 8), 0.5), 5 * one.T], dim=1))
    problem = Problem.of(nn.Sequential(*layers), (4,), {"params": 2})
    first, last = synflow(problem, rounds=1), synflow(problem, rounds=2)
    kept = {"0": torch.cat([one, torch.zeros(8, 4)]), "1": torch.cat([0 * one, one]).T}
    for name, values in last.items():
        assert torch.equal(values, first[name] * kept[name])
        assert values.max() == pytest.approx(20)
