"""The part of a plan about one layer."""

from dataclasses import dataclass
from typing import Any

from precrop.read.axes import axis_size
from precrop.read.known import LayerReading, Product
from precrop.read.network import Network, Sizes


@dataclass(frozen=True)
class LayerPlan:
    """Widths and costs of one layer, in the original (``base_…``) and in the cropped network.

    ``weight`` names its parameter, ``group`` the independent width of its output (None if fixed).
    ``target`` is the density that was asked for, or None. ``added`` names the parameters from which
    forward computes something that it adds to the weight, such as a low-rank update.
    """

    name: str
    weight: str
    kind: str
    base_in: int
    base_out: int
    in_channels: int
    out_channels: int
    base_weights: int
    weights: int
    base_macs: int
    macs: int
    group: str | None
    frozen: str | None = None
    target: float | None = None
    added: tuple[str, ...] = ()

    @property
    def density(self) -> float:
        """Share of the weights that remain."""
        return self.weights / max(1, self.base_weights)

    @property
    def kept(self) -> float:
        """Share of the output channels that remain; 1 if the layer has none."""
        return self.out_channels / self.base_out if self.base_out else 1.0


def layer_plan(network: Network, layer: LayerReading, sizes: Sizes, **told: Any) -> LayerPlan:
    """Return the plan of a layer that was read; ``told`` is its group, frozen and target."""
    weights = Product(1, [*network.known.tensors[layer.weight]])
    whole = Sizes({})
    return LayerPlan(
        name=layer.name,
        weight=layer.weight,
        kind=layer.kind,
        base_in=axis_size(layer.inputs),
        base_out=axis_size(layer.outputs),
        in_channels=sizes.size(layer.inputs),
        out_channels=sizes.size(layer.outputs),
        base_weights=whole.product(weights),
        weights=sizes.product(weights),
        base_macs=sum(map(whole.product, layer.macs)),
        macs=sum(map(sizes.product, layer.macs)),
        added=tuple(sorted(layer.added)),
        **told,
    )
