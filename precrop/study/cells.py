"""Cells: what a study trains, one by one, from what was asked for to the row of a store."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from precrop.errors import BudgetError, PrecropError, one_line
from precrop.files import digest_of
from precrop.model_spec import ModelSpec
from precrop.own import said
from precrop.solve.budgets import Budget, parse_budget
from precrop.study.rows import Row
from precrop.study.spec import Limits, Study
from precrop.study.variants import WAYS, Variant, VariantRequest
from precrop.training.recipes import Recipe
from precrop.trust import runs_user_code

if TYPE_CHECKING:
    from precrop.counting import Count
    from precrop.plans.plan import Plan
    from precrop.training.data import ImageData
    from precrop.training.loop import Result
    from precrop.training.runs import MaskSpec, Run

SCHEMA = 1
"""Raised when the same fields would ask for something else; part of every cell's identity."""
_STAND_IN = "magnitude"
"""A method that takes no time, in the place of others that budgets can stop just as well."""


@dataclass(frozen=True)
class Cell:
    """One training that a study asks for.

    Attributes:
        study: the study's name.
        network: the network.
        how: what makes the network smaller.
        limits: its budgets.
        seed: of the run.
        recipe: the hyper-parameters.
        data: where the images are, as for ``precrop train --data``.
        data_name: what the study's file calls them, wherever they are.
        image_size: pixels of a side that they are brought to, or None.
    """

    study: str
    network: ModelSpec
    how: Variant
    limits: Limits
    seed: int
    recipe: Recipe
    data: str
    data_name: str
    image_size: int | None = None

    @property
    def id(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of all that is asked for.

        The study's name and the place of the images are not part of it.
        """
        content = {
            "schema": SCHEMA,
            "network": self.network.name,
            "args": dict(self.network.args),
            "variant": self.how.to_json(),
            "budgets": self.limits.given(),
            "seed": self.seed,
            "recipe": self.recipe.to_json(),
            "data": self.data_name,
        }
        if self.image_size is not None:  # without one, cells are called as they always were
            content["image_size"] = self.image_size
        return digest_of(content)[:12]

    @property
    def variant(self) -> str:
        """Name of the variant within the study."""
        return self.how.name


@dataclass(frozen=True)
class Prepared:
    """A cell that is ready to be trained.

    Attributes:
        run: what is trained.
        original: what the network has before it is made smaller.
    """

    run: "Run"
    original: "Count"


def expand(study: Study) -> list[Cell]:
    """A study's cells: networks, then budgets, then variants, then seeds; none of them twice."""
    most = max(len(series.budgets) for series in study.series)
    cells = (
        Cell(
            study=study.name,
            network=network.model,
            how=series.variant,
            limits=limits,
            seed=seed,
            recipe=network.recipe,
            data=study.data,
            data_name=study.data_name,
            image_size=study.image_size,
        )
        for network in study.networks
        for place in range(most)
        for series in study.series
        if network in series.networks
        for limits in series.budgets[place : place + 1]
        for seed in series.seeds
    )
    found: dict[str, Cell] = {}
    for cell in cells:
        found.setdefault(cell.id, cell)
    return list(found.values())


def label(cell: Cell) -> str:
    """A cell in words: ``resnet20, PreCrop, params 30%, macs 30%, seed 1``."""
    budgets = [f"{name} {_in_words(budget)}" for name, budget in cell.limits.given().items()]
    return ", ".join([str(cell.network), cell.variant, *budgets, f"seed {cell.seed}"])


def check(cells: Sequence[Cell], data: "ImageData") -> None:
    """Find what cannot be trained before the first run starts.

    Every network is built once, and every variant within every budget once, whatever its seeds.

    Raises:
        PrecropError: a network that is unknown or does not fit the data, a budget that is
            impossible, an option without sense; the message begins with the cell.
    """
    from precrop.training.networks import build

    networks: set[str] = set()
    requests: set[str] = set()
    for cell in cells:
        network = json.dumps([cell.network.name, dict(cell.network.args)])
        request = json.dumps([network, _quick(cell.how).to_json(), cell.limits.given()])
        try:
            if network not in networks:
                build(_run(cell, data))
            if request not in requests:
                try_out(cell, data)
        except PrecropError as error:
            raise type(error)(f"{label(cell)}: {error}") from error
        networks.add(network)
        requests.add(request)


def prepare(cell: Cell, data: "ImageData") -> Prepared:
    """Plan a cell's network, or decide its mask.

    Methods that look at weights see the initial weights of the cell's own run.

    Raises:
        PrecropError: the network cannot be built, or a budget cannot be met.
    """
    original = _Original(cell, data)
    plan = original.plan()
    mask = original.mask(plan)
    plan = None if mask is not None else plan
    return Prepared(dataclasses.replace(original.run, plan=plan, mask=mask), original.counted)


def outcome(
    cell: Cell,
    prepared: Prepared,
    result: "Result",
    *,
    overhead: float,
    started: datetime,
    ended: datetime,
    device: str,
) -> Row:
    """The row of a cell that was trained; the folder of its result holds the masks."""
    run = prepared.run
    return Row(
        **_asked(cell, run.data_name, prepared.original),
        run=run.id,
        data_digest=run.data_digest,
        status="done",
        error=None,
        accuracy=result.accuracy,
        best_accuracy=result.best_accuracy,
        loss=result.loss,
        params=result.params,
        macs=result.macs,
        densities=_densities(prepared, result),
        widths=_widths(prepared),
        history=result.history,
        seconds=result.seconds,
        overhead=overhead,
        started=started,
        ended=ended,
        device=device,
        versions=run.versions,
    )


def failure(
    cell: Cell,
    error: BaseException,
    *,
    data_digest: str = "",
    overhead: float = 0.0,
    started: datetime,
    ended: datetime,
    device: str,
) -> Row:
    """The row of a cell that failed."""
    from precrop.training.runs import current_versions

    unknown: dict[str, Any]
    unknown = dict.fromkeys(("run", "accuracy", "best_accuracy", "loss", "params", "macs"))
    return Row(
        **_asked(cell, cell.data_name),
        **unknown,
        data_digest=data_digest,
        status="failed",
        error=one_line(str(error) if isinstance(error, PrecropError) else said(error)),
        densities={},
        widths={},
        history=(),
        seconds=0.0,
        overhead=overhead,
        started=started,
        ended=ended,
        device=device,
        versions=current_versions(),
    )


def _asked(cell: Cell, data: str, original: "Count | None" = None) -> dict[str, Any]:
    """The fields that `outcome` and `failure` share; what the original costs, if it is known."""
    bases = {} if original is None else original.costs
    side = cell.image_size
    return {
        "study": cell.study,
        "cell": cell.id,
        "network": cell.network.name,
        "args": dict(cell.network.args),
        "variant": cell.variant,
        "kind": cell.how.kind,
        "method": cell.how.method,
        "granularity": cell.how.granularity,
        "asked_params": _share("params", cell.limits.params, bases.get("params")),
        "asked_macs": _share("macs", cell.limits.macs, bases.get("macs")),
        "seed": cell.seed,
        "data": data if side is None else f"{data} {side}x{side}",
        "recipe": cell.recipe.to_json(),
        "base_params": bases.get("params"),
        "base_macs": bases.get("macs"),
    }


def _share(name: str, budget: Budget | None, base: int | None) -> float | None:
    """A budget as a share of the original; of one that isn't written so where that is known."""
    if budget is None or isinstance(budget, float):
        return budget
    return None if base is None else parse_budget(name, budget, base) / base


def _in_words(budget: Budget) -> str:
    return f"{budget * 100:g}%" if isinstance(budget, float) else str(budget)


def _run(cell: Cell, data: "ImageData") -> "Run":
    """The run of the dense network."""
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
    """A cell's network before it is made smaller, and how it could be.

    Attributes:
        cell: the cell.
        data: its images.
        run: of the dense network.
        model: that network.
        counted: what it has.
    """

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
        """The cell's budgets, or what the variant that it has to match costs."""
        match = self.cell.how.match
        if match is None:
            return self.cell.limits.given()
        from precrop.training.loop import sample
        from precrop.training.networks import build

        run = prepare(dataclasses.replace(self.cell, how=match), self.data).run
        built = build(run, lambda: sample(run, self.data))
        return {"params": built.params, "macs": built.macs}

    def plan(self) -> "Plan | None":
        """The plan by the variant's way, if it has one."""
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
        """What the network is masked by: the variant's method, or a plan's densities."""
        from precrop.training.runs import MaskSpec

        how = self.cell.how
        if how.mask is None:
            return None
        if plan is not None:
            shares = {layer.name: layer.density for layer in plan.layers}
            return MaskSpec("given", how.mask, densities=shares)
        assert how.densities is not None
        limits = self._weight_limits()
        return MaskSpec(
            how.densities,
            how.mask,
            limits.get("params"),
            limits.get("macs"),
            options=how.method_options,
        )

    def densities(self) -> dict[str, float]:
        """What the variant's method makes of the cell's budgets."""
        from precrop.pruning.methods import find_method, layer_densities
        from precrop.pruning.problem import Problem

        how, batches = self.cell.how, None
        assert how.densities is not None
        if find_method(how.densities).needs_data:
            from precrop.training.loop import sample

            batches = sample(self.run, self.data)
        problem = Problem.of(
            self.model,
            self.run.input_shape,
            self._weight_limits(),
            data=batches,
            seed=self.cell.seed,
        )
        return layer_densities(problem, how.densities, **how.method_options)

    def _weight_limits(self) -> dict[str, int]:
        """The budgets of the whole network as budgets of its prunable weights.

        Raises:
            BudgetError: what no mask removes takes more than a budget.
        """
        layers, bases = self.counted.layers, self.counted.costs
        pruned = {
            "params": sum(layer.weights for layer in layers),
            "macs": sum(layer.macs for layer in layers),
        }
        limits = {}
        for name, budget in self.budgets.items():
            base = bases[name]
            rest = base - pruned[name]
            limits[name] = parse_budget(name, budget, base) - rest
            if limits[name] <= 1:
                raise BudgetError(
                    f"{name}={budget!r} cannot be met: of {base}, {rest} cannot be masked"
                )
        return limits


def try_out(cell: Cell, data: "ImageData") -> None:
    """Do of `prepare` what can fail, with a method of no effort in the place of one that scores."""
    how = _quick(cell.how)
    original = _Original(dataclasses.replace(cell, how=how), data)
    plan = original.plan()
    original.mask(plan)
    if plan is None and how.densities is not None:
        original.densities()


def _quick(how: Variant) -> Variant:
    """A nameless variant that fails where this one does, but takes no time: equal for many."""
    from precrop.pruning.methods import METHODS

    # A user's own is tried as it is: whether it fails is worth knowing before anything trains.
    name = how.densities or ""
    scored = name in METHODS and METHODS[name].kind == "score" and not runs_user_code(name)
    return dataclasses.replace(
        how,
        name="",
        densities=_STAND_IN if scored else how.densities,
        method_options={} if scored else how.method_options,
        match=None if how.match is None else _quick(how.match),
    )


def _densities(prepared: Prepared, result: "Result") -> dict[str, float]:
    """The share of every layer's weights that the trained network has."""
    if prepared.run.plan is not None:
        return {layer.name: layer.density for layer in prepared.run.plan.layers}
    from precrop.plans.weights import load_tensors
    from precrop.training.loop import MASKS

    masks = {} if prepared.run.mask is None else load_tensors(result.folder / MASKS)
    return {
        layer.name: float(masks[layer.weight].double().mean()) if layer.weight in masks else 1.0
        for layer in prepared.original.layers
    }


def _widths(prepared: Prepared) -> dict[str, tuple[int, int]]:
    """Input and output channels of every layer."""
    if prepared.run.plan is not None:
        return prepared.run.plan.widths
    layers = prepared.original.layers
    return {layer.name: (layer.in_channels, layer.out_channels) for layer in layers}
