"""What no pass calls: experts that were not chosen, branches on values, stages without a use."""

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.cli.app import main
from precrop.errors import BudgetError, PlanError
from precrop.plans.plan import Plan
from precrop.read.inputs import Inputs
from precrop.read.network import read_network
from tests.outside.cropping import cropped
from tests.planning import counted_params


class Expert(nn.Module):
    """Two layers with a width of their own, kept as an attribute that cuts what the first makes."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.first, self.last = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = torch.split(self.first(x), self.hidden, -1)
        return self.last(value * gate.sigmoid())


class Mixture(nn.Module):
    """Every row goes to the expert that its own values choose."""

    def __init__(self, experts: int = 5, width: int = 32) -> None:
        super().__init__()
        self.stem, self.gate = nn.Linear(16, width), nn.Linear(width, experts)
        self.experts = nn.ModuleList(Expert(width, 48) for _ in range(experts))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        chosen, out = self.gate(x).argmax(-1), torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero().squeeze(1)
            if rows.numel():
                out[rows] = expert(x[rows])
        return self.head(out)


def test_experts_that_were_not_chosen_follow_those_that_were() -> None:
    torch.manual_seed(0)
    model: Any = Mixture()
    plan = precrop.plan(model, (16,), params=0.5)
    called = {layer.name.rpartition(".")[0] for layer in plan.layers if "experts" in layer.name}
    assert {*plan.followers} == {f"experts.{n}" for n in range(5)} - called
    assert {*plan.followers.values()} <= called
    assert 0.48 < plan.params / plan.base_params <= 0.5
    built: Any = precrop.Plan.from_json(plan.to_json()).build(model)
    assert counted_params(built) == plan.params
    nn.init.normal_(built.gate.weight, std=3)
    for expert in built.experts:
        assert expert.hidden == expert.last.in_features < 48
        assert expert(torch.randn(2, built.stem.out_features)).shape[1] == built.head.in_features
    assert built(torch.randn(64, 16)).shape == (64, 10)
    # Their weights are scaled to the new fan as those of the others are.
    spread = [
        float(e.last.weight.detach().std() / o.last.weight.detach().std())
        for e, o in zip(built.experts, model.experts, strict=True)
    ]
    assert max(spread) - min(spread) < 0.1
    assert precrop.plan(model, (16,), params=0.5, drop_unused=True).left_out == ()


class Branching(nn.Module):
    """Two branches of which a value chooses one; the second adds what the first does not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side = nn.Conv2d(3, 32, 3), nn.Conv2d(3, 32, 3)
        self.one, self.two = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = self.one(y) if y.mean() > 0 else self.two(y) + self.side(x)
        if y.isfinite().all():
            y = y.relu()
        return self.head(y.mean((2, 3)))


def both_ways(net: Any, x: Tensor) -> None:
    """Run with either outcome of the first branch."""
    for level in (-9.0, 9.0):
        nn.init.constant_(net.stem.bias, level)
        assert net(x).shape == (len(x), 10)


def test_both_sides_of_a_branch_are_read() -> None:
    model = Branching()
    plan = precrop.plan(model, (3, 8, 8), params=0.4)
    assert not plan.frozen
    assert {"one", "two", "side"} <= plan.widths.keys()
    assert plan.widths["one"][1] == plan.widths["two"][1] == plan.widths["side"][1] < 32
    both_ways(plan.build(model), torch.randn(2, 3, 8, 8))


class Waiting(Branching):
    """A loop whose end a value decides."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for _ in range(5):
            if y.abs().amax() < 20:
                break
            y = self.one(y).tanh()
        while y.amax() > 3:
            y = self.two(y) / 2
            y = y.tanh()
        return self.head(y.mean((2, 3)))


class Compared(nn.Module):
    """A fraction is compared with a threshold; where it is larger, the skip joins two widths."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(16, 48), nn.Linear(48, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = self.b(y)
        if y.mean().item() > self.threshold:
            z = z + y
        return self.head(z)

    threshold = 0.5


