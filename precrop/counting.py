"""Count a network's parameters and multiply-accumulates, in total and by layer."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from precrop import plugins
from precrop.errors import check_kind, check_values
from precrop.modules.apart import apart
from precrop.modules.hooks import unwrapped
from precrop.modules.masks import check_masks
from precrop.modules.names import parameters_of
from precrop.plans.text import bare_table, drawn, plain
from precrop.plans.views import framed, span, stages
from precrop.read.inputs import given
from precrop.read.lower import lower
from precrop.read.network import read_network

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]


@dataclass(frozen=True)
class LayerCount:
    """The counts of one layer.

    Attributes:
        name: module path, such as ``layer1.0.conv1``.
        weight: name of its weight among the network's parameters.
        kind: ``conv``, ``depthwise``, ``grouped``, ``transposed``, ``linear``, …
        weights: number of weights that are not masked.
        macs: multiply-accumulates at batch 1 in eval mode with these weights.
    """

    name: str
    weight: str
    kind: str
    in_channels: int
    out_channels: int
    weights: int
    macs: int


@dataclass(frozen=True)
class Count:
    """The counts of a network.

    Attributes:
        params: all parameters that are not masked, those in no layer (norms, biases) included.
        macs: all multiply-accumulates at batch 1 in eval mode, those in no layer (attention)
            included; FLOPs are twice as many.
        layers: layers with a weight tensor, in the order of execution.
    """

    params: int
    macs: int
    layers: tuple[LayerCount, ...]

    @property
    def costs(self) -> dict[str, int]:
        """``{"params": params, "macs": macs}``, by the names of budgets."""
        return {"params": self.params, "macs": self.macs}

    def __str__(self) -> str:
        table = bare_table("layers", "", "outputs", "weights", "MACs")
        for name, layers in stages(self.layers):
            table.add_row(
                plain(name),
                str(len(layers)) if len(layers) > 1 else "",
                span([layer.out_channels for layer in layers]),
                f"{sum(layer.weights for layer in layers):,}",
                f"{sum(layer.macs for layer in layers):,}",
            )
        params = self.params - sum(layer.weights for layer in self.layers)
        macs = self.macs - sum(layer.macs for layer in self.layers)
        if params or macs:
            table.add_row("in no layer", "", "", f"{params:,}", f"{macs:,}")
        table.add_row("total", str(len(self.layers)), "", f"{self.params:,}", f"{self.macs:,}")
        return drawn(table)

    def to_frame(self) -> "DataFrame":
        """Return a pandas frame with one row per layer; its columns are those of `LayerCount`.

        Raises:
            PrecropError: pandas is not installed.
        """
        return framed(map(dataclasses.asdict, self.layers))

    def to_json(self) -> dict[str, Any]:
        """Return all counts in JSON's types."""
        return {**dataclasses.asdict(self), "layers": list(map(dataclasses.asdict, self.layers))}


@apart()
def count(
    model: nn.Module,
    input_shape: Any = None,
    *,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    masks: Mapping[str, Tensor] | None = None,
) -> Count:
    """Count a network's parameters and multiply-accumulates, as plans and budgets count them.

    Args:
        model: any network whose forward runs in PyTorch; it is not changed.
        input_shape: as in `precrop.plan`.
        example_inputs: as in `precrop.plan`, instead of a shape.
        example_kwargs: likewise.
        masks: bool tensors by parameter name, as `precrop.masks` returns them: weights that are
            False, and their multiplications, don't count. They may be applied to the network.

    Raises:
        PrecropError: the network fails on this input, or a mask fits no parameter.
    """
    plugins.load()
    model = unwrapped(model)
    inputs = given(model, input_shape, example_inputs, example_kwargs)
    network = read_network(model, inputs, fold=True)
    structure = lower(network).structure
    params, macs = (structure.costs[cost](structure.units) for cost in ("params", "macs"))
    masked = _masked(model, masks or {})
    layers = []
    for reading, layer in zip(network.layers, structure.layers, strict=True):
        absent = masked.get(reading.weight, 0)
        unmultiplied = round(layer.macs * absent / max(1, layer.weights))
        macs -= unmultiplied
        layers.append(
            LayerCount(
                name=layer.name,
                weight=reading.weight,
                kind=layer.kind,
                in_channels=layer.in_channels,
                out_channels=layer.out_channels,
                weights=layer.weights - absent,
                macs=layer.macs - unmultiplied,
            )
        )
    return Count(params - sum(masked.values()), macs, tuple(layers))


def _masked(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Return how many elements of each parameter are masked, by its name in the reading."""
    names = {id(parameter): name for name, parameter in parameters_of(model).items()}
    parameters = parameters_of(model, remove_duplicate=False)
    # Where masks are applied, the parameter ``weight`` has become ``weight_orig``.
    check_kind("masks", masks, Mapping, "a mapping from parameters' names to masks")
    own = {name: f"{name}_orig" if f"{name}_orig" in parameters else name for name in masks}
    masks = {own[name]: mask for name, mask in masks.items()}
    check_masks(model, masks)
    for name, mask in masks.items():
        check_values(f"the mask of {name}", mask)
    return {
        names[id(parameters[name])]: mask.numel() - int(mask.sum()) for name, mask in masks.items()
    }
