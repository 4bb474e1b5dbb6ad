"""Masks against what single units are when they are written out, one index at a time."""

import itertools
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

import precrop
from precrop.errors import PrecropError
from precrop.models.resnet import resnet20
from precrop.pruning.masking import GRANULARITIES, apply_masks, masks
from precrop.pruning.problem import LayerCollapseWarning, Problem
from tests.networks import BLOCKS, SHAPE, small

pytestmark = pytest.mark.filterwarnings("ignore::precrop.MaskSizeWarning")
FAST = settings(max_examples=60, deadline=None)
granularities = st.sampled_from(list(GRANULARITIES))


@st.composite
def layers(draw: st.DrawFn) -> nn.Module:
    """A convolution of any kind, or a linear layer."""
    size = st.integers(1, 4)
    kind = draw(st.sampled_from(["linear", "conv", "grouped", "depthwise", "transposed"]))
    inputs, outputs = draw(size), draw(size)
    if kind == "linear":
        return nn.Linear(inputs, outputs)
    groups = 1 if kind == "conv" else draw(st.integers(1, 3))
    inputs = 1 if kind == "depthwise" else inputs
    ends, kernel = (groups * inputs, groups * outputs), draw(st.integers(1, 3))
    plain, transposed = (nn.Conv1d, nn.Conv2d), (nn.ConvTranspose1d, nn.ConvTranspose2d)
    cls: Any = draw(st.sampled_from(transposed if kind == "transposed" else plain))
    layer: nn.Module = cls(*ends, kernel, groups=groups, padding=kernel - 1)
    return layer


models = st.lists(layers(), min_size=1, max_size=5).map(lambda found: nn.Sequential(*found))
densities_of_five = st.lists(st.floats(1e-3, 1), min_size=5, max_size=5)


def units_of(layer: Any, granularity: str) -> list[list[tuple[int, ...]]]:
    """Indices of the weights in every unit, in the order of outputs, inputs and positions."""
    shape, groups = tuple(layer.weight.shape), getattr(layer, "groups", 1)
    found: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for index in itertools.product(*map(range, shape)):
        first, second, *window = index
        second += first // (shape[0] // groups) * shape[1]
        o, i = (second, first) if getattr(layer, "transposed", False) else (first, second)
        ends = {"weight": (o, i, *window), "kernel": (o, i), "filter": (o,), "channel": (i,)}
        found.setdefault(ends[granularity], []).append(index)
    return [found[key] for key in sorted(found)]


def kept_units(layer: Any, granularity: str, mask: Tensor) -> list[int]:
    """Numbers of the units that remain; none is cut in two."""
    found = []
    for number, unit in enumerate(units_of(layer, granularity)):
        values = {bool(mask[index]) for index in unit}
        assert len(values) == 1
        if values.pop():
            found.append(number)
    return found


def named(model: nn.Sequential, densities: list[float]) -> dict[str, float]:
    return {name: p for (name, _), p in zip(model.named_children(), densities, strict=False)}


# --- how many units -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_whole_units_that_are_more_than_was_asked_for_are_told() -> None:
    model = resnet20()
    densities = precrop.densities(model, (3, 32, 32), method="erk", params=0.02)
    masks(model, densities)
    masks(model, dict.fromkeys(densities, 0.5), "filter")
    with pytest.warns(precrop.MaskSizeWarning) as caught:
        found = masks(model, densities, "filter")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    kept = sum(int(mask.sum()) for mask in found.values())
    asked = sum(densities[name.removesuffix(".weight")] * m.numel() for name, m in found.items())
    assert kept > 1.05 * asked
    assert str(caught[0].message) == (
        f"the masks keep {kept:,} weights, the densities ask for {asked:,.0f}: every layer keeps "
        "a filter at least, and whole ones"
    )


@FAST
@given(models, densities_of_five, granularities)
def test_counts(model: nn.Sequential, densities: list[float], granularity: str) -> None:
    shares = named(model, densities)
    found = masks(model, shares, granularity)
    assert list(found) == [f"{name}.weight" for name in shares]
    asked, total, least, largest = 0.0, 0, 0, 0
    for name, share in shares.items():
        layer: Any = model.get_submodule(name)
        mask, units = found[f"{name}.weight"], units_of(layer, granularity)
        assert (mask.dtype, mask.shape) == (torch.bool, layer.weight.shape)
        kept, wanted = len(kept_units(layer, granularity, mask)), share * len(units)
        assert max(1, math.floor(wanted + 1e-9)) <= kept <= max(1, math.ceil(wanted - 1e-9))
        asked += wanted * len(units[0])
        total += kept * len(units[0])
        least += max(1, math.floor(wanted + 1e-9)) * len(units[0])
        largest = max(largest, len(units[0]))
    assert asked - largest / 2 - 1e-6 <= total
    assert total <= max(asked + largest / 2 + 1e-6, least)


