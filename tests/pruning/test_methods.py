"""Every method through one battery, and the functions that call them by name."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.errors import PrecropError
from precrop.models import resnet20
from precrop.pruning import methods, rules
from precrop.pruning.methods import layer_densities
from precrop.pruning.problem import Problem
from tests.networks import BLOCKS, SHAPE, assemble, short_mobilenet, small
from tests.pruning.check_allocator import check_allocator

METHODS = [*methods.METHODS]
RULES, SCORES = (
    [name for name, method in methods.METHODS.items() if method.kind == kind]
    for kind in ("rule", "score")
)
QUICK: dict[str, dict[str, Any]] = {"synflow": {"rounds": 3}}
"""Options with which a method takes less long."""


class Mixed(nn.Module):
    """A grouped, a depthwise and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.grouped = nn.Conv2d(12, 24, 3, stride=2, padding=1, groups=3, bias=False)
        self.norm = nn.BatchNorm2d(24)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.up = nn.ConvTranspose2d(24, 16, 2, stride=2)
        self.point = nn.Conv2d(16, 32, 1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = self.depthwise(self.norm(self.grouped(x)).relu()).relu()
        x = self.point(self.up(x).relu()).relu()
        return self.fc(x.mean((2, 3)))


def mlp() -> nn.Module:
    sizes = [(16, 96), (96, 64), (64, 10)]
    layers = [layer for size in sizes for layer in (nn.Linear(*size), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (resnet20, (3, 16, 16)),
    "mobilenet": (short_mobilenet, (3, 16, 16)),
    "mixed": (Mixed, (3, 10, 10)),
    "mlp": (mlp, (16,)),
}


def network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    make, shape = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(), shape


def batches(shape: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(4, *shape, generator=generator), torch.arange(4)),
        (torch.randn(2, *shape, generator=generator), torch.arange(2)),
    ]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("of", NETWORKS)
def test_every_method(name: str, of: str) -> None:
    model, shape = network(of)
    check_allocator(name, model, shape, data=batches(shape), **QUICK.get(name, {}))


@pytest.mark.parametrize("block", BLOCKS)
def test_every_construction(block: str) -> None:
    for name in ("erk", "random"):
        check_allocator(name, small(block), SHAPE)


def test_stem_and_classifier_are_those_of_the_running_network() -> None:
    model = assemble([("inception", 8)], aux=True)
    of = Problem.of(model, SHAPE, {"params": 0.5})
    assert any(name.startswith("aux") for name in of.layers)  # runs in training alone
    last = [name for name, module in model.head.named_modules() if isinstance(module, nn.Linear)]
    assert (of.stem, of.classifier) == ("stem.0", f"head.{last[-1]}")


@pytest.mark.parametrize("name", SCORES)
def test_only_synflow_depends_on_the_budget(name: str) -> None:
    model, shape = network("mixed")
    options: dict[str, Any] = {"method": name, "data": batches(shape), **QUICK.get(name, {})}
    found = [precrop.scores(model, shape, params=share, **options) for share in (0.9, 0.1)]
    same = all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    assert same == (name != "synflow")


# --- a new method -------------------------------------------------------------------------------


def by_position(problem: Problem) -> dict[str, Tensor]:
    """A score: a weight is worth less the further back it stands in its tensor."""
    return {
        name: -torch.linspace(0, 1, weight.numel()).reshape(weight.shape)
        for name, weight in problem.weights().items()
    }


def test_a_new_score_is_a_function_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.METHODS, "by_position", methods.Method(by_position, "score"))
    for of in ("mixed", "mlp"):
        check_allocator("by_position", *network(of))
    model, shape = network("mlp")
    found = precrop.densities(model, shape, method="by_position", params=0.5)
    assert list(found.values()) == pytest.approx([0.5] * 3, abs=0.01)
    with pytest.raises(precrop.PrecropError, match="by_position"):
        precrop.densities(model, shape, method="by_hand", params=0.5)


