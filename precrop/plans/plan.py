"""A plan: which width every layer gets, what that costs, and how to build it (JSON on disk)."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from precrop.errors import MALFORMED, PlanError, PrecropError, brief, check_kind, within
from precrop.files import is_sound, read_text, write_text
from precrop.fit.attributes import GROWTH
from precrop.model_spec import ModelSpec
from precrop.modules.streams import Stream
from precrop.plans import build as building
from precrop.plans import ends, views
from precrop.plans import plot as picture
from precrop.plans.file import from_text, to_text
from precrop.plans.kinds import Axis, Init, built_size, original_size
from precrop.plans.layers import LayerPlan
from precrop.plans.table import notes

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame  # type: ignore[import-untyped]

SCHEMA = 2
_LARGEST_INPUT = 2**30
"""Most elements of an input that a plan file may describe."""


@dataclass(frozen=True)
class BudgetPlan:
    """One budget: what was asked, the limit, and what the plan and the original use, in units.

    Units are parameters, multiply-accumulates, bytes of memory and femtoseconds of latency.
    ``multiplier`` is how much the objective would grow with one per cent more of this budget.
    """

    asked: float | int | str
    limit: int
    used: int
    base: int
    multiplier: float = 0.0


@dataclass(frozen=True, repr=False)
class Plan:
    """Everything that is needed to build the cropped network from another instance of the original.

    Attributes:
        network: class of the original, ``module:qualname``.
        source: how the CLI names the model, or None.
        input_shape: shape of one input without the batch, as given to `precrop.plan`.
        budgets: by cost (``params``, ``macs``, ``latency``, ``memory``, your own), what was asked
            and what is used.
        params, macs, base_params, base_macs: exact totals, batch 1.
        layers: widths before and after, in the order of execution.
        frozen: what unexpectedly keeps its full width, and why: ``{name: reason}``.
        options: the options that the plan was made with (divisor, expand, balance, …).
        shapes: shape of every tensor in the original state_dict: the network's fingerprint.
        tensors: for every tensor that changes, its axes; an axis is a size or its
            ``(old, new)`` segments.
        streams: inputs and outputs of layers at residual streams that have widths of their own.
        attributes: ``(module path, attribute path, value)`` to set in the built network.
        solver: status, iterations, objective of the continuous program and of the plan.
        versions: of precrop and torch.
        seconds: time that planning took.
        followers: modules that no pass called, each with the module whose widths it follows.
        left_out: modules that no pass called and that the built network does not have.
    """

    network: str
    source: ModelSpec | None
    input_shape: Any
    budgets: Mapping[str, BudgetPlan]
    params: int
    macs: int
    base_params: int
    base_macs: int
    layers: tuple[LayerPlan, ...]
    frozen: Mapping[str, str]
    options: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    tensors: Mapping[str, tuple[Axis, ...]]
    streams: tuple[Stream, ...]
    attributes: tuple[tuple[str, str, Any], ...]
    solver: Mapping[str, Any]
    versions: Mapping[str, str]
    seconds: float
    followers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Convert shapes and axes to nested tuples, so that a plan equals itself when read back."""
        for name in ("input_shape", "shapes", "tensors"):
            object.__setattr__(self, name, _tuples(getattr(self, name)))

    @property
    def totals(self) -> dict[str, tuple[int, int]]:
        """``(original, cropped)`` counts by the words ``parameters`` and ``MACs``."""
        return {"parameters": (self.base_params, self.params), "MACs": (self.base_macs, self.macs)}

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """``{layer name: (in_channels, out_channels)}`` of the cropped network."""
        return {layer.name: (layer.in_channels, layer.out_channels) for layer in self.layers}

    @property
    def densities(self) -> dict[str, float]:
        """``{layer name: density}``: the share of each layer's weights that remains."""
        return {layer.name: layer.density for layer in self.layers}

    @property
    def widened(self) -> dict[str, tuple[int, int]]:
        """``{layer name: (original, new) output channels}`` of layers wider than the original."""
        return {
            layer.name: (layer.base_out, layer.out_channels)
            for layer in self.layers
            if layer.out_channels > layer.base_out
        }

    __repr__ = views.one_line
    _repr_html_ = views.html

    def __str__(self) -> str:
        return self.summary()

    def summary(self) -> str:
        """Return a screenful of text: widths by stage, totals, what is frozen and why."""
        return views.summary(self)

    def to_frame(self) -> "DataFrame":
        """Return a pandas frame, a row per layer; `precrop.plans.views.frame` lists the columns.

        Raises:
            PrecropError: pandas is not installed.
        """
        return views.frame(self)

    def plot(self, title: str | None = None) -> "Figure":
        """Draw old and new widths over depth; return a matplotlib figure, which notebooks show.

        Args:
            title: first words of the heading; the name of the network by default.

        Raises:
            PrecropError: matplotlib is not installed.
        """
        return picture.figure(self, title)

    def build(self, model: nn.Module, init: Init = "slice") -> nn.Module:
        """Build the cropped network; ``model`` is not changed.

        Args:
            model: an instance of the network that the plan was made for. It may have another
                number of outputs or classes, another head or none, and other input channels;
                `for_outputs` gives the plan with the counts of what is built then.
            init: ``slice`` keeps the leading channels of every segment of a weight and rescales it
                by ``sqrt(old fan-in / new fan-in)``, so that activations keep their variance;
                ``reset`` then calls every module's own ``reset_parameters``. Frozen parameters,
                where others require gradients, are only sliced. For trained networks, ``l1``,
                ``l2`` and ``bn`` keep the channels with the largest norms, without rescaling: L1
                or L2 of the filters that compute them, or the magnitude of their batch norm scales
                (docs/trained-weights.md). A `SlicedChannelsWarning` names the widths whose channels
                cannot be matched between layers; those keep their leading ones, not rescaled.

        Raises:
            PlanError: ``model`` is another network; the message names the first tensors to differ.
        """
        return building.build(self, model, init)

    def for_outputs(self, model: nn.Module) -> "Plan":
        """Return the plan for ``model``, which has other ends: other classes, another head or none.

        Its first layers may also read other numbers of channels. Layers that the plan does not know
        keep their outputs. Parameters, MACs and their budgets are recounted;
        ``options["outputs"]`` or ``options["ends"]`` says what changed.
        Budgets of latency, memory and costs of your own are left out: these need a new plan.

        Raises:
            PlanError: ``model`` differs in more than that; the message names the first tensors.
        """
        plan = ends.for_ends(self, model)
        building.check_same_network(plan, model)
        return plan

    def to_json(self) -> str:
        """Return the plan as JSON; equal plans give equal text.

        It includes a digest of the content, so that an altered file is refused.

        Raises:
            PlanError: the plan holds a value that JSON cannot store.
        """
        return to_text(self, SCHEMA)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read what `to_json` wrote, without running any code from it.

        Raises:
            PlanError: the text is truncated, altered, or of another schema version.
        """
        try:
            plan = from_text(text, cls, SCHEMA)
            _check(plan)
        except RecursionError as error:
            raise PlanError("this plan is nested too deeply") from error
        return plan

    def save(self, path: str | Path) -> None:
        """Write the plan to ``path``, whole or not at all."""
        check_kind("path", path, (str, os.PathLike), "a path")
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """Read a plan that `save` wrote, without running any code from it.

        Raises:
            PlanError: the file is missing, truncated, altered, or of another schema version.
        """
        check_kind("path", path, (str, os.PathLike), "a path")
        try:
            text = read_text(Path(path), "a plan file")
        except PrecropError as error:
            raise PlanError(str(error)) from error
        with within(str(path)):
            return cls.from_json(text)


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _check(plan: Plan) -> None:
    """Refuse a plan with impossible sizes or costs, or with notes that cannot be displayed."""
    if not _is_shape(plan.input_shape):
        raise PlanError(f"input_shape of this plan is broken: {brief(plan.input_shape)}")
    for name, axes in plan.tensors.items():
        sizes = plan.shapes.get(name, tuple(map(original_size, axes)))
        gone = any(built_size(axis) < min(1, original_size(axis)) for axis in axes)
        if gone or tuple(map(original_size, axes)) != sizes:
            raise PlanError(f"the tensor {name!r} of this plan is broken: its sizes make no sense")
    for layer in plan.layers:
        widths = (layer.base_in, layer.in_channels), (layer.base_out, layer.out_channels)
        costs = layer.base_weights, layer.weights, layer.base_macs, layer.macs
        if not all(min(1, old) <= new <= GROWTH * old for old, new in widths) or min(costs) < 0:
            raise PlanError(f"layer {layer.name!r} of this plan is broken: its sizes make no sense")
        shape = plan.shapes.get(layer.weight)
        if shape is None:
            continue
        if len(shape) < 2:
            raise PlanError(f"layer {layer.name!r} of this plan is broken: its weight has one axis")
        built = prod(map(built_size, plan.tensors.get(layer.weight, shape)))
        if (layer.base_weights, layer.weights) != (prod(shape), built):
            raise PlanError(f"layer {layer.name!r} of this plan is broken: its weights are others")
    for stream in plan.streams:
        if stream.dim < 0 or stream.width < 1:
            raise PlanError(f"the stream at {stream.path!r} of this plan is broken")
    _check_counts(plan)
    try:
        list(notes(plan))
    except MALFORMED as error:
        raise PlanError("solver or options of this plan are broken: make it anew") from error


def _check_counts(plan: Plan) -> None:
    """Refuse totals and budgets that are impossible or contradict each other or the layers."""
    if any(new < 0 or old < min(new, 1) for old, new in plan.totals.values()):
        raise PlanError("params or macs of this plan are broken: they make no sense")
    macs = sum(layer.base_macs for layer in plan.layers), sum(layer.macs for layer in plan.layers)
    if macs[0] > plan.base_macs or macs[1] > plan.macs:
        raise PlanError("params or macs of this plan are broken: its layers have more in sum")
    counted = {"params": plan.totals["parameters"], "macs": plan.totals["MACs"]}
    for name, budget in plan.budgets.items():
        if (budget.base, budget.used) != counted.get(name, (budget.base, budget.used)):
            raise PlanError(f"the budget {name!r} of this plan is broken: it is miscounted")
        if min(budget.limit, budget.base) < 1 or budget.used < 0:
            raise PlanError(f"the budget {name!r} of this plan is broken: it is not above 0")


def _is_shape(value: Any) -> bool:
    """Whether an input with this description takes a reasonable amount of memory."""
    if isinstance(value, Mapping):
        return all(_is_shape(item) for name, item in value.items() if name != "values")
    if isinstance(value, (list, tuple)):
        sizes = [item for item in value if type(item) is int]
        return all(map(_is_shape, value)) and abs(prod(sizes)) <= _LARGEST_INPUT
    return is_sound(value)