@pytest.mark.parametrize("threshold", [0.5, -2.0, 6.0])
def test_both_sides_of_a_threshold_are_read(threshold: float) -> None:
    model = Compared()
    model.threshold = threshold
    plan = precrop.plan(model, (16,), params=0.3)
    assert plan.widths["a"][1] == plan.widths["b"][1] < 48
    built: Any = plan.build(model)
    for level in (-9.0, 9.0):
        nn.init.constant_(built.a.bias, level)
        assert built(torch.randn(3, 16)).shape == (3, 10)


class Picking(nn.Module):
    """Python takes the numbers of the chosen layers out of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate = nn.Linear(16, 32), nn.Linear(32, 4)
        self.ways = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        chosen = self.gate(x.mean(0)).topk(2).indices.tolist()
        return self.head(sum(self.ways[index](x) for index in chosen))


def test_layers_that_lists_of_numbers_choose() -> None:
    model = Picking()
    plan = precrop.plan(model, (16,), params=0.5, drop_unused=True)
    assert plan.left_out == ()
    assert len(plan.followers) in (1, 2)  # three are read where one chosen number is another one
    built: Any = plan.build(model)
    for way in built.ways:
        assert way(torch.randn(2, built.stem.out_features)).shape[1] == built.head.in_features


def test_loops_that_values_end() -> None:
    model = Waiting()
    plan = precrop.plan(model, (3, 8, 8), params=0.9)
    both_ways(plan.build(model), torch.randn(2, 3, 8, 8))


def largest(x: Tensor) -> Tensor:
    return x.argmax()


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "rand": lambda x: torch.rand(4).argmax(),
    "rand_like": lambda x: torch.rand_like(x[0, :4]).argmax(),
    "randint": lambda x: 3 - torch.randint(4, (1,)),
    "multinomial": lambda x: torch.multinomial(torch.ones_like(x[0, :4]), 1),
    "uniform_": lambda x: torch.empty_like(x[0, :4]).uniform_().argmax(),
    "Python": lambda x: torch.tensor(random.randrange(4)),
    "NumPy": lambda x: torch.tensor(3 - np.random.randint(4)),  # noqa: NPY002
}


class Routed(nn.Module):
    """A number, taken from values, chooses one of four branches of different sizes."""

    def __init__(self, number: Callable[[Tensor], Tensor] = largest) -> None:
        super().__init__()
        self.number = number
        self.stem, self.head = nn.Linear(16, 64), nn.Linear(24, 10)
        self.ways = nn.ModuleList(
            [
                nn.Linear(64, 24),
                *(nn.Sequential(nn.Linear(64, n), nn.Linear(n, 24)) for n in (40, 32, 48)),
            ]
        )
        self.tail = nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.tail(self.ways[int(self.number(x)) % 4](x)).relu())


def test_what_other_inputs_may_run_keeps_what_it_meets() -> None:
    model = Routed()
    plan = precrop.plan(model, (16,), params=0.9)
    alone = [name for name, why in plan.frozen.items() if why == "no pass calls it"]
    assert {"ways.1", "ways.2"} == set(alone)  # the last one was chosen, and 0 is tried
    assert "may run on other inputs" in plan.frozen["stem"]
    chosen: set[int] = set()
    built: Any = plan.build(model)
    for index, way in enumerate(built.ways):
        way.register_forward_hook(lambda *_, index=index: chosen.add(index))
    while chosen != {0, 1, 2, 3}:
        assert built(torch.randn(3, 16)).shape == (3, 10)


@pytest.mark.parametrize("draw", DRAWS)
def test_what_other_random_numbers_may_run_keeps_what_it_meets(draw: str) -> None:
    model = Routed(DRAWS[draw])
    plan = precrop.plan(model, (16,), params=0.9)
    assert "may run on other inputs" in plan.frozen["stem"]
    built = plan.build(model)
    for _ in range(30):
        assert built(torch.randn(3, 16)).shape == (3, 10)


class Staged(nn.Module):
    """An encoder of which forward uses the first stages alone, but looks at all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2 = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3)
        self.layer3 = nn.Sequential(nn.Conv2d(32, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3))
        self.more = nn.ModuleList([nn.Conv2d(128, 128, 3)])
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        stages = [self.layer1, self.layer2, self.layer3, *self.more]
        for stage in stages[:2]:
            x = stage(x).relu()
        return self.head(x.mean((2, 3)))


