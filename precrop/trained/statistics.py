"""Running statistics of batch norms, estimated again on a few batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from precrop.errors import PrecropError, check_kind
from precrop.modules.hooks import unwrapped
from precrop.modules.names import parameters_of
from precrop.modules.random import OwnNumbers
from precrop.own import calling_own

SEED = 0


def recalibrate(model: nn.Module, batches: Iterable[Any]) -> nn.Module:
    """Estimate the running statistics of a network's batch norms again, in place.

    Each becomes the mean, over the batches, of the batch's own mean or variance. Nothing else
    changes: not the weights, the modes of the modules, gradients or random states. Dropout is off.

    Args:
        model: the network, on any device.
        batches: one input of the network per batch: a tensor, a tuple or list that begins with one
            (as from a data loader, whose targets are ignored), or a mapping of arguments by name.

    Returns:
        The same network.

    Raises:
        PrecropError: there is no batch or no batch norm with statistics, the network fails on a
            batch, or a statistic is not finite. The statistics then stay as they were.
    """
    if isinstance(batches, Tensor):
        raise PrecropError("batches= is one tensor: give a list of batches, such as [tensor]")
    check_kind("batches", batches, Iterable, "an iterable of batches")
    norms = _norms(model)
    if not norms:
        raise PrecropError(
            f"{type(model).__name__} has no batch norm that keeps statistics: there is nothing to "
            "recalibrate"
        )
    device = next((tensor.device for tensor in parameters_of(model).values()), torch.device("cpu"))
    with _collecting(model, list(norms.values())), torch.no_grad(), OwnNumbers(SEED):
        count = 0
        for count, batch in enumerate(batches, 1):
            _run(model, batch, device, count)
        if not count:
            raise PrecropError("there is no batch to recalibrate on: give one or more")
        for name, norm in norms.items():
            statistics = (norm.running_mean, norm.running_var)
            if not all(bool(t.isfinite().all()) for t in statistics if t is not None):
                raise PrecropError(f"the statistics of {name} are not finite: look at the batches")
    return model


def _norms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: module
        for name, module in unwrapped(model).named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


@contextmanager
def _collecting(model: nn.Module, norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Let the batch norms collect statistics, with everything else in eval mode.

    A norm that no batch reaches keeps its statistics; after an error, all norms do.
    """
    modes = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    before = {
        norm: {name: b.clone() for name, b in norm._buffers.items() if b is not None}
        for norm in norms
    }
    reached = set[_BatchNorm]()
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a mean of all batches, not a moving one
            norm.train()
        yield
        reached = {norm for norm in norms if norm.num_batches_tracked}
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        for norm in {*norms} - reached:
            for name, tensor in before[norm].items():
                norm._buffers[name].copy_(tensor)  # type: ignore[union-attr]
        for module, mode in modes.items():
            module.training = mode


def _run(model: nn.Module, batch: Any, device: torch.device, number: int) -> None:
    def there(leaf: Any) -> Any:
        return leaf.to(device) if isinstance(leaf, Tensor) else leaf

    with calling_own(f"the network fails on batch {number}"):
        if isinstance(batch, Mapping):
            model(**tree_map(there, dict(batch)))
        else:
            model(there(batch[0] if isinstance(batch, (tuple, list)) else batch))
