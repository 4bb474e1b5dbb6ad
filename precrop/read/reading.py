"""`Reading`: a network that is read once for many plans."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from precrop.errors import PrecropError
from precrop.forking import process_lock
from precrop.modules.apart import apart, uncollected
from precrop.modules.hooks import unwrapped
from precrop.read.axes import Axis, Tie, resolve, roots_of, segment_size, varies
from precrop.read.inputs import given
from precrop.read.network import Network, read_network
from precrop.read.residual import find_streams


class Reading:
    """A network and its inputs, whose forward passes are read once for any number of plans.

    `precrop.plan` takes it in place of both and makes the same plans. Several threads may use it at
    once. The network must not be changed meanwhile::

        reading = precrop.Reading(model, (3, 224, 224))
        plans = [precrop.plan(reading, params=share) for share in (0.7, 0.5, 0.3)]

    Attributes:
        model: the network.
        inputs: its inputs.
    """

    @apart()
    def __init__(
        self,
        model: nn.Module,
        input_shape: Any = None,
        *,
        example_inputs: Any = None,
        example_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the arguments of `precrop.plan`; the network is read when it is first planned for.

        Raises:
            PrecropError: it is not a network, or its inputs make no sense.
        """
        self.model = unwrapped(model)
        self.inputs = given(self.model, input_shape, example_inputs, example_kwargs)
        self._begin()

    def _begin(self) -> None:
        self._networks: dict[tuple[bool, ...], Network] = {}
        self._lock = process_lock()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was read, which knows tensors by identity: a copy reads anew."""
        return {"model": self.model, "inputs": self.inputs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    @apart()
    @uncollected
    def network(
        self, *, own_widths: bool, scale_groups: bool, fold: bool, drop_unused: bool
    ) -> Network:
        """Return the network as read, once for every combination of options of `read_network`.

        With ``own_widths``, layers at residual streams have widths of their own.
        """
        how = own_widths, scale_groups, fold, drop_unused
        read = partial(
            read_network,
            self.model,
            self.inputs,
            scale_groups=scale_groups,
            fold=fold,
            drop_unused=drop_unused,
        )
        with self._lock:
            if how not in self._networks:
                network = read()
                self._networks[how] = _with_streams(network, read) if own_widths else network
            return self._networks[how]


def _with_streams(network: Network, read: Callable[..., Network]) -> Network:
    """Read a network once more, with hooks that give layers widths of their own at its streams.

    The stream itself then keeps its width, and with it the output of any layer that must equal it
    without writing to it (one that is multiplied with it). Streams that would freeze a layer so are
    left out. If the network fails with hooks, in either mode, it is returned without.
    """
    tied: set[Tie] = set()
    while streams := find_streams(network, tied):
        try:
            hooked = read(streams=streams)
        except PrecropError:
            break
        if not hooked.notes.keys() <= network.notes.keys():
            break
        held = _held(network, hooked)
        if not held:
            return hooked
        if held <= tied:
            break
        tied |= held
    return network


def _held(network: Network, hooked: Network) -> set[Tie]:
    """Return the output widths of layers of which more is fixed with hooks than without."""
    held: set[Tie] = set()
    for weight, layer in network.known.layers.items():
        other = hooked.known.layers.get(weight)
        if other is not None and _fixed(other.outputs) > _fixed(layer.outputs):
            held |= roots_of([layer.outputs])
    return held


def _fixed(axis: Axis) -> int:
    """Return the number of an axis' channels that cannot vary."""
    return sum(segment_size(segment) for segment in resolve(axis) if not varies((segment,)))