def smallest_last(problem: Problem, *, power: float = 0.5) -> dict[str, float]:
    """A rule: one budget alone, densities that fall with a power of the layer's size."""
    low, high = 0.0, 1e12
    for _ in range(200):
        level = (low + high) / 2
        found = {
            name: min(1.0, level * layer.weights**-power) for name, layer in problem.layers.items()
        }
        used = {
            "params": sum(found[name] * layer.weights for name, layer in problem.layers.items()),
            "macs": sum(found[name] * layer.macs for name, layer in problem.layers.items()),
        }
        fits = all(used[cost] <= limit for cost, limit in problem.limits.items())
        low, high = (level, high) if fits else (low, level)
    return found


def test_a_new_rule_is_a_function_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.METHODS, "smallest_last", methods.Method(smallest_last, "rule"))
    for of in ("mixed", "mlp"):
        check_allocator("smallest_last", *network(of))
        check_allocator("smallest_last", *network(of), power=1.0)
    model, shape = network("mlp")
    flat = precrop.densities(model, shape, method="smallest_last", params=0.5, power=0.0)
    assert list(flat.values()) == pytest.approx([0.5] * 3)


# --- what the battery is there to catch ---------------------------------------------------------


def evenly(problem: Problem) -> dict[str, float]:
    return rules.uniform(problem)


def zeros(problem: Problem) -> dict[str, float]:
    return {name: float(share == 1) for name, share in evenly(problem).items()}


def above_one(problem: Problem) -> dict[str, float]:
    return {name: share * 3 if share < 1 else 1 for name, share in evenly(problem).items()}


def backwards(problem: Problem) -> dict[str, float]:
    return dict(reversed(evenly(problem).items()))


def careful(problem: Problem) -> dict[str, float]:
    return {name: share if share == 1 else 0.9 * share for name, share in evenly(problem).items()}


def generous(problem: Problem) -> dict[str, float]:
    return {name: share**0.9 for name, share in evenly(problem).items()}


def never_dense(problem: Problem) -> dict[str, float]:
    return {name: (1 - 1e-12) * share for name, share in evenly(problem).items()}


def heeds_all(problem: Problem) -> dict[str, float]:
    return (rules.uniform if len(problem.limits) == 1 else rules.igq)(problem)


def turns_round(problem: Problem) -> dict[str, float]:
    dense = evenly(problem)[problem.stem]
    return (rules.uniform if dense > 0.5 else rules.erk)(problem)


def first_listed(problem: Problem) -> dict[str, float]:
    first = next(iter(problem.layers))
    return (rules.uniform if first == problem.stem else rules.erk)(problem)


def remembering() -> Callable[[Problem], dict[str, float]]:
    seen: list[object] = []

    def remembers(problem: Problem) -> dict[str, float]:
        seen.append(problem.network)
        return (rules.uniform if problem.network is seen[0] else rules.erk)(problem)

    return remembers


def tosses(problem: Problem) -> dict[str, float]:
    torch.rand(1)
    return evenly(problem)


def overwrites(problem: Problem) -> dict[str, float]:
    next(iter(problem.weights().values())).zero_()
    return evenly(problem)


def switches(problem: Problem) -> dict[str, float]:
    problem.network.model.eval()
    return evenly(problem)


def refuses_some(problem: Problem) -> dict[str, float]:
    if 0.2 < evenly(problem)[problem.stem] < 0.6:
        raise precrop.BudgetError("not today")
    return evenly(problem)


def refuses_all(problem: Problem) -> dict[str, float]:
    if set(evenly(problem).values()) != {1.0}:
        raise precrop.BudgetError("never")
    return evenly(problem)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (zeros, "gives 0.0 for stem"),
        (above_one, "gives 2.09[0-9]* for stem"),
        (careful, "leaves room"),
        (generous, "above the budget of"),
        (never_dense, "prunes at"),
        (heeds_all, "doesn't bind"),
        (turns_round, "grow as params falls"),
        (first_listed, "depends on the order of layers"),
        (remembering(), "is not deterministic"),
        (tosses, "draws from the global random state"),
        (overwrites, "changes the network's state"),
        (switches, "changes the network's mode"),
        (refuses_some, "refuses a budget and accepts the smaller one"),
    ],
)
def test_rules_that_are_wrong(
    method: Callable[[Problem], dict[str, float]], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(methods.METHODS, "wrong", methods.Method(method, "rule"))
    with pytest.raises((AssertionError, PrecropError), match=message):
        check_allocator("wrong", *network("mixed"))


def test_the_order_of_layers_is_that_of_execution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.METHODS, "backwards", methods.Method(backwards, "rule"))
    check_allocator("backwards", *network("mixed"))


