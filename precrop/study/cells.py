"""Cells: what a study trains, one by one, from what was asked for to the row of a store."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from precrop.errors import BudgetError, PrecropError, one_line
from precrop.model_spec import ModelSpec
from precrop.solve.budgets import Budget, parse_budget
from precrop.study.request import VariantRequest
from precrop.study.rows import Row
from precrop.study.spec import Limits, Study
from precrop.study.variants import WAYS, Variant
from precrop.training.recipes import Recipe
from precrop.trust import runs_user_code

if TYPE_CHECKING:
    from precrop.counting import LayerCount
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
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def variant(self) -> str:
        """Name of the variant within the study."""
        return self.how.name

    @property
    def kind(self) -> Literal["dense", "cropped", "masked"]:
        """As in `Row`."""
        return self.how.kind

    @property
    def method(self) -> str:
        """As in `Row`."""
        return self.how.method

    @property
    def granularity(self) -> str:
        """As in `Row`."""
        return self.how.granularity


@dataclass(frozen=True)
class Prepared:
    """A cell that is ready to be trained.

    Attributes:
        run: what is trained.
        plan: the network that is built, or None.
        base_params: parameters of the original.
        base_macs: multiply-accumulates of the original at batch 1.
        layers: of the original, in the order of execution.
    """

    run: "Run"
    plan: "Plan | None"
    base_params: int
    base_macs: int
    layers: "tuple[LayerCount, ...]"


def expand(study: Study) -> list[Cell]:
    """A study's cells: networks, then budgets, then variants, then seeds; none of them twice."""
    found: dict[str, Cell] = {}
    for cell in _cells(study):
        found.setdefault(cell.id, cell)
    return list(found.values())


def _cells(study: Study) -> Iterator[Cell]:
    most = max(len(series.budgets) for series in study.series)
    for network in study.networks:
        for position in range(most):
            for series in study.series:
                if network not in series.networks or position >= len(series.budgets):
                    continue
                for seed in series.seeds:
                    yield Cell(
                        study=study.name,
                        network=network.model,
                        how=series.variant,
                        limits=series.budgets[position],
                        seed=seed,
                        recipe=network.recipe,
                        data=study.data,
                        data_name=study.data_name,
                        image_size=study.image_size,
                    )


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
    return Prepared(
        run=dataclasses.replace(original.run, plan=plan, mask=mask),
        plan=plan,
        base_params=original.bases["params"],
        base_macs=original.bases["macs"],
        layers=original.layers,
    )


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
    """The row of a cell that was trained.

    Args:
        cell: the cell.
        prepared: what `prepare` made of it.
        result: what training made of that; its folder holds the masks.
        overhead: seconds of everything else that the study did for the cell.
        started: when it was begun.
        ended: when it was over.
        device: what it was trained on.
    """
    run = prepared.run
    return Row(
        **_asked(cell, prepared.base_params, prepared.base_macs),
        run=run.id,
        data=_sized(run.data_name, cell.image_size),
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
    """The row of a cell that failed.

    Args:
        cell: the cell.
        error: why.
        data_digest: of the images, if they were loaded.
        overhead: as in `outcome`.
        started: as in `outcome`.
        ended: as in `outcome`.
        device: as in `outcome`.
    """
    from precrop.training.runs import current_versions

    return Row(
        **_asked(cell),
        run=None,
        data=_sized(cell.data_name, cell.image_size),
        data_digest=data_digest,
        status="failed",
        error=_line(error),
        accuracy=None,
        best_accuracy=None,
        loss=None,
        params=None,
        macs=None,
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


def _asked(
    cell: Cell, base_params: int | None = None, base_macs: int | None = None
) -> dict[str, Any]:
    """The fields that `outcome` and `failure` share; what the original costs, if it is known."""
    return {
        "study": cell.study,
        "cell": cell.id,
        "network": cell.network.name,
        "args": dict(cell.network.args),
        "variant": cell.variant,
        "kind": cell.kind,
        "method": cell.method,
        "granularity": cell.granularity,
        "asked_params": _share("params", cell.limits.params, base_params),
        "asked_macs": _share("macs", cell.limits.macs, base_macs),
        "seed": cell.seed,
        "recipe": cell.recipe.to_json(),
        "base_params": base_params,
        "base_macs": base_macs,
    }


def _share(name: str, budget: Budget | None, base: int | None) -> float | None:
    """A budget as a share of the original; of one that isn't written so where that is known."""
    if budget is None or isinstance(budget, float):
        return budget
    return None if base is None else parse_budget(name, budget, base) / base


def _sized(data: str, side: int | None) -> str:
    """Like ``cifar10 16x16``, where images are brought to a size."""
    return data if side is None else f"{data} {side}x{side}"


def _line(error: BaseException) -> str:
    text = one_line(str(error))
    if isinstance(error, PrecropError):
        return text
    return one_line(f"{type(error).__name__}: {text}") if text else type(error).__name__


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
        layers: in the order of execution.
        bases: what the network costs.
    """

    def __init__(self, cell: Cell, data: "ImageData") -> None:
        from precrop.counting import count
        from precrop.training.networks import initial_weights

        cell.how.load_own()
        self.cell, self.data, self.run = cell, data, _run(cell, data)
        with initial_weights(cell.seed):
            self.model = self.run.model.build()
        counted = count(self.model, self.run.input_shape)
        self.layers, self.bases = counted.layers, counted.costs

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
        pruned = {
            "params": sum(layer.weights for layer in self.layers),
            "macs": sum(layer.macs for layer in self.layers),
        }
        limits = {}
        for name, budget in self.budgets.items():
            base = self.bases[name]
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
    if prepared.plan is not None:
        return {layer.name: layer.density for layer in prepared.plan.layers}
    found = {layer.name: 1.0 for layer in prepared.layers}
    if prepared.run.mask is None:
        return found
    from precrop.plans.weights import load_tensors
    from precrop.training.loop import MASKS

    masks = load_tensors(result.folder / MASKS)
    for layer in prepared.layers:
        if layer.weight in masks:
            found[layer.name] = float(masks[layer.weight].double().mean())
    return found


def _widths(prepared: Prepared) -> dict[str, tuple[int, int]]:
    """Input and output channels of every layer."""
    if prepared.plan is not None:
        return prepared.plan.widths
    return {layer.name: (layer.in_channels, layer.out_channels) for layer in prepared.layers}
