"""How calls grow with the batch: networks are read at batch 1, costs are asked at any."""

from math import prod

from precrop.errors import PrecropError
from precrop.read.lifetimes import Lifetimes, lifetimes
from precrop.read.network import Network


def follow(network: Network, batch_size: int) -> Lifetimes:
    """How long the tensors of an eval pass at ``batch_size`` live.

    Raises:
        PrecropError: the network fails at this batch size or runs other code at it.
    """
    model = network.replica().eval()
    device = "cpu" if network.real else "meta"
    args, kwargs = network.inputs.make(batch_size, model, device)
    try:
        found = lifetimes(model, args, kwargs, None if network.real else network.meta)
    except Exception as error:  # whatever the network's own forward raises
        raise PrecropError(f"the network fails at batch size {batch_size}: {error}") from error
    elements_per_image(network, found)
    return found


def elements_per_image(network: Network, found: Lifetimes) -> list[tuple[int, ...]]:
    """By how much each output of each call is larger than in the pass that was read, at batch 1.

    Raises:
        PrecropError: the two passes do not make the same calls.
    """
    calls = network.passes[0].trace.calls
    ratios = []
    for call, sizes in zip(calls, found.sizes, strict=False):
        base = [prod(shape) for shape in call.shapes]
        ratios.append(tuple(max(n // m, 1) if m else 1 for n, m in zip(sizes, base, strict=False)))
    whole = len(calls) == len(found.sizes)
    if not whole or any(len(r) != len(c.shapes) for r, c in zip(ratios, calls, strict=True)):
        raise PrecropError("the network runs other code at this batch size: write batch_size=1")
    return ratios
