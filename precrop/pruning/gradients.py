"""Scores from the gradient of the loss at initialization: SNIP and GraSP.

The loss is the mean cross-entropy over all samples of all batches. Both methods run a copy of the
network in train mode: random choices such as dropout depend on the problem's seed alone, and batch
norms use the statistics of the samples computed at once, or their running statistics.

To save memory, a batch is cut into as few parts as possible of at most ``micro_batch`` samples, of
nearly equal sizes. This changes no score unless something looks across samples: a batch norm
normalises over a part instead of the whole batch. By default a part is as large as about 4 GB of
memory allow: the whole batch for usual networks on CIFAR, 24 samples (SNIP) or 12 (GraSP) for
ResNet-50 at 224x224.

The weights of convolutions and linear layers are scored, but no biases and no norms. A layer that
does not affect the loss scores zeros: the layers of GoogLeNet's auxiliary heads, and those of a
residual branch that ends in a scale initialised to zero, as in many of timm's networks.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from operator import length_hint
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from precrop.errors import PrecropError, check_values, errors_as, typed_reason
from precrop.modules.apart import apart
from precrop.modules.convolutions import SafeConvolutions
from precrop.modules.copying import copied
from precrop.modules.hooks import call_alone
from precrop.modules.instead import Instead
from precrop.modules.names import parameters_of
from precrop.modules.random import OwnNumbers
from precrop.own import calling_own
from precrop.pruning.problem import Problem
from precrop.read.plain import OtherAttention, PlainLayers

# Most elements of all layers' outputs at once: a backward pass needs about 8 bytes per element in
# float32, differentiating twice about 20 (measured with ResNet-50).
SNIP_AT_ONCE = 2**28
GRASP_AT_ONCE = 2**27

BatchNorm = Literal["batch", "stored"]


def snip(
    problem: Problem, *, batch_norm: BatchNorm = "batch", micro_batch: int | None = None
) -> dict[str, Tensor]:
    """``|w dL/dw|``, the sensitivity of the loss L to a connection.

    Lee et al. 2019 (1810.02340). Their code (namhoonlee/snip-public) takes one batch, scores biases
    too, divides by the sum of all scores, which changes no ranking, and lets batch norms use their
    running statistics, as SynFlow's code does. Here all given data counts, and batch norms use
    batch statistics by default, as in GraSP's code and in ports of SNIP to PyTorch. At
    initialization, where running statistics are 0 and 1, the two keep rather different weights.

    Args:
        problem: the network and its data, of which one batch at a time is held.
        batch_norm: ``batch`` normalises over the samples computed at once, ``stored`` by the
            running mean and variance.
        micro_batch: most samples to compute at once; by default what 4 GB hold (see above).

    Returns:
        A non-negative tensor of the weight's shape by layer name.

    Raises:
        PrecropError: an option, the data or the loss makes no sense, or the network fails on it.
    """
    size = _part_size(problem, micro_batch, SNIP_AT_ONCE)
    network = _Differentiated(problem, batch_norm)
    with network.apart():
        batches = problem.progress(problem.batches(), "SNIP", length_hint(problem.data) or None)
        found = network.gradients(_parts(batches, size), temperature=1.0)
    return {name: g.mul_(network.weights[name].detach()).abs() for name, g in found.items()}


def grasp(
    problem: Problem,
    *,
    temperature: float = 200.0,
    batch_norm: BatchNorm = "batch",
    micro_batch: int | None = None,
) -> dict[str, Tensor]:
    """``w Hg``: what removing a weight does to the norm of the gradient.

    Here g is the gradient and H the Hessian of the loss of ``logits / temperature``.

    Wang et al. 2020 (2002.07376) score ``-w Hg`` and remove the weights that score highest, without
    which the gradient's norm grows most. This is the negative, so that the highest remain, as in
    SynFlow's code (its first versions had the other sign). The authors' code (alecwangcq/GraSP)
    also draws the classifier's weights anew, takes equally many samples of every class, cuts a
    batch in halves (for ImageNet in parts of 20) and divides by the sum of all scores, which
    changes no ranking; here weights and data are those given. As there, batch norms use batch
    statistics by default; in SynFlow's code they use running statistics.

    Args:
        problem: the network and its data, all of which is held for two passes over it.
        temperature: divides the logits; 200 in the paper's code.
        batch_norm: as in `snip`.
        micro_batch: most samples to compute at once; by default what 4 GB hold (see above).

    Returns:
        A tensor of the weight's shape by layer name.

    Raises:
        PrecropError: an option, the data or the loss makes no sense, the network fails on it, or
            it can't be differentiated twice.
    """
    if type(temperature) not in (int, float) or not 0 < temperature < math.inf:
        raise PrecropError(f"temperature={temperature!r} makes no sense: write a number above 0")
    size = _part_size(problem, micro_batch, GRASP_AT_ONCE)
    network = _Differentiated(problem, batch_norm)
    with network.apart():
        parts = list(_parts(problem.batches(), size))
        first = problem.progress(parts, "GraSP: gradient", len(parts))
        gradients = network.gradients(first, temperature)
        second = problem.progress(parts, "GraSP: Hessian times gradient", len(parts))
        found = network.hessian_products(second, temperature, gradients)
    return {
        name: product.conj().mul_(network.weights[name].detach()).real
        for name, product in found.items()
    }


@dataclass(frozen=True)
class _Part:
    """Samples that are computed at once; they are the first axis of every tensor."""

    name: str  # of the batch that they belong to
    args: Sequence[Tensor]  # inputs by position
    kwargs: Mapping[str, Tensor]  # inputs by name
    targets: Tensor  # class numbers (samples, ...) or probabilities (samples, classes, ...)


class _Differentiated:
    """A copy of the network in train mode; only its ``weights`` (by layer name) need gradients."""

    def __init__(self, problem: Problem, batch_norm: BatchNorm) -> None:
        if batch_norm not in ("batch", "stored"):
            raise PrecropError(f"batch_norm={batch_norm!r} is unknown: write 'batch' or 'stored'")
        model = problem.network.model
        self.numbers = OwnNumbers(problem.seed)
        self.tables = problem.network.tracer.tables
        stored = Instead({F.batch_norm: _stored_norm})
        self._statistics = stored if batch_norm == "stored" else nullcontext()
        with torch.inference_mode(False):
            self.model = copied(model, lambda _, tensor: tensor.detach().clone()).train()
        call_alone(self.model, model)
        parameters = parameters_of(self.model)
        for parameter in parameters.values():  # requires_grad_() of scripted modules misses theirs
            parameter.requires_grad_(False)
        self.weights = {
            layer: parameters[name].requires_grad_() for layer, name in problem.parameters.items()
        }
        name, weight = next(iter(self.weights.items()))
        self.device, self.dtype = weight.device, weight.dtype
        check_values(name, weight)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Compute with gradients whatever the caller's settings, and with random numbers apart."""
        with (
            apart(),
            self.tables.lent() if self.tables.kept or self.tables.draws else nullcontext(),
            self.numbers,
            _lent(self.device),
            PlainLayers(self.dtype),
            SafeConvolutions(),
            self._statistics,
        ):
            yield

    def gradients(self, parts: Iterable[_Part], temperature: float) -> dict[str, Tensor]:
        """Return the gradient of the mean loss by layer name."""

        def accumulate(loss: Tensor) -> None:
            with errors_as("the network cannot be differentiated", RuntimeError, told=typed_reason):
                torch.autograd.backward(loss)

        return self._means(parts, temperature, accumulate)

    def hessian_products(
        self, parts: Iterable[_Part], temperature: float, vectors: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the Hessian of the mean loss times vectors, by layer name.

        PyTorch cannot differentiate fused attention and its hard sigmoid twice, so the same
        functions written in operations that it can stand in for them.
        """
        weights = list(self.weights.values())

        def accumulate(loss: Tensor) -> None:
            failure = (
                "the network cannot be differentiated twice, as grasp must; choose another method"
            )
            with errors_as(failure, RuntimeError, told=typed_reason):
                found = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
                pairs = [
                    (gradient, vectors[name])
                    for name, gradient in zip(self.weights, found, strict=True)
                    if gradient is not None and gradient.requires_grad
                ]
                torch.autograd.backward([pair[0] for pair in pairs], [pair[1] for pair in pairs])

        with Instead({F.hardsigmoid: _hard_sigmoid}), OtherAttention(_attention, self.dtype):
            return self._means(parts, temperature, accumulate)

    def _means(
        self, parts: Iterable[_Part], temperature: float, accumulate: Callable[[Tensor], None]
    ) -> dict[str, Tensor]:
        """Return what ``accumulate`` adds to the weights' ``grad``, averaged over the loss's terms.

        Every call draws the same random numbers, so that g and H belong to the same function.
        """
        self.numbers.restart()
        terms = 0
        for part in parts:
            loss, count = self._loss(part, temperature)
            accumulate(loss)
            terms += count
        if not terms:
            raise PrecropError(
                "data= has no batches: give an iterable of (inputs, targets), and a new one where "
                "it was used up before"
            )
        return {name: _taken(weight).div_(terms) for name, weight in self.weights.items()}

    def _loss(self, part: _Part, temperature: float) -> tuple[Tensor, int]:
        """Return the cross-entropy summed over a part, and the number of its terms."""
        args, kwargs = tree_map(self._moved, (part.args, part.kwargs))
        batch = f"{part.name}, {len(part.targets)} samples at once"
        with calling_own(f"the network fails in train mode on {batch}"):
            output = self.model(*args, **kwargs)
        logits = _logits(output)
        targets = _targets(part, _tracked(part.targets).to(self.device), logits)
        # Half precision has too few digits for a sum of exponentials.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
        loss = F.cross_entropy(logits, targets, reduction="sum")
        if not loss.isfinite():
            raise PrecropError(
                f"the loss is {loss.item()} on {part.name}: check that its inputs and the "
                "network's weights are finite and of a usual scale"
            )
        if not loss.requires_grad:
            raise PrecropError(
                "no prunable weight has a gradient: the network's output does not depend on them, "
                "or its forward detaches it"
            )
        return loss, logits.numel() // logits.shape[1]

    def _moved(self, tensor: Tensor) -> Tensor:
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        return _tracked(tensor).to(self.device, dtype)


@contextmanager
def _lent(device: torch.device) -> Iterator[None]:
    """Restore a GPU's default generator afterwards: kernels with their own dropout draw from it."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_rng_state(device)
    try:
        yield
    finally:
        torch.cuda.set_rng_state(before, device)


def _attention(*args: Any, **kwargs: Any) -> Tensor:
    """Compute attention as two matrix products, which can be differentiated twice."""
    output: Tensor = torch.ops.aten._scaled_dot_product_attention_math(*args, **kwargs)[0]
    return output


def _hard_sigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """Compute the hard sigmoid in operations that can be differentiated twice."""
    return F.relu6(input + 3) / 6


_BATCH_NORM = inspect.signature(F.batch_norm)


def _stored_norm(*args: Any, **kwargs: Any) -> Tensor:
    """Apply batch norm with running statistics, without updating them, if there are any."""
    given = _BATCH_NORM.bind(*args, **kwargs).arguments
    given["training"] = given.get("training", False) and given["running_mean"] is None
    return F.batch_norm(**given)


def _tracked(tensor: Tensor) -> Tensor:
    """Return a tensor that autograd can use: a clone of one made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def _taken(weight: Tensor) -> Tensor:
    """Take a weight's ``grad`` from it; zeros if it has none."""
    gradient, weight.grad = weight.grad, None
    return torch.zeros_like(weight) if gradient is None else gradient


def _part_size(problem: Problem, micro_batch: int | None, at_once: int) -> int:
    """Return the most samples of a part; by default its layers output ``at_once`` numbers."""
    if micro_batch is None:
        layers = problem.layers.values()
        outputs = sum(layer.macs * layer.out_channels // layer.weights for layer in layers)
        return max(2, at_once // max(1, outputs))  # some batch norms refuse a single sample
    if type(micro_batch) is not int or micro_batch < 1:
        raise PrecropError(
            f"micro_batch={micro_batch!r} makes no sense: write a whole number from 1 up"
        )
    return micro_batch


def _parts(batches: Iterable[Any], size: int) -> Iterator[_Part]:
    """Cut each batch in the fewest, nearly equal parts of at most ``size`` samples, as views."""
    for number, item in enumerate(_made(batches), 1):
        whole = _whole(f"batch {number} of the data", item)
        tensors, form = tree_flatten((whole.args, whole.kwargs, whole.targets))
        count = math.ceil(len(whole.targets) / size)
        for pieces in zip(*(tensor.tensor_split(count) for tensor in tensors), strict=True):
            yield _Part(whole.name, *tree_unflatten(pieces, form))


def _made(batches: Iterable[Any]) -> Iterator[Any]:
    """Iterate over a user's batches, with errors in the user's code as `PrecropError`."""
    iterator, end = iter(batches), object()
    while True:
        with calling_own("no batch could be made of the data"):
            item = next(iterator, end)
        if item is end:
            return
        yield item


def _whole(name: str, item: Any) -> _Part:
    """Return a batch as one part; its inputs are a tensor, or several by position or by name."""
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise PrecropError(
            f"{name} is {_kind(item)}, not a pair (inputs, targets): give an "
            "iterable of such pairs, such as [(inputs, targets)] or a DataLoader"
        )
    inputs, targets = item
    kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}
    args = [] if kwargs else list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
    tensors = [*args, *kwargs.values(), targets]
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or tensor.ndim == 0:
            raise PrecropError(
                f"{name} holds {_kind(tensor)}: inputs and targets are tensors "
                "whose first axis is the samples"
            )
        if tensor.is_meta:
            raise PrecropError(f"{name} holds a tensor without values (device 'meta')")
    counts = [len(tensor) for tensor in tensors]
    if len(set(counts)) > 1:
        listed = " and ".join(map(str, counts))
        raise PrecropError(
            f"{name} has inputs and targets of {listed} samples: they must be as many"
        )
    if not counts[0]:
        raise PrecropError(f"{name} has no samples: leave it out")
    return _Part(name, args, kwargs, targets)


def _logits(output: Any) -> Tensor:
    """Return the main logits ``(samples, classes, ...)`` of a network's output.

    If that is not a tensor, they are its entry or attribute ``logits`` or ``out`` (as in GoogLeNet
    and torchvision's segmentation networks, beside auxiliary heads), or else its first tensor.
    """
    if isinstance(output, Mapping):
        candidates = [output.get("logits"), output.get("out"), *output.values()]
    else:
        named = (getattr(output, name, None) for name in ("logits", "out"))
        candidates = [output, *named, *(output if isinstance(output, (tuple, list)) else ())]
    logits = next((one for one in candidates if isinstance(one, Tensor)), None)
    if logits is None or logits.ndim < 2 or not logits.is_floating_point():
        raise PrecropError(
            f"the network puts out {_kind(output if logits is None else logits)} in train mode: "
            "cross-entropy needs logits of shape (samples, classes)"
        )
    return logits


def _targets(part: _Part, targets: Tensor, logits: Tensor) -> Tensor:
    """Return targets as `F.cross_entropy` takes them for these logits."""
    if targets.is_floating_point() and targets.shape == logits.shape:
        return targets.to(torch.promote_types(logits.dtype, torch.float32))
    samples, classes, *rest = logits.shape
    if targets.is_floating_point() or targets.shape != (samples, *rest):
        raise PrecropError(
            f"the targets of {part.name} are {_kind(targets)} for logits of shape "
            f"{tuple(logits.shape)}: give class numbers of shape {(samples, *rest)}, or "
            "probabilities of the logits' shape"
        )
    targets = targets.long()
    for value in (int(targets.min()), int(targets.max())):
        if not 0 <= value < classes:
            raise PrecropError(
                f"the targets of {part.name} hold class {value}: for {classes} logits they must "
                f"be from 0 to {classes - 1}"
            )
    return targets


def _kind(value: Any) -> str:
    """Describe a value for a message."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list, Mapping)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"an object of type {type(value).__name__}"