@FAST
@given(models, granularities, st.data())
def test_whole_numbers_of_units_are_exact(
    model: nn.Sequential, granularity: str, data: st.DataObject
) -> None:
    numbers = {name: len(units_of(layer, granularity)) for name, layer in model.named_children()}
    wanted = {name: data.draw(st.integers(1, number)) for name, number in numbers.items()}
    found = masks(model, {name: wanted[name] / numbers[name] for name in wanted}, granularity)
    for name, layer in model.named_children():
        assert len(kept_units(layer, granularity, found[f"{name}.weight"])) == wanted[name]


@pytest.mark.parametrize("share", [0.003, 0.1, 0.5, 1.0])
def test_resnet20_to_half_a_weight(share: float) -> None:
    model = resnet20()
    found = masks(model, precrop.densities(model, (3, 32, 32), method="erk", params=share))
    total = sum(mask.numel() for mask in found.values())
    assert total == 270_896
    # A budget counts whole weights.
    assert sum(int(mask.sum()) for mask in found.values()) == math.floor(share * total + 1e-6)


def test_a_layer_keeps_a_unit_though_its_density_asks_for_less() -> None:
    model = nn.Sequential(*(nn.Linear(10, 10) for _ in range(3)))
    found = masks(model, {"0": 1e-4, "1": 0.5, "2": 0.123}, "filter")
    assert [int(mask.sum()) for mask in found.values()] == [10, 50, 10]


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ({"0": 2.3, "1": 2.6}, [2, 3]),  # the larger part of a unit comes first
        ({"0": 2.6, "1": 2.3}, [3, 2]),
        ({"1": 2.5, "0": 2.5}, [3, 2]),  # of equal parts, that of the first name
        ({"0": 2.3, "1": 2.3, "2": 2.3}, [3, 2, 2]),
        ({"0": 2.2, "1": 2.2}, [2, 2]),
    ],
)
def test_who_gets_the_missing_units(wanted: dict[str, float], kept: list[int]) -> None:
    model = nn.Sequential(*(nn.Linear(3, 10) for _ in wanted))
    found = masks(model, {name: number / 10 for name, number in wanted.items()}, "filter")
    assert [int(found[f"{name}.weight"].sum()) // 3 for name in sorted(wanted)] == kept


def test_whole_numbers_are_exact_though_too_much_is_kept_elsewhere() -> None:
    kept, number = 15, 22
    assert kept / number * number < kept
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(1, number))
    found = masks(model, {"0": 1e-3, "1": kept / number}, "filter")
    assert int(found["1.weight"].sum()) == kept


# --- which units --------------------------------------------------------------------------------


