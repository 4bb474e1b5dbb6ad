"""The global ranking of scores against sorting all of them."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from precrop.errors import PrecropError
from precrop.pruning.problem import Problem
from precrop.pruning.ranking import kept_weights, outranked, shares
from precrop.solve.structure import Cost, Layer


def problem(
    sizes: Mapping[str, int], prices: Mapping[str, int], limits: Mapping[str, int]
) -> Problem:
    """Layers by their number of weights and the MACs of one weight; there is no network."""
    layers = {
        name: Layer(name, "conv", size, size * prices[name], 1, size, Cost({(): size}))
        for name, size in sizes.items()
    }
    names = list(layers)
    network = cast(Any, None)
    return Problem(network, layers, dict.fromkeys(names, ""), names[0], names[-1], limits)


def expected(of: Problem, scores: Mapping[str, Tensor]) -> dict[str, list[bool]]:
    """The rule in words, one weight at a time.

    Scores are admitted from the highest down, all that are equal at once, until a budget is passed;
    a layer without any keeps its best weight throughout. Of the scores that didn't all fit, layers
    keep equal shares, the first weights of each: one by one, always the layer of which the smaller
    share is kept, in the middle of the weight that comes next, and the first layer of equal ones.
    Once one doesn't fit, as many are kept as fit, layers in alphabetical order.
    """
    each = {"params": dict.fromkeys(of.layers, 1)}
    each["macs"] = {name: layer.macs // layer.weights for name, layer in of.layers.items()}
    values = {name: scores[name].double().reshape(-1).tolist() for name in sorted(scores)}

    def fits(kept: Mapping[str, list[bool]]) -> bool:
        used = {cost: sum(each[cost][n] * sum(kept[n]) for n in kept) for cost in of.limits}
        return all(used[cost] <= limit for cost, limit in of.limits.items())

    def admitted(least: float) -> dict[str, list[bool]]:
        kept = {name: [value >= least for value in row] for name, row in values.items()}
        for name, row in values.items():
            if not any(kept[name]):
                kept[name][row.index(max(row))] = True
        return kept

    kept = admitted(np.inf)
    for least in sorted({value for row in values.values() for value in row}, reverse=True):
        more = admitted(least)
        if fits(more):
            kept = more
            continue
        tied = {
            name: [i for i, value in enumerate(row) if value == least and not kept[name][i]]
            for name, row in values.items()
        }
        queue = [
            (Fraction(2 * rank + 1, 2 * len(places)), name, place)
            for name, places in tied.items()
            for rank, place in enumerate(places)
        ]
        one_by_one = [(name, place) for _, name, place in sorted(queue)]
        for name, place in one_by_one:
            kept[name][place] = True
            if not fits(kept):
                kept[name][place] = False
                break
        for name, places in tied.items():
            for place in [place for place in places if not kept[name][place]]:
                kept[name][place] = True
                if not fits(kept):
                    kept[name][place] = False
                    break
        break
    return kept


def flat(masks: Mapping[str, Tensor]) -> dict[str, list[bool]]:
    return {name: mask.reshape(-1).tolist() for name, mask in masks.items()}


few = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -3.0, 2.0**-140])
many = st.floats(width=16, allow_nan=False, allow_infinity=False)


@st.composite
def cases(draw: st.DrawFn, values: st.SearchStrategy[float]) -> tuple[Problem, dict[str, Tensor]]:
    names = draw(st.permutations("abcde"))[: draw(st.integers(1, 5))]
    rows = {name: draw(st.lists(values, min_size=1, max_size=8)) for name in names}
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]))
    scores = {name: torch.tensor(row, dtype=dtype) for name, row in rows.items()}
    prices = {name: draw(st.sampled_from([0, 1, 3, 7, 64, 12_544])) for name in names}
    least = {"params": len(names), "macs": max(1, sum(prices.values()))}
    most = {"params": sum(map(len, rows.values()))}
    most["macs"] = max(1, sum(prices[name] * len(rows[name]) for name in names))
    asked = draw(st.sampled_from([["params"], ["macs"], ["params", "macs"]]))
    limits = {cost: draw(st.integers(least[cost], most[cost] + 1)) for cost in asked}
    return problem({name: len(row) for name, row in rows.items()}, prices, limits), scores


@settings(max_examples=400, deadline=None)
@given(cases(few) | cases(many))
def test_as_by_sorting(case: tuple[Problem, dict[str, Tensor]]) -> None:
    of, scores = case
    found = kept_weights(of, scores)
    assert flat(found) == expected(of, scores)
    assert {name: mask.dtype for name, mask in found.items()} == dict.fromkeys(scores, torch.bool)
    assert shares(found) == {name: float(mask.double().mean()) for name, mask in found.items()}


@settings(max_examples=150, deadline=None)
@given(cases(few) | cases(many), st.randoms(use_true_random=False))
def test_the_order_of_layers_is_of_no_account(
    case: tuple[Problem, dict[str, Tensor]], random: Any
) -> None:
    of, scores = case
    names = list(scores)
    random.shuffle(names)
    other = problem(
        {name: of.layers[name].weights for name in names},
        {name: of.layers[name].macs // of.layers[name].weights for name in names},
        of.limits,
    )
    shuffled = kept_weights(other, {name: scores[name] for name in reversed(names)})
    assert list(shuffled) == names[::-1]
    assert flat(shuffled) == {name: flat(kept_weights(of, scores))[name] for name in shuffled}


@settings(max_examples=150, deadline=None)
@given(cases(many), st.sampled_from([0.125, 3.0]))
def test_only_the_order_of_scores_counts(
    case: tuple[Problem, dict[str, Tensor]], factor: float
) -> None:
    of, scores = case
    wide = {name: score.double() for name, score in scores.items()}
    scaled = {name: factor * score + 0.25 for name, score in wide.items()}
    assert flat(kept_weights(of, scaled)) == flat(kept_weights(of, wide))


@settings(max_examples=150, deadline=None)
@given(cases(many), st.integers(0, 40))
def test_a_larger_budget_keeps_what_a_smaller_one_does(
    case: tuple[Problem, dict[str, Tensor]], more: int
) -> None:
    of, scores = case
    values = torch.cat(list(scores.values())).double()
    if len(values.unique()) < len(values):
        return  # cheap ties may give way to a dear one that fits at last
    small, large = (flat(kept_weights(of, scores, limits)) for limits in (
        of.limits, {cost: limit + more for cost, limit in of.limits.items()}
    ))  # fmt: skip
    assert all(b >= a for name in small for a, b in zip(small[name], large[name], strict=True))


SIZES = {"wide": 40_000, "mid": 9_000, "narrow": 600, "one": 1}
PRICES = {"wide": 1, "mid": 16, "narrow": 1024, "one": 50}


@pytest.mark.parametrize("budgets", [(0.3, None), (None, 0.3), (0.25, 0.3), (0.01, 0.9), (1, 1)])
@pytest.mark.parametrize("values", ["normal", "positive", "ties", "equal", "spread", "sparse"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_many_weights(
    budgets: tuple[float | None, float | None], values: str, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = {n: torch.randn(s, generator=generator).to(dtype) for n, s in SIZES.items()}
    change = {
        "normal": lambda x: x,
        "positive": lambda x: x.abs(),
        "ties": lambda x: (4 * x).round(),
        "equal": lambda x: 0 * x - 7,
        "spread": lambda x: (15 * x).exp(),
        "sparse": lambda x: x.abs() * (x > 1),
    }[values]
    scores = {name: change(score) for name, score in scores.items()}
    totals = {"params": sum(SIZES.values()), "macs": sum(PRICES[n] * s for n, s in SIZES.items())}
    asked = dict(zip(totals, budgets, strict=True))
    limits = {cost: int(share * totals[cost]) for cost, share in asked.items() if share is not None}
    found = kept_weights(problem(SIZES, PRICES, limits), scores)

    names = sorted(SIZES)
    rank = torch.cat([scores[name].double() for name in names])
    owner = np.repeat(np.arange(len(names)), [SIZES[name] for name in names])
    kept = torch.cat([found[name] for name in names])
    price = np.array([PRICES[name] for name in names])[owner]
    used = {"params": int(kept.sum()), "macs": int(price[kept.numpy()].sum())}
    assert all(used[cost] <= limit for cost, limit in limits.items())
    best = torch.stack([scores[name].max() for name in names]).double()[torch.from_numpy(owner)]
    pruned, ranked = ~kept, kept & (rank < best)  # a layer's best weight may be kept for its sake
    if pruned.any() and ranked.any():
        assert rank[pruned].max() <= rank[ranked].min()
    if not pruned.any():
        assert all(limits[cost] >= totals[cost] for cost in limits)
        return
    first = rank == rank[pruned].max()
    costs = {"params": np.ones_like(price), "macs": price}
    for place in (first & pruned).nonzero().view(-1).tolist():
        assert any(used[cost] + costs[cost][place] > limits[cost] for cost in limits)


def test_several_dimensions_and_memory_formats() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = {name: torch.randn(6, 4, 3, 3, generator=generator) for name in "ab"}
    of = problem(dict.fromkeys("ab", 216), {"a": 1, "b": 9}, {"params": 150, "macs": 600})
    plain = kept_weights(of, scores)
    assert plain["a"].shape == (6, 4, 3, 3)
    formats = {
        "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
        "transposed": lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        "with a gradient": lambda x: x.clone().requires_grad_(),
    }
    for change in formats.values():
        for of_sign in (torch.Tensor.abs, torch.Tensor.neg):
            changed = {name: change(of_sign(score)) for name, score in scores.items()}
            straight = kept_weights(of, {name: of_sign(score) for name, score in scores.items()})
            found = kept_weights(of, changed)
            assert all(torch.equal(found[name], straight[name]) for name in "ab")


def test_equal_scores_in_another_memory_format() -> None:
    of = problem({"a": 216}, {"a": 1}, {"params": 50})
    plain = kept_weights(of, {"a": torch.ones(6, 4, 3, 3)})["a"]
    last = torch.ones(6, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    assert torch.equal(kept_weights(of, {"a": last})["a"], plain)
    assert plain.reshape(-1)[:50].all()


def test_scores_of_several_types() -> None:
    a, b, c = [3.0, 1.0, -2.0], [2.0, 1.5, -3.0], [2.5, -1.0]
    of = problem({"a": 3, "b": 3, "c": 2}, dict.fromkeys("abc", 1), {"params": 4})
    scores = {
        "a": torch.tensor(a, dtype=torch.float64),
        "b": torch.tensor(b),
        "c": torch.tensor(c, dtype=torch.bfloat16),
    }
    assert flat(kept_weights(of, scores)) == {
        "a": [True, False, False],
        "b": [True, True, False],
        "c": [True, False],
    }


def test_scores_are_left_alone() -> None:
    scores = {"a": torch.tensor([1.0, -0.0, -2.0, 0.0])}
    before = scores["a"].clone()
    kept_weights(problem({"a": 4}, {"a": 1}, {"params": 2}), scores)
    assert torch.equal(scores["a"].view(torch.int32), before.view(torch.int32))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_scores_that_are_no_numbers(bad: float, dtype: torch.dtype) -> None:
    scores = {"fine": torch.ones(3, dtype=dtype), "layer.3": torch.ones(4, dtype=dtype)}
    scores["layer.3"][2] = bad
    of = problem({"fine": 3, "layer.3": 4}, {"fine": 1, "layer.3": 1}, {"params": 4})
    with pytest.raises(PrecropError, match="layer.3") as caught:
        kept_weights(of, scores)
    assert "fine" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limits", [{"params": 2}, {"macs": 20}, {"params": 6, "macs": 20}])
def test_a_budget_below_one_weight_a_layer(limits: dict[str, int]) -> None:
    of = problem(dict.fromkeys("abc", 4), {"a": 1, "b": 10, "c": 10}, limits)
    scores = {name: torch.arange(4.0) for name in "abc"}
    with pytest.raises(PrecropError, match="params|macs"):
        kept_weights(of, scores)


def test_large_budgets_are_met_to_the_unit() -> None:
    # A classifier's weight costs one MAC, and the whole network some ten to the tenth.
    of = problem({"conv": 2, "fc": 9}, {"conv": 10**10, "fc": 1}, {"macs": 10**10 + 5})
    scores = {"conv": torch.tensor([9.0, -1.0]), "fc": torch.arange(9.0)}
    assert kept_weights(of, scores)["fc"].tolist() == [False] * 4 + [True] * 5


def test_a_layer_that_ranks_too_low_keeps_its_best_weight() -> None:
    of = problem({"a": 4, "b": 3, "c": 1}, dict.fromkeys("abc", 1), {"params": 5})
    scores = {
        "a": torch.tensor([5.0, 6.0, 7.0, 8.0]),
        "b": torch.tensor([1.0, 3.0, 2.0]),
        "c": torch.tensor([0.0]),
    }
    found = flat(kept_weights(of, scores))
    assert found == {
        "a": [False, True, True, True],
        "b": [False, True, False],
        "c": [True],
    }
    assert outranked(scores, kept_weights(of, scores)) == ["b"]


def test_one_weight_that_ranks_high_enough_is_no_collapse() -> None:
    of = problem({"a": 4, "b": 3}, dict.fromkeys("ab", 1), {"params": 4})
    scores = {"a": torch.tensor([5.0, 6.0, 7.0, 1.0]), "b": torch.tensor([2.0, 8.0, 0.0])}
    kept = kept_weights(of, scores)
    assert flat(kept) == {"a": [True, True, True, False], "b": [False, True, False]}
    assert outranked(scores, kept) == []
    for number, gone in ((1.5, []), (0.5, ["b"])):
        scores["b"] = torch.tensor([0.0, number, 0.0])
        assert outranked(scores, kept_weights(of, scores)) == gone
    everything = {
        name: torch.ones_like(values, dtype=torch.bool) for name, values in scores.items()
    }
    assert outranked(scores, everything) == []


# --- equal scores ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -2.5])
@pytest.mark.parametrize("limit", [12, 345, 900, 1499])
def test_equal_scores_go_alike_in_every_layer(value: float, limit: int) -> None:
    sizes = {"z": 900, "a": 300, "m": 300, "b": 60}
    of = problem(sizes, dict.fromkeys(sizes, 1), {"params": limit})
    scores = {name: torch.full((size,), value) for name, size in sizes.items()}
    scores["b"] += torch.arange(60)  # these rank before all that are equal, but for the first
    kept = kept_weights(of, scores)
    assert sum(int(mask.sum()) for mask in kept.values()) == limit
    share = max(0, limit - 60) / 1501
    for name in "zam":
        assert int(kept[name].sum()) == pytest.approx(max(1, share * sizes[name]), abs=2)
        assert kept[name][: int(kept[name].sum())].all()
    assert int(kept["a"].sum()) - int(kept["m"].sum()) in (0, 1)