def test_unused_modules_are_named_and_can_be_left_out() -> None:
    model = Staged()
    unused = counted_params(model.layer3) + counted_params(model.more)
    with pytest.raises(BudgetError) as caught:
        precrop.plan(model, (3, 12, 12), params=0.5, macs=0.5)
    message = str(caught.value)
    assert f"unused: {unused:,} parameters in layer3, more" in message
    assert "drop_unused=True leaves them out" in message
    assert "frozen: layer3" not in message
    plan = precrop.plan(model, (3, 12, 12), params=0.5, macs=0.5, drop_unused=True)
    assert plan.left_out == ("layer3", "more")
    assert plan.base_params == counted_params(model)
    assert plan.macs >= 0.45 * plan.base_macs
    assert plan.frozen == {}
    again = precrop.Plan.from_json(plan.to_json())
    assert again == plan
    built = again.build(model)
    assert counted_params(built) == plan.params
    assert built(torch.randn(2, 3, 12, 12)).shape == (2, 10)
    assert not [name for name in built.state_dict() if name.startswith(("layer3", "more"))]
    kept = precrop.plan(model, (3, 12, 12), macs=0.5)
    assert kept.frozen == {"layer3": "no pass calls it", "more": "no pass calls it"}
    assert "left_out" not in kept.to_json()  # files without such modules are as they always were


def test_left_out_in_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["tests.outside.test_unused:Staged", "--input-shape", "3,12,12", "--macs", "0.5"]
    assert main(["plan", *words, "--drop-unused", "-o", "half.json"]) == 0
    assert "Left out, as no pass calls them: layer3, more" in capsys.readouterr().out
    assert main(["build", "half.json", "--model", words[0], "-o", "half"]) == 0
    assert main(["crop", *words, "--drop-unused", "--residual", "crop", "-o", "again"]) == 0
    assert Plan.load("again.json").left_out == Plan.load("half.json").left_out
    assert main(["show", "half.json"]) == 0
    assert "Left out" in capsys.readouterr().out


class Peeking(Staged):
    """It reads an attribute of a module that it never calls."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.layer3[0].bias is not None
        return super().forward(x)


def test_what_forward_looks_at_is_not_left_out() -> None:
    plan = precrop.plan(Peeking(), (3, 12, 12), macs=0.5, drop_unused=True)
    assert plan.left_out == ("more",)
    assert plan.frozen == {"layer3": "no pass calls it"}


def test_a_plan_that_leaves_out_what_is_not_there() -> None:
    plan = precrop.plan(Staged(), (3, 12, 12), macs=0.5, drop_unused=True)
    for path in ("layer9", "layer3.forward", "__class__"):
        with pytest.raises(PlanError, match="is not a module of the network"):
            dataclasses.replace(plan, left_out=(path,)).build(Staged())


def test_parameters_shared_with_what_runs_are_used() -> None:
    model = Staged()
    model.more[0] = model.layer2
    network = read_network(model, Inputs((3, 12, 12)))
    assert [*network.unused.modules] == ["layer3"]


@torch.library.custom_op("precrop_tests::blend", mutates_args=())
def blend(x: Tensor, table: Tensor) -> Tensor:
    """An operation of somebody's own, of which only shapes are known."""
    return x @ table.t()


@blend.register_fake
def _(x: Tensor, table: Tensor) -> Tensor:
    return x.new_empty(len(x), len(table))