def broken(problem: Problem) -> Any:
    raise RuntimeError("no luck")


@pytest.mark.parametrize(
    ("kind", "method", "message"),
    [
        ("score", broken, r"method bad fails \(test_methods.py, line \d+\): RuntimeError: no luck"),
        ("score", lambda p: None, "must return a dict with the names in problem.layers, not a Non"),
        ("score", lambda p: dict([*p.weights().items()][1:]), "problem.layers, not others"),
        (
            "score",
            lambda p: {n: w.abs().sum(1) for n, w in p.weights().items()},
            r"gives \(.*shape",
        ),
        (
            "score",
            lambda p: dict.fromkeys(p.layers, 0.5),
            "gives 0.5 for stem: scores are a tensor",
        ),
        ("score", lambda p: {n: w / 0 for n, w in p.weights().items()}, "gives NaN or infinity"),
        ("rule", lambda p: None, "must return a dict with the names in problem.layers, not a None"),
        ("rule", lambda p: dict.fromkeys(p.layers, math.nan), "gives nan for stem: a rule gives a"),
        (
            "rule",
            lambda p: dict.fromkeys(p.layers, -0.1),
            "gives -0.1 for stem: a rule gives a num",
        ),
        ("rule", lambda p: p.weights(), r"gives a tensor \(.* for stem: a rule gives a number"),
        ("rule", lambda p: dict.fromkeys(p.layers), "gives None for stem: a rule gives a number"),
    ],
)
def test_what_registered_methods_return_is_checked(
    kind: Any, method: Callable[[Problem], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(methods.METHODS, "bad", methods.Method(method, kind))
    model, shape = network("mixed")
    with pytest.raises(PrecropError, match=message):
        precrop.densities(model, shape, method="bad", params=0.5)


@pytest.mark.parametrize("budgets", [{"params": 0.3}, {"macs": 0.3}, {"params": 0.3, "macs": 0.9}])
def test_rules_of_ones_own_are_held_against_the_budgets(
    budgets: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, shape = network("mixed")
    for share in (0.3, 0.31):
        rule = methods.Method(lambda problem, p=share: dict.fromkeys(problem.layers, p), "rule")
        monkeypatch.setitem(methods.METHODS, "even", rule)
        if share == 0.3:
            assert set(precrop.densities(model, shape, method="even", **budgets).values()) == {0.3}
            continue
        name = next(iter(budgets))
        with pytest.raises(precrop.BudgetError, match=f"leaves {name}=[0-9,]+, above the budget"):
            precrop.densities(model, shape, method="even", **budgets)


def test_a_rule_that_refuses_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.METHODS, "wrong", methods.Method(refuses_all, "rule"))
    with pytest.raises(precrop.BudgetError, match="never"):
        check_allocator("wrong", *network("mixed"))


# --- precrop.densities and precrop.scores -------------------------------------------------------

ASK = {"densities": precrop.densities, "scores": precrop.scores}
each_function = pytest.mark.parametrize("function", ASK.values(), ids=ASK)


def refusal(call: Callable[..., Any], *args: Any, **options: Any) -> str:
    """The message of the error, one line."""
    with pytest.raises(precrop.PrecropError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", METHODS)
def test_densities_by_name(name: str) -> None:
    model, shape = network("mixed")
    options = {"data": batches(shape), **QUICK.get(name, {})}
    found = precrop.densities(model, shape, method=name, params=0.5, macs=0.4, **options)
    assert list(found) == ["stem", "grouped", "depthwise", "up", "point", "fc"]
    assert all(type(density) is float and 0 < density <= 1 for density in found.values())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", SCORES)
def test_scores_by_name(name: str) -> None:
    model, shape = network("mixed")
    options = {"data": batches(shape), **QUICK.get(name, {})}
    found = precrop.scores(model, shape, method=name, params=0.5, **options)
    weights = [key for key in dict(model.named_parameters()) if key.endswith("weight")]
    assert sorted(found) == sorted(set(weights) - {"norm.weight"})
    for key, values in found.items():
        assert values.shape == model.get_parameter(key).shape
        assert values.isfinite().all()
        assert not values.requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_what_is_not_trained_is_not_pruned(name: str) -> None:
    """A filter bank at the input, a blur within: no budget counts them, and none is masked."""
    model, shape = network("mixed")
    model.stem.requires_grad_(False)
    model.depthwise.requires_grad_(False)
    options = {"data": batches(shape), **QUICK.get(name, {})}
    found = precrop.densities(model, shape, method=name, params=0.5, **options)
    assert list(found) == ["grouped", "up", "point", "fc"]
    masks = precrop.masks(model, found)
    kept, whole = (sum(int(f(m)) for m in masks.values()) for f in (torch.sum, torch.numel))
    assert 0.4 * whole < kept <= 0.5 * whole
    assert precrop.plan(model, shape, densities=found).params
    model.requires_grad_(False)
    model.get_parameter("stem.bias").requires_grad_(True)  # no layer's weights are trained
    assert len(precrop.densities(model, shape, method=name, params=0.5, **options)) == 6


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow"])
def test_what_is_not_trained_passes_on_what_reaches_it(name: str) -> None:
    model, shape = network("mixed")
    options = {"data": batches(shape)} if name != "synflow" else {"rounds": 1}
    before = precrop.scores(model, shape, method=name, params=1.0, **options)
    model.up.requires_grad_(False)
    found = precrop.scores(model, shape, method=name, params=1.0, **options)
    assert found.keys() == before.keys() - {"up.weight"}
    if name != "grasp":  # whose gradient's norm has these weights' part no more
        assert all(torch.allclose(found[key], before[key]) for key in found)


def test_the_default_is_synexp() -> None:
    model, shape = network("mixed")
    synexp = precrop.densities(model, shape, method="synexp", macs=0.5)
    assert precrop.densities(model, shape, macs=0.5) == synexp


@each_function
def test_an_unknown_method(function: Callable[..., Any]) -> None:
    message = refusal(function, *network("mixed"), method="synflw", params=0.5)
    assert "'synflw' is unknown" in message
    assert all(name in message for name in METHODS)


@pytest.mark.parametrize("name", RULES)
def test_rules_score_no_weights(name: str) -> None:
    message = refusal(precrop.scores, *network("mixed"), method=name, params=0.5)
    assert f"{name!r} scores no weights" in message
    assert all(score in message for score in SCORES)


@each_function
@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_a_method_without_its_data(function: Callable[..., Any], name: str) -> None:
    assert "data=" in refusal(function, *network("mixed"), method=name, params=0.5)


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_option(name: str) -> None:
    model, shape = network("mixed")
    message = refusal(precrop.densities, model, shape, method=name, params=0.5, sharpness=3)
    assert f"{name!r} has no option 'sharpness'" in message
    if name == "synflow":
        assert "rounds" in message
        refused = refusal(precrop.scores, model, shape, method=name, params=0.5, sharpness=3)
        assert refused == message


@pytest.mark.parametrize("rounds", [0, -1, 2.0, "3", True, None])
def test_senseless_rounds(rounds: Any) -> None:
    model, shape = network("mixed")
    assert "rounds=" in refusal(
        precrop.densities, model, shape, method="synflow", params=0.5, rounds=rounds
    )


@each_function
@pytest.mark.parametrize(
    "model", [nn.ReLU(), nn.Sequential(nn.BatchNorm2d(3), nn.MaxPool2d(2)), nn.Identity()]
)
def test_a_network_without_a_prunable_layer(function: Callable[..., Any], model: nn.Module) -> None:
    message = refusal(function, model, (3, 8, 8), method="magnitude", params=0.5)
    assert "no prunable layer" in message


@each_function
@pytest.mark.parametrize(
    ("budgets", "text"),
    [
        ({}, "no budget given"),
        ({"params": None, "macs": None}, "no budget given"),
        ({"params": 0}, "params=0"),
        ({"params": 1}, "params=1.0"),
        ({"macs": -0.5}, "macs=-0.5"),
        ({"macs": float("nan")}, "macs=nan"),
        ({"params": 0.5, "macs": "half"}, "macs='half'"),
    ],
)
def test_senseless_budgets(
    function: Callable[..., Any], budgets: dict[str, Any], text: str
) -> None:
    model, shape = network("mixed")
    with pytest.raises(precrop.BudgetError, match=text):
        function(model, shape, method="magnitude", **budgets)


@pytest.mark.parametrize("share", [0.5, "50%", 1886, "1886", "1.886K"])
def test_a_budget_in_every_form(share: Any) -> None:
    model, shape = network("mixed")
    total = sum(p.numel() for key, p in model.named_parameters() if p.dim() > 1)
    assert total == 3772
    found = precrop.densities(model, shape, method="magnitude", params=share)
    weights = {name: model.get_parameter(f"{name}.weight").numel() for name in found}
    assert sum(round(found[name] * weights[name]) for name in found) == 1886


@pytest.mark.parametrize("name", ["problem", "method"])
def test_names_of_our_own_arguments_are_no_options(name: str) -> None:
    problem, options = Problem.of(small("conv"), SHAPE, {"params": 0.5}), {name: 1}
    with pytest.raises(PrecropError, match=f"has no option '{name}'"):
        layer_densities(problem, "erk", **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["magnitude", "random", "erk", "uniform"])
def test_a_layer_without_weights_is_left_out(method: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Linear(8, 0))
    found = precrop.densities(model, (3, 8, 8), method=method, params=0.5)
    assert [*found] == ["1"]
    assert [*precrop.masks(model, found)] == ["1.weight"]
    assert precrop.count(model, (3, 8, 8)).params == 192 * 8 + 8


def test_random_scores_are_the_same_whatever_the_default_type() -> None:
    default = torch.get_default_dtype()
    model = small("conv")
    found = []
    for kind in (torch.float32, torch.float64):
        torch.set_default_dtype(kind)
        try:
            found.append(precrop.densities(model, SHAPE, method="random", params=0.5))
        finally:
            torch.set_default_dtype(default)
    assert found[0] == found[1]


@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_complex_weights_are_scored(method: str) -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(12, 8, dtype=torch.complex64)
            self.last = nn.Linear(8, 4, dtype=torch.complex64)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.first(x.flatten(1).to(torch.complex64)))
            return out.abs()

    data = [(torch.randn(6, 3, 2, 2), torch.arange(6) % 4)]
    found = precrop.scores(Complex(), (3, 2, 2), method=method, data=data, params=0.5)
    assert not any(score.is_complex() for score in found.values())
    assert all(score.isfinite().all() for score in found.values())


def test_seeds() -> None:
    model, shape = network("mixed")

    def scores(seed: int) -> Tensor:
        found = precrop.scores(model, shape, method="random", params=0.5, seed=seed)
        return torch.cat([found[key].reshape(-1) for key in sorted(found)])

    assert torch.equal(scores(3), scores(3))
    assert (scores(0) != scores(1)).float().mean() > 0.99
    assert len(scores(0).unique()) > 0.99 * len(scores(0))
    assert scores(0).mean() == pytest.approx(0.5, abs=0.03)


def test_random_keeps_nearly_the_same_share_of_every_layer() -> None:
    model, shape = network("resnet20")
    for seed in range(3):
        found = precrop.densities(model, shape, method="random", params=0.3, seed=seed)
        for name, density in found.items():
            weights = model.get_parameter(f"{name}.weight").numel()
            assert abs(density - 0.3) < 4.5 * (0.3 * 0.7 / weights) ** 0.5


def test_magnitude_of_known_weights() -> None:
    first, second = nn.Linear(2, 3), nn.Linear(3, 2)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[9.0, -8.0], [7.0, 0.1], [-0.2, 0.3]]))
        second.weight.copy_(torch.tensor([[-6.0, 5.0, 0.4], [0.5, -0.6, 0.7]]))
    model = nn.Sequential(first, second)
    found = precrop.densities(model, (2,), method="magnitude", params=5)
    assert found == {"0": 3 / 6, "1": 2 / 6}
    assert precrop.scores(model, (2,), method="magnitude", params=5)["1.weight"][0, 0] == 6.0


