"""Predicts a network's latency on a device, as a polynomial of its widths.

Every operation takes the time of a launch, plus that of its bytes and multiply-accumulates at the
rates that a profile has for its kind. All are products of widths with positive coefficients, so
latency is one more row of the program. It is in femtoseconds, so that costs stay integers.
"""

from collections.abc import Mapping
from math import prod

from precrop.costs.fused import fused_calls
from precrop.costs.profiles import DeviceProfile
from precrop.costs.work import FEATURES, MAP_AXES, UNBLOCKED, Work, WorkReader, each_call
from precrop.read.axes import Tie, axis_size
from precrop.read.known import Product
from precrop.read.lifetimes import Lifetimes
from precrop.read.lower import CostModel, polynomial
from precrop.read.network import Network
from precrop.solve.structure import Cost

FEMTOSECONDS = 10**15
"""Femtoseconds in one second."""

READERS: dict[str, WorkReader] = {"eager": each_call, "ort": fused_calls}
"""By runtime, the function that lists a network's operations."""

_UNPADDED = 4
"""Axes up to this size (an image's colours, one channel per group) are not padded."""


def latency(profile: DeviceProfile, lives: Lifetimes) -> CostModel:
    """Return a followed pass' latency in femtoseconds; see `precrop.costs.batches.follow`."""

    def model(network: Network, index: Mapping[Tie, int]) -> Cost:
        products = [
            Product(round(FEMTOSECONDS * rate * product.coefficient), product.axes)
            for work in READERS[profile.runtime](network, lives)
            for feature, rate in profile.of(work.kind).items()
            for product in work.products(feature)
        ]
        return polynomial([product for product in products if product.coefficient], index)

    return model


def predicted_seconds(profile: DeviceProfile, network: Network, lives: Lifetimes) -> float:
    """Predict the seconds of one pass of the network, with channels padded to the profile's step.

    The program's polynomial has no padding; both agree if the widths are multiples of the step.
    """
    works = READERS[profile.runtime](network, lives)
    return sum(seconds(profile, work.kind, amounts(work, profile.step)) for work in works)


def amounts(work: Work, step: int = 1) -> dict[str, float]:
    """Return the amount of every feature, with channels padded to multiples of ``step``."""
    step = step_of(work.kind, step)
    return {
        feature: float(sum(_padded(product, step) for product in work.products(feature)))
        for feature in FEATURES
    }


def seconds(profile: DeviceProfile, kind: str, amount: Mapping[str, float]) -> float:
    """Predict the seconds of one operation."""
    return sum(rate * amount[feature] for feature, rate in profile.of(kind).items())


def step_of(kind: str, step: int) -> int:
    """Return how many channels a kind's kernels process at once, if most process ``step``."""
    return 1 if kind == UNBLOCKED else step


def _padded(product: Product, step: int) -> int:
    """Return a product, with the channel axes padded if it is of maps or kernels."""
    if len(product.axes) < MAP_AXES:
        return product.coefficient * prod(map(axis_size, product.axes))
    return product.coefficient * prod(
        filled(axis_size(axis), step) if any(atom for atom, _ in axis) else axis_size(axis)
        for axis in product.axes
    )


def filled(channels: int, step: int) -> int:
    """Return the channels padded to a multiple of ``step``; a few channels stay as they are."""
    return channels if channels <= _UNPADDED else -(-channels // step) * step
