"""From a cell to its run: plan or mask its network, or find that this is impossible."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from precrop.errors import BudgetError, within
from precrop.solve.budgets import Budget, parse_budget
from precrop.study.cells import Cell, label
from precrop.study.variants import WAYS, Variant, VariantRequest
from precrop.trust import runs_user_code

if TYPE_CHECKING:
    from precrop.counting import Count
    from precrop.plans.plan import Plan
    from precrop.training.data import ImageData
    from precrop.training.runs import MaskSpec, Run

_STAND_IN = "magnitude"
"""A method that takes no time, in place of slower ones; budgets fail with it just the same."""


@dataclass(frozen=True)
class Prepared:
    """A cell's run, ready for training, and the counts of its original network."""

    run: "Run"
    original: "Count"
    code: Mapping[str, str]  # `Cell.own_code`


def check(cells: Sequence[Cell], data: "ImageData") -> None:
    """Find what cannot be trained before the first run starts.

    Every network is built once, and every variant within every budget once, whatever its seeds.

    Raises:
        PrecropError: a network is unknown or does not fit the data, a budget is impossible, or an
            option makes no sense; the message begins with the cell.
    """
    from precrop.training.networks import build

    seen: set[str] = set()
    for cell in cells:
        network = json.dumps([cell.network.name, dict(cell.network.args)])
        request = json.dumps([network, _quick(cell.how).to_json(), cell.limits.given()])
        with within(label(cell)):
            if network not in seen:
                build(_run(cell, data))
            if request not in seen:
                try_out(cell, data)
        seen |= {network, request}


def prepare(cell: Cell, data: "ImageData") -> Prepared:
    """Plan a cell's network or decide its mask, and return the run.

    Methods that look at weights see the initial weights of the cell's own run.

    Raises:
        PrecropError: the network cannot be built, or a budget cannot be met.
    """
    original = _Original(cell, data)
    plan = original.plan()
    mask = original.mask(plan)
    run = dataclasses.replace(original.run, plan=plan if mask is None else None, mask=mask)
    return Prepared(run, original.counted, cell.own_code())


def try_out(cell: Cell, data: "ImageData") -> None:
    """Run the steps of `prepare` that can fail, with a fast method in place of one that scores."""
    how = _quick(cell.how)
    original = _Original(dataclasses.replace(cell, how=how), data)
    if original.plan() is None and how.densities is not None:
        original.densities()


def _quick(how: Variant) -> Variant:
    """Return a fast, nameless variant that fails where this one does; many variants share one."""
    from precrop.pruning.methods import METHODS

    # A user's own method is tried as it is, to see its errors before anything trains.
    name = how.densities or ""
    scored = name in METHODS and METHODS[name].kind == "score" and not runs_user_code(name)
    return dataclasses.replace(
        how,
        name="",
        densities=_STAND_IN if scored else how.densities,
        method_options={} if scored else how.method_options,
        match=None if how.match is None else _quick(how.match),
    )


def _run(cell: Cell, data: "ImageData") -> "Run":
    """Return the run of the dense network."""
    from precrop.training.networks import for_classes
    from precrop.training.runs import Run

    return Run(
        model=for_classes(cell.network, len(data.classes)),
        data=cell.data,
        **data.of_run,
        recipe=cell.recipe,
        seed=cell.seed,
    )


class _Original:
    """A cell's network before it is made smaller, and the ways to do that."""

    def __init__(self, cell: Cell, data: "ImageData") -> None:
        from precrop.counting import count
        from precrop.training.networks import initial_weights

        cell.how.load_own()
        self.cell, self.data, self.run = cell, data, _run(cell, data)
        with initial_weights(cell.seed):
            self.model = self.run.model.build()
        self.counted = count(self.model, self.run.input_shape)

    @cached_property
    def budgets(self) -> dict[str, Budget]:
        """The cell's budgets, or the size of the variant that it has to match."""
        match = self.cell.how.match
        if match is None:
            return self.cell.limits.given()
        from precrop.training.batches import sample
        from precrop.training.networks import build

        run = prepare(dataclasses.replace(self.cell, how=match), self.data).run
        built = build(run, lambda: sample(self.data, run.recipe.batch_size, run.seed))
        return {"params": built.params, "macs": built.macs}

    def plan(self) -> "Plan | None":
        """Return the plan by the variant's way, or None if it has none."""
        how = self.cell.how
        if how.way is None:
            return None
        request = VariantRequest(
            model=self.model,
            input_shape=self.run.input_shape,
            budgets=self.budgets,
            options=how.options,
            densities=None if how.densities is None else self.densities(),
            seed=self.cell.seed,
        )
        return WAYS[how.way](request)

    def mask(self, plan: "Plan | None") -> "MaskSpec | None":
        """Return the mask, by the variant's method or a plan's densities, or None."""
        from precrop.training.runs import MaskSpec

        how = self.cell.how
        if how.mask is None:
            return None
        if plan is not None:
            return MaskSpec("given", how.mask, densities=plan.densities)
        assert how.densities is not None
        limits = self._weight_limits()
        budgets = limits.get("params"), limits.get("macs")
        return MaskSpec(how.densities, how.mask, *budgets, options=how.method_options)

    def densities(self) -> dict[str, float]:
        """Return each layer's density by the variant's method within the cell's budgets."""
        from precrop.pruning.methods import find_method, layer_densities
        from precrop.pruning.problem import Problem

        how, batches = self.cell.how, None
        assert how.densities is not None
        if find_method(how.densities).needs_data:
            from precrop.training.batches import sample

            batches = sample(self.data, self.run.recipe.batch_size, self.run.seed)
        limits, shape = self._weight_limits(), self.run.input_shape
        problem = Problem.of(self.model, shape, limits, data=batches, seed=self.cell.seed)
        return layer_densities(problem, how.densities, **how.method_options)

    def _weight_limits(self) -> dict[str, int]:
        """Return the budgets of the whole network as limits on its prunable weights."""
        from precrop.pruning.problem import prunable

        bases = self.counted.costs
        weights = prunable(self.model, [layer.weight for layer in self.counted.layers])
        layers = [layer for layer in self.counted.layers if layer.weight in weights]
        pruned = {
            "params": sum(layer.weights for layer in layers),
            "macs": sum(layer.macs for layer in layers),
        }
        limits = {}
        for name, budget in self.budgets.items():
            base, rest = bases[name], bases[name] - pruned[name]
            limits[name] = parse_budget(name, budget, base) - rest
            if limits[name] <= 1:
                raise BudgetError(
                    f"{name}={budget!r} cannot be met: of {base}, {rest} cannot be masked"
                )
        return limits