class Foreign(nn.Module):
    """A layer that is neither a convolution nor linear, and that nothing explains."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(16, 24), nn.Linear(24, 48), nn.Linear(60, 10)
        self.table = nn.Parameter(torch.randn(60, 48))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(blend(self.b(self.a(x)), self.table))


def test_an_infeasible_budget_says_what_is_frozen_and_why() -> None:
    model = Foreign()
    plan = precrop.plan(model, (16,), params=1.0)
    assert plan.frozen.keys() == {"b", "table"}
    with pytest.raises(BudgetError) as caught:
        precrop.plan(model, (16,), params=10)
    least = int(str(caught.value).rpartition(" ")[2])
    whole = 60 * 48 + 2 * 48, 61 * 10  # the table, the only row of b and its bias; the head
    shares = [f"{part / least:.0%} of it: " for part in whole]
    named = f"table, b, {shares[0]}{plan.frozen['b']}; head, {shares[1]}makes the network's output"
    assert f"(frozen: {named}) is " in str(caught.value)
    assert "blend" in plan.frozen["table"]
    assert precrop.plan(model, (16,), params=least).params == least


def test_many_frozen_layers_are_counted() -> None:
    model = nn.Sequential(*[nn.Conv2d(8, 8, 3, padding=1) for _ in range(7)])
    with pytest.raises(BudgetError) as caught:
        precrop.plan(model, (8, 8, 8), params=20, ignore=["*"])
    assert "(frozen: 0, 1, 2 and 3 more, 86% of it: ignored by '*'; 6, 14%" in str(caught.value)
    with pytest.raises(BudgetError, match="macs=20 .*frozen: 0, 1, 2 and 3 more, 86% of it: ign"):
        precrop.plan(model, (8, 8, 8), macs=20, ignore=["*"])


class SkipSums(nn.Module):
    """Gated layers as in WaveNet: nothing reads the last update of the stream."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, width, 3, padding=1), nn.Linear(width, 5)
        self.hidden = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.updates = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(2))
        self.skips = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.first(x), torch.zeros(())
        for hidden, update, skip in zip(self.hidden, self.updates, self.skips, strict=True):
            inner = hidden(x).tanh()
            total = total + skip(inner)
            x = x + update(inner)
        return self.head(total.mean((2, 3)))


def test_the_last_update_of_a_stream_that_nothing_reads_goes_with_the_stream() -> None:
    plan, _ = cropped(SkipSums(), (3, 8, 8), ["first", "updates.0", "updates.1", "skips.0"])
    assert plan.widths["updates.1"][1] == plan.widths["first"][1] < 32
    assert not plan.frozen


class AddedExperts(nn.Module):
    """What experts make of their rows is added to the stream that they read."""

    def __init__(self, chosen: int, experts: int = 4, width: int = 32) -> None:
        super().__init__()
        self.stem, self.gate = nn.Linear(12, width), nn.Linear(width, experts)
        self.head, self.chosen = nn.Linear(width, 10), chosen
        layers = ((nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)) for _ in range(4))
        self.experts = nn.ModuleList(nn.Sequential(*expert) for expert in layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        shares, places = self.gate(x).softmax(1).topk(self.chosen)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows, column = torch.where(places == index)
            if rows.numel():
                out.index_add_(0, rows, expert(x[rows]) * shares[rows, column, None])
        return self.head(x + out)


@pytest.mark.parametrize("chosen", [1, 2])
def test_followers_have_the_ends_at_a_stream_of_what_they_follow(chosen: int) -> None:
    torch.manual_seed(0)
    model = AddedExperts(chosen)
    plan = precrop.plan(model, (12,), params=0.5, residual="crop", divisor=1)
    assert plan.followers
    built = plan.build(model)
    assert counted_params(built) == plan.params
    for seed in range(4):  # other rows choose other experts
        torch.manual_seed(seed)
        built(torch.randn(24, 12)).sum().backward()
    assert all(p.grad is not None for p in built.parameters())
