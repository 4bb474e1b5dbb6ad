"""A plan for other numbers of outputs: what is built, what it costs, what else may not differ."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import googlenet, squeezenet1_1

import precrop
from precrop.errors import PlanError
from precrop.models import resnet20
from precrop.plans.plan import Plan

IMAGE = (3, 32, 32)


def aux(classes: int) -> nn.Module:
    return googlenet(num_classes=classes, init_weights=False, aux_logits=True)


def squeeze(classes: int) -> nn.Module:
    return squeezenet1_1(num_classes=classes)


def counted(model: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """Parameters and MACs of a network as planning counts them."""
    whole = precrop.plan(model, shape, params=1.0)
    return whole.base_params, whole.base_macs


@pytest.mark.parametrize(
    ("make", "shape"),
    [(resnet20, IMAGE), (squeeze, (3, 64, 64)), (aux, (3, 96, 96))],
)
def test_other_classes_are_built_and_counted(make: Any, shape: tuple[int, ...]) -> None:
    plan = precrop.plan(make(100), shape, params=0.5, macs=0.5)
    other = plan.for_outputs(make(37))
    built = plan.build(make(37))
    assert built.eval()(torch.ones(1, *shape)).shape == (1, 37)
    assert (other.params, other.macs) == counted(built, shape)
    assert (other.base_params, other.base_macs) == counted(make(37), shape)
    assert other.widths.keys() == plan.widths.keys()
    inner = [name for name in plan.widths if name not in other.options["outputs"]]
    assert all(other.widths[name] == plan.widths[name] for name in inner)
    for layer in other.layers:
        assert layer.weights == built.get_parameter(layer.weight).numel()
        assert layer.base_weights == make(37).get_parameter(layer.weight).numel()


def test_all_heads_are_named(tmp_path: Any) -> None:
    plan = precrop.plan(aux(100), (3, 96, 96), params=0.5)
    other = plan.for_outputs(aux(7))
    heads = ("fc", "aux1.fc2", "aux2.fc2")
    assert other.options["outputs"] == dict.fromkeys(heads, (100, 7))
    assert "fc has 7 in place of 100" in other.summary()
    other.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == other
    assert other.build(aux(7)).state_dict().keys() == plan.build(aux(100)).state_dict().keys()


def test_budgets_are_those_of_the_new_totals() -> None:
    plan = precrop.plan(resnet20(100), IMAGE, params=0.5, macs="30M", memory=0.9)
    other = plan.for_outputs(resnet20(10))
    assert set(other.budgets) == {"params", "macs"}
    assert other.budgets["params"].limit == int(0.5 * other.base_params)
    assert other.budgets["macs"].limit == 30_000_000
    assert other.budgets["macs"].used == other.macs
    assert other.budgets["params"].base == other.base_params


def test_a_budget_that_the_new_outputs_exceed_is_told() -> None:
    plan = precrop.plan(resnet20(), (3, 32, 32), params="130k")
    assert "plan anew" not in str(plan)
    more = plan.for_outputs(resnet20(num_classes=1000))
    (budget,) = more.budgets.values()
    assert budget.used > budget.limit
    assert (
        f"So the network takes {budget.used / budget.limit - 1:.1%} more than its budget of params"
        in str(more)
    )


def test_a_buffer_that_is_in_no_state_dict_is_no_matter() -> None:
    class Shifted(nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.op, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, classes)
            self.register_buffer("shift", torch.zeros(16, 1, 1), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head((self.op(x) + self.shift).relu().mean((2, 3)))
            return out

    plan = precrop.plan(Shifted(10), (3, 8, 8), params=0.5)
    assert plan.build(Shifted(7))(torch.ones(1, 3, 8, 8)).shape == (1, 7)


def test_there_and_back() -> None:
    plan = precrop.plan(resnet20(10), IMAGE, params=0.5)
    back = plan.for_outputs(resnet20(50)).for_outputs(resnet20(10))
    assert back.options["outputs"] == {"fc": (10, 10)}
    assert (back.params, back.macs, back.layers) == (plan.params, plan.macs, plan.layers)
    assert (back.tensors, back.budgets) == (plan.tensors, plan.budgets)


def test_the_same_outputs_are_the_same_plan() -> None:
    plan = precrop.plan(resnet20(), IMAGE, params=0.5)
    assert plan.for_outputs(resnet20()) is plan


class Net(nn.Module):
    """Two layers of 8 and a head; what the head makes may be read again, or weight-normalised."""

    def __init__(self, classes: int = 8, inner: int = 8, *, again: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, inner, 3)
        self.body = nn.Conv2d(inner, 8, 3)
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(8, classes))
        self.again = nn.Linear(classes, 4) if again else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.again(self.head(self.body(self.stem(x)).mean((2, 3))))
        return made


def test_a_head_of_several_tensors() -> None:
    plan = precrop.plan(Net(8), IMAGE, params=0.5)
    built = plan.build(Net(5))
    other = plan.for_outputs(Net(5))
    assert built(torch.ones(2, *IMAGE)).shape == (2, 5)
    assert (other.params, other.macs) == counted(built, IMAGE)


@pytest.mark.parametrize(
    ("planned", "given"),
    [
        (Net(8), Net(8, inner=9)),  # a layer that is no head
        (Net(8), Net(5, inner=9)),  # a head, and another layer
        (Net(8, again=True), Net(5, again=True)),  # what a head would be, if nothing read it
    ],
)
def test_nothing_else_may_differ(planned: nn.Module, given: nn.Module) -> None:
    plan = precrop.plan(planned, IMAGE, params=0.5)
    with pytest.raises(PlanError, match="for another network"):
        plan.build(given)
    with pytest.raises(PlanError, match="for another network"):
        plan.for_outputs(given)


def test_a_layer_that_is_kept_as_it_is_is_no_head() -> None:
    plan = precrop.plan(Net(8), IMAGE, params=1.0, ignore=["body", "stem"])
    wide = Net(8)
    wide.body = nn.Conv2d(8, 9, 3)
    with pytest.raises(PlanError, match="for another network"):
        plan.build(wide)