@pytest.mark.parametrize("name", ["magnitude", "random", "erk", "synexp"])
def test_other_types_and_modes(name: str) -> None:
    model, shape = network("mixed")
    expected = precrop.densities(model, shape, method=name, params=0.3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    rounded = precrop.densities(model, shape, method=name, params=0.3)
    for change in (
        lambda: model.eval().requires_grad_(False),
        lambda: model.to(memory_format=torch.channels_last),
        lambda: model.to(torch.float64),
        lambda: model.to(torch.bfloat16),
    ):
        change()
        assert precrop.densities(model, shape, method=name, params=0.3) == rounded
    assert rounded == pytest.approx(expected, abs=0.01)


# --- collapse -----------------------------------------------------------------------------------


@pytest.mark.parametrize("budgets", [{"params": 0.3}, {"macs": 0.3}, {"params": 0.2, "macs": 0.3}])
@pytest.mark.parametrize("hopeless", [["layer2.1.conv2"], ["fc", "layer1.0.conv1"]])
def test_a_collapsed_layer_keeps_a_weight_and_is_named(
    budgets: dict[str, Any], hopeless: list[str]
) -> None:
    model, shape = network("resnet20")
    with torch.no_grad():
        for name in hopeless:
            model.get_parameter(f"{name}.weight").mul_(1e-6)
    with pytest.warns(precrop.LayerCollapseWarning) as caught:
        found = precrop.densities(model, shape, method="magnitude", **budgets)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    message = str(caught[0].message)
    assert message.startswith("magnitude collapses ")
    named = message.removeprefix("magnitude collapses ").split(":")[0].split(", ")
    assert sorted(named) == sorted(hopeless)
    assert all(0 < density <= 1 for density in found.values())
    for name, density in found.items():
        weights = model.get_parameter(f"{name}.weight").numel()
        assert (density * weights == pytest.approx(1)) == (name in hopeless)


def test_a_single_weight_that_ranks_high_is_said_and_is_no_collapse() -> None:
    model, shape = network("resnet20")
    with torch.no_grad():
        model.get_parameter("fc.weight").mul_(1e-6)[3, 5] = 1.0
    with pytest.warns(UserWarning, match="single") as caught:
        found = precrop.densities(model, shape, method="magnitude", params=0.3)
    assert [one.category for one in caught] == [UserWarning]
    assert str(caught[0].message) == "magnitude leaves a single weight of fc"
    assert found["fc"] * model.get_parameter("fc.weight").numel() == pytest.approx(1)
    with torch.no_grad():
        model.get_parameter("layer2.1.conv2.weight").mul_(1e-6)
    with pytest.warns(precrop.LayerCollapseWarning) as caught:
        precrop.densities(model, shape, method="magnitude", params=0.3)
    assert str(caught[0].message) == (
        "magnitude collapses layer2.1.conv2: no weight ranks high enough to remain; "
        "it leaves a single weight of fc"
    )


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    model, shape = network("mixed")
    options: dict[str, Any] = {"method": "synflow", "params": 0.5, "rounds": 3}
    loud = precrop.densities(model, shape, progress=True, **options)
    assert capsys.readouterr().out == ""
    assert precrop.densities(model, shape, **options) == loud
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("method", ["magnitude", "random", "synflow"])
def test_weights_without_values_are_one_line(method: str) -> None:
    with torch.device("meta"):
        model = resnet20()
    with pytest.raises(PrecropError, match=r"has no values \(device 'meta'\): initialize"):
        precrop.densities(model, (3, 8, 8), method=method, params=0.5)


@pytest.mark.parametrize("seed", [-1, 1.5, "a"])
def test_what_is_no_seed_is_one_line(seed: Any) -> None:
    with pytest.raises(PrecropError, match="is not a seed: write a whole number"):
        precrop.densities(resnet20(), (3, 8, 8), method="random", params=0.5, seed=seed)
    with pytest.raises(PrecropError, match="is not a seed: write a whole number"):
        precrop.masks(resnet20(), {"conv1": 0.5}, "weight", seed=seed)