@FAST
@given(models, densities_of_five, granularities, st.integers(0, 2**32 - 1))
def test_highest_scores_remain(
    model: nn.Sequential, densities: list[float], granularity: str, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    scores = {  # whole numbers: sums are exact, and many are equal
        name: torch.randint(-3, 4, tensor.shape, generator=random).to(tensor.dtype)
        for name, tensor in model.named_parameters()
    }
    found = masks(model, named(model, densities), granularity, scores=scores)
    drawn = masks(model, named(model, densities), granularity)
    for name, mask in found.items():
        assert int(mask.sum()) == int(drawn[name].sum())
        layer = model.get_submodule(name.removesuffix(".weight"))
        units = units_of(layer, granularity)
        sums = [sum(float(scores[name][index]) for index in unit) for unit in units]
        kept = kept_units(layer, granularity, mask)
        ranked = sorted(range(len(units)), key=lambda number: (-sums[number], number))
        assert kept == sorted(ranked[: len(kept)])


def test_scores_of_the_whole_network_give_the_masks_of_its_threshold() -> None:
    model = resnet20()
    shares = precrop.densities(model, (3, 32, 32), method="magnitude", params=0.2)
    scores = precrop.scores(model, (3, 32, 32), method="magnitude", params=0.2)
    found = masks(model, shares, scores=scores)
    kept = torch.cat([scores[name][mask] for name, mask in found.items()])
    removed = torch.cat([scores[name][~mask] for name, mask in found.items()])
    assert kept.min() >= removed.max()


@FAST
@given(models, densities_of_five, granularities, st.integers(0, 2**32 - 1))
def test_random_masks_follow_the_seed_alone(
    model: nn.Sequential, densities: list[float], granularity: str, seed: int
) -> None:
    shares = named(model, densities)
    found = masks(model, shares, granularity, seed=seed)
    torch.rand(1)  # PyTorch's own random numbers matter as little as the order of layers
    again = masks(model, dict(reversed(shares.items())), granularity, seed=seed)
    assert list(again) == list(reversed(found))
    assert all(torch.equal(mask, again[name]) for name, mask in found.items())


def test_a_random_mask_depends_on_its_own_layer_only() -> None:
    model = resnet20()
    shares = {name: 0.25 for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    found = masks(model, shares, seed=3)
    other = masks(model, shares, seed=4)
    for layer in shares:
        name = f"{layer}.weight"
        assert torch.equal(masks(model, {layer: 0.25}, seed=3)[name], found[name])
        assert not torch.equal(other[name], found[name])
    first, second = (found[f"{layer}.weight"] for layer in list(shares)[1:3])
    assert first.shape == second.shape
    assert not torch.equal(first, second)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(
    "layer",
    [nn.Linear(3, 4), nn.Conv2d(4, 6, 2, groups=2), nn.ConvTranspose1d(6, 4, 2, groups=2)],
)
def test_random_masks_are_uniform(layer: nn.Module, granularity: str) -> None:
    draws, number = 400, len(units_of(layer, granularity))
    count = -(-number // 3)
    times = [0] * number
    for seed in range(draws):
        mask = masks(layer, {"": count / number}, granularity, seed=seed)["weight"]
        for unit in kept_units(layer, granularity, mask):
            times[unit] += 1
    share = count / number
    margin = 4.5 * math.sqrt(draws * share * (1 - share))
    assert sum(times) == draws * count
    assert all(abs(seen - draws * share) <= margin for seen in times)


def test_random_sets_are_equally_likely() -> None:
    layer, draws = nn.Linear(2, 2), 900
    seen: dict[tuple[bool, ...], int] = {}
    for seed in range(draws):
        key = tuple(masks(layer, {"weight": 0.5}, seed=seed)["weight"].flatten().tolist())
        seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 6
    assert all(abs(n - draws / 6) <= 4.5 * math.sqrt(draws * 5 / 36) for n in seen.values())


# --- units as the layers themselves have them ---------------------------------------------------


@FAST
@given(layers(), st.floats(0.01, 1), st.integers(0, 9))
def test_filters_are_outputs_and_channels_are_inputs(layer: Any, density: float, seed: int) -> None:
    """Of a removed filter nothing comes out; what goes into a removed channel is lost."""
    for granularity in ("filter", "channel"):
        mask = masks(layer, {"": density}, granularity, seed=seed)["weight"]
        window = (5,) * (layer.weight.dim() - 2)
        inputs = getattr(layer, "in_channels", layer.weight.shape[1])
        x = torch.rand(1, inputs, *window, requires_grad=True)
        weights = {"weight": mask * 1.0, "bias": torch.zeros_like(layer.bias)}
        y = torch.func.functional_call(layer, weights, (x,))
        (gradient,) = torch.autograd.grad(y.sum(), x)
        alive = y if granularity == "filter" else gradient
        alive = alive.reshape(*alive.shape[:2], -1).sum(-1)
        assert int((alive > 0).sum()) == len(kept_units(layer, granularity, mask))


# --- names of layers ----------------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS)
def test_every_layer_is_found_and_stays_masked(block: str) -> None:
    model = small(block, head="prototypes")
    problem = Problem.of(model, SHAPE, {"params": 0.5})
    found = masks(model, dict.fromkeys(problem.layers, 0.5))
    assert list(found) == list(problem.parameters.values())
    apply_masks(model, found)
    train(model, SHAPE, found)


class Parts(nn.Module):
    """Parameters by all kinds of names."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))
        self.table = nn.Parameter(torch.ones(4, 4))
        self.attn = nn.MultiheadAttention(4, 2)
        self.other = nn.MultiheadAttention(4, 2, kdim=2, vdim=2)
        self.rows = nn.ParameterList([torch.ones(2, 3)])
        self.again = self.attn.out_proj
        self.norm = nn.LayerNorm(4)
        self.lazy = nn.LazyLinear(2)


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(
    ("layer", "parameter"),
    [
        ("", "weight"),
        ("weight", "weight"),
        ("table", "table"),
        ("attn", "attn.in_proj_weight"),
        ("attn.in_proj_weight", "attn.in_proj_weight"),
        ("attn.out_proj", "attn.out_proj.weight"),
        ("again", "attn.out_proj.weight"),
        ("other.q_proj_weight", "other.q_proj_weight"),
        ("rows.0", "rows.0"),
    ],
)
def test_names(layer: str, parameter: str) -> None:
    assert list(masks(Parts(), {layer: 0.5})) == [parameter]


def test_masks_are_where_the_parameters_are() -> None:
    found = masks(nn.Conv2d(3, 4, 3, device="meta"), {"": 0.5}, "kernel")["weight"]
    assert (found.device.type, found.dtype, found.shape) == ("meta", torch.bool, (4, 3, 3, 3))


def test_masks_share_no_memory() -> None:
    found = masks(nn.Linear(4, 4), {"": 1.0}, "filter")["weight"]
    found[0, 0] = False
    assert int(found.sum()) == 15


# --- training with masks ------------------------------------------------------------------------


def train(model: nn.Module, shape: tuple[int, ...], found: dict[str, Tensor]) -> None:
    """Three steps; masked weights are zero in every forward pass, others learn."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    before = effective(model, found)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nan_to_num(model(x)).square().mean().backward()
        optimizer.step()
        model(x)
        for name, weight in effective(model, found).items():
            assert (weight[~found[name]] == 0).all()
            assert not torch.equal(weight, before[name])


def effective(model: nn.Module, names: Any) -> dict[str, Tensor]:
    """What the modules compute with."""
    found = {}
    for name in names:
        path, _, own = name.rpartition(".")
        found[name] = getattr(model.get_submodule(path), own).detach().clone()
    return found


@pytest.fixture
def masked() -> tuple[nn.Module, dict[str, Tensor]]:
    model = resnet20()
    shares = precrop.densities(model, (3, 32, 32), method="erk", params=0.2)
    found = masks(model, shares, "kernel")
    apply_masks(model, found)
    return model, found


def test_training_keeps_masks(masked: tuple[nn.Module, dict[str, Tensor]]) -> None:
    train(masked[0], (3, 16, 16), masked[1])


def test_state_dict(masked: tuple[nn.Module, dict[str, Tensor]]) -> None:
    model, found = masked
    train(model, (3, 16, 16), found)
    state = model.state_dict()
    other = resnet20()
    apply_masks(other, masks(other, {name.removesuffix(".weight"): 1.0 for name in found}))
    other.load_state_dict(state)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(other.eval()(x), model.eval()(x), rtol=0, atol=0)
    for name, mask in found.items():
        assert torch.equal(state[f"{name}_mask"], mask.float())
        assert torch.equal(effective(other, found)[name] != 0, mask)


def test_remove_makes_permanent(masked: tuple[nn.Module, dict[str, Tensor]]) -> None:
    model, found = masked
    x = torch.randn(2, 3, 16, 16)
    y = model.eval()(x)
    for name in found:
        prune.remove(model.get_submodule(name.removesuffix(".weight")), "weight")
    assert model.state_dict().keys() == resnet20().state_dict().keys()
    parameters = dict(model.named_parameters())
    assert all((parameters[name][~mask] == 0).all() for name, mask in found.items())
    torch.testing.assert_close(model(x), y, rtol=0, atol=0)
    apply_masks(model, found)  # once more, from the start


class Tied(nn.Module):
    """One parameter in two modules, one of which is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.first(x).relu(), self.second.weight)


@pytest.mark.parametrize("name", ["first", "second"])
def test_shared_parameters(name: str) -> None:
    model = Tied()
    found = masks(model, {name: 0.5})
    assert list(found) == ["first.weight"]
    apply_masks(model, {f"{name}.weight": found["first.weight"]})
    assert model.first.weight_orig is model.second.weight_orig
    both = dict.fromkeys(("first.weight", "second.weight"), found["first.weight"])
    train(model, (6,), both)
    for module in (model.first, model.second):
        prune.remove(module, "weight")
    assert model.first.weight is model.second.weight
    assert torch.equal(model.first.weight != 0, found["first.weight"])


# --- collapse and errors ------------------------------------------------------------------------


def test_collapse_is_warned_of() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    found = masks(model, {"0": 0.5, "1": 0.5, "2": 0.5})
    assert all(mask.any() for mask in found.values())
    found["0.weight"][:] = found["2.weight"][:] = False
    state = list(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(LayerCollapseWarning):
            apply_masks(model, found)
    assert list(model.state_dict()) == state
    with pytest.warns(LayerCollapseWarning, match="nothing of 0.weight, 2.weight"):
        apply_masks(model, found)
    assert not effective(model, ["2.weight"])["2.weight"].any()


@pytest.mark.parametrize("density", [0, -0.5, 1.001, float("nan"), True, "half", None])
def test_senseless_densities(density: Any) -> None:
    model = resnet20()
    message = rf"the density of fc is {re.escape(repr(density))}: write a number in \(0, 1\]"
    with pytest.raises(PrecropError, match=message):
        masks(model, {"fc": density})


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda m: masks(m, {}), "densities are empty"),
        (
            lambda m: masks(m, {"": 1}, "row"),
            "'row' is unknown: choose from weight, kernel,",
        ),
        (lambda m: masks(m, {"atn": 1}), "no layer 'atn'; did you mean attn"),
        (lambda m: masks(m, {"q": 1}), "no layer 'q'$"),
        (lambda m: masks(m, {"norm": 1}), "layer 'norm' has no weight of two"),
        (lambda m: masks(m, {"norm.bias": 1}), "layer 'norm.bias' has no weight of two"),
        (lambda m: masks(m, {"rows": 1}), "layer 'rows' has no weight of two"),
        (lambda m: masks(m, {"lazy": 1}), "layer 'lazy' has no weight of two"),
        (
            lambda m: masks(m, {"other": 1}),
            "'other' has several weights: name other.q_proj_weigh",
        ),
        (
            lambda m: masks(m, {"again": 1, "attn.out_proj": 1}),
            "'again' and 'attn.out_proj' are",
        ),
        (lambda m: masks(m, {"": 1}, scores={}), "scores of weight are missing$"),
        (
            lambda m: masks(m, {"": 1}, scores={"weights": torch.ones(4, 4)}),
            "scores of weight are missing; did you mean weights",
        ),
        (
            lambda m: masks(m, {"": 1}, scores={"weight": torch.ones(4, 3)}),
            r"scores of weight have shape \(4, 3\), its weights \(4, 4\)",
        ),
        (
            lambda m: masks(m, {"": 1}, scores={"weight": torch.full((4, 4), torch.nan)}),
            "scores of weight are not all finite",
        ),
    ],
)
def test_wrong_requests(wrong: Callable[[nn.Module], Any], message: str) -> None:
    with pytest.raises(PrecropError, match=message) as error:
        wrong(Parts())
    assert "\n" not in str(error.value)


SQUARE = torch.ones(2, 2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"1.wight": SQUARE}, "no parameter '1.wight'; did you mean 1.weight"),
        (
            {"1.weight": SQUARE[0]},
            r"mask of 1.weight must be bool of shape \(2, 2\): it is bool",
        ),
        ({"1.weight": SQUARE.float()}, "mask of 1.weight must be bool .* it is float32 of shape"),
        ({"2.weight": SQUARE}, "2.weight is masked already: make that permanent first"),
        ({"2.weight_orig": SQUARE}, "2.weight is masked already"),
        ({"3.weight": SQUARE}, "0.weight and 3.weight are one parameter"),
    ],
)
def test_wrong_masks_change_nothing(wrong: dict[str, Tensor], message: str) -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    model[3].weight = model[0].weight
    apply_masks(model, {"2.weight": SQUARE})
    state = list(model.state_dict())
    with pytest.raises(PrecropError, match=message):
        apply_masks(model, {"0.weight": SQUARE, **wrong})
    assert list(model.state_dict()) == state


@pytest.mark.parametrize("granularity", ["kernel", "filter"])
def test_equal_fractions_are_rounded_alike_whatever_their_last_digits(granularity: str) -> None:
    """Layers of equal densities and sizes share the rounding in the order of their names."""
    model = nn.Sequential(*(nn.Conv2d(8, 8, 3) for _ in range(5)))
    found = [
        [
            int(mask.sum())
            for mask in masks(model, named(model, list(densities)), granularity).values()
        ]
        for densities in ([0.5403] * 5, [0.5403 + 1e-14 * i for i in range(5)])
    ]
    assert found[0] == found[1] == sorted(found[0], reverse=True)
    assert len(set(found[0])) == 2
