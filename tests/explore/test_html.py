"""Names from files are plain text on the page."""

import dataclasses
from html import escape

import precrop
from precrop.explore.html import beside, layers, refusal, remarks, totals
from precrop.explore.picture import picture
from precrop.models import resnet20
from precrop.plans.plan import Plan

BAD = "<img src=x onerror=alert(1)>"


def hostile(plan: Plan) -> Plan:
    first = dataclasses.replace(plan.layers[0], name=BAD, frozen=BAD)
    budgets = {**plan.budgets, BAD: plan.budgets["params"]}
    return dataclasses.replace(
        plan, layers=(first, *plan.layers[1:]), frozen={BAD: BAD}, budgets=budgets
    )


def test_names_are_never_markup() -> None:
    plan = hostile(precrop.plan(resnet20(), (3, 32, 32), params=0.5))
    pages = [totals(plan), remarks(plan), beside(plan, plan), layers(plan, plan), refusal("", BAD)]
    for page in pages:
        assert BAD not in page
    assert escape(BAD) in layers(plan)
    assert BAD not in picture(plan, plan).to_json()


def test_the_picture_has_every_width() -> None:
    plan = precrop.plan(resnet20(), (3, 32, 32), params=0.5, divisor=1)
    other = precrop.plan(resnet20(), (3, 32, 32), params=0.3)
    old, new, uniform, beside = picture(plan, other).data
    share = plan.solver["uniform"]["share"]
    assert list(old.y) == [layer.base_out for layer in plan.layers]
    assert list(new.y) == [layer.out_channels for layer in plan.layers]
    assert list(uniform.y)[:-1] == [share * layer.base_out for layer in plan.layers[:-1]]
    assert list(uniform.y)[-1] == 10, "the classes are fixed"
    assert list(beside.y) == [layer.out_channels for layer in other.layers]
    assert list(old.x) == [layer.name for layer in plan.layers]


def test_totals_say_what_each_budget_would_buy() -> None:
    plan = precrop.plan(resnet20(), (3, 32, 32), macs=0.5, divisor=1)
    assert f"{plan.budgets['macs'].multiplier:.3g}" in totals(plan)
    assert f"Gain over uniform width: {plan.solver['uniform']['gain']:+.3g}" in remarks(plan)
