"""The network of a run (dense, cropped or masked), with its parameters and MACs."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from precrop import models
from precrop.counting import count
from precrop.errors import PlanError, PrecropError
from precrop.linear.densities import WHOLE_UNITS
from precrop.model_spec import ModelSpec
from precrop.modules.copying import meta_copy
from precrop.modules.names import buffers_of, parameters_of
from precrop.own import OWN_ERRORS, calling_own, own_function
from precrop.plans.state_dicts import read_state, renamed
from precrop.plans.weights import StateDict, find_misfit, load_fitting
from precrop.progress import note, say
from precrop.pruning.masking import apply_masks, masks
from precrop.pruning.methods import find_method, found_by
from precrop.pruning.problem import MaskSizeWarning, Problem
from precrop.pruning.ranking import kept_weights, shares
from precrop.training.runs import MaskSpec, Run
from precrop.trust import runs_user_code

Batches = Callable[[], Sequence[Any]]
"""Returns some training batches ``(inputs, targets)``, for mask methods that use data."""


@dataclass(frozen=True)
class Built:
    """A network that is ready for training, and its size without masked weights."""

    network: nn.Module  # with its masks, if any, applied, and masked weights zero
    params: int
    macs: int  # at batch 1


def build(
    run: Run,
    batches: Batches = list,
    kept: Mapping[str, Tensor] | None = None,
    *,
    masked: bool = True,
    start: Path | None = None,
    like: Mapping[str, Sequence[int]] | None = None,
    weights: Path | None = None,
) -> Built:
    """Build the run's network with the initial weights of its seed.

    Args:
        run: the run.
        batches: called if the mask's method needs data.
        kept: masks of the run that were computed before.
        masked: whether to apply the run's mask.
        start: a file of weights to start from instead of the initial ones.
        like: shapes of the tensors that the network, if it is not cropped, should have.
        weights: the file whose weights the network is built for.

    Raises:
        PrecropError: the network cannot be built, or does not fit the data or the plan.
    """
    with initial_weights(run.seed):
        dense = run.model.build(like if run.plan is None else run.plan.shapes, weights)
        if any(map(is_lazy, parameters_of(dense).values())):
            raise PrecropError(
                f"{run.model.name} has lazy parameters: have the factory run it once"
            )
        network = _started(run, dense, start)
        _check_outputs(run, network)
        if run.mask is None or not masked:
            kept = {}
        elif kept is None:
            kept = _masks(run, run.mask, network, batches)
    parameters = parameters_of(network)
    for name, mask in kept.items():
        parameters[name].data.masked_fill_(~mask, 0.0)
    counted = count(network, run.input_shape, masks=kept)
    apply_masks(network, kept)
    return Built(network, counted.params, counted.macs)


@contextmanager
def initial_weights(seed: int) -> Iterator[None]:
    """Within it, the first network built gets the initial weights of runs with this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def for_classes(model: ModelSpec, classes: int) -> ModelSpec:
    """Return the model with ``num_classes``, unless it is given or the builder does not take it."""
    if "num_classes" in model.args or not _takes_classes(model.name):
        return model
    return ModelSpec(model.name, {**model.args, "num_classes": classes})


def found_masks(network: nn.Module) -> dict[str, Tensor]:
    """Return the masks applied to a network, by the original names of the masked parameters."""
    state = buffers_of(network)
    names = [name.removesuffix("_orig") for name in parameters_of(network)]
    return {name: state[f"{name}_mask"].bool() for name in names if f"{name}_mask" in state}


def check_kept(network: nn.Module, params: int) -> None:
    """Assert that masked weights are zero and the number of parameters is unchanged."""
    parameters = parameters_of(network)
    for name, mask in found_masks(network).items():
        masked = parameters[f"{name}_orig"].detach()[~mask]
        assert not masked.any(), f"masked weights of {name} are not zero"
    count = sum(p.numel() for p in parameters.values())
    assert count == params, f"{count} parameters, there were {params}"


def _takes_classes(model: str) -> bool:
    if not runs_user_code(model):
        return model in models.__all__ or model.startswith("timm:") or _is_classifier(model)
    try:
        return "num_classes" in inspect.signature(own_function(model)).parameters
    except Exception:  # whatever a user's module raises: `load_model` tells what is wrong
        return False


def _is_classifier(model: str) -> bool:
    """Whether torchvision's network of this name is a classifier; others take more arguments."""
    with suppress(ImportError, ValueError):  # `load_model` tells what is missing or unknown
        from torchvision.models import get_model_builder

        module: str = get_model_builder(model).__module__
        return not any(part in module for part in ("detection", "segmentation", "optical_flow"))
    return True


def _started(run: Run, dense: nn.Module, start: Path | None) -> nn.Module:
    """Return the dense or cropped network, with the weights of ``start`` in whichever they fit."""
    if start is None:
        return dense if run.plan is None else _crop(run, dense)
    state = read_state(start)
    misfit = _take(dense, state, start, len(run.classes))
    if run.plan is None:
        if misfit is not None:
            raise PrecropError(f"{start} does not fit {run.model.name}: {misfit}")
        return dense
    network = _crop(run, dense)
    if misfit is not None and (own := _take(network, state, start, len(run.classes))):
        raise PrecropError(
            f"{start} fits neither {run.model.name} ({misfit}) nor the cropped network ({own})"
        )
    return network


def _take(network: nn.Module, state: StateDict, path: Path, classes: int) -> str | None:
    """Load a file's weights, except those for other classes; return what does not fit, if any."""
    state = renamed(state, network)
    own = network.state_dict()
    other = [
        name
        for name, value in state.items()
        if name in own
        and own[name].shape[:1] == (classes,) != value.shape[:1]
        and own[name].shape[1:] == value.shape[1:]
        and value.dim()
    ]
    state |= {name: own[name] for name in other}
    misfit = find_misfit(network, state)
    if misfit is None:
        load_fitting(network, state, path)
        if other:
            note(f"{' and '.join(other)} start anew: the weights are for other classes")
    return misfit


def _crop(run: Run, dense: nn.Module) -> nn.Module:
    assert run.plan is not None
    try:
        return run.plan.build(dense, run.init)
    except PlanError as error:
        made = f" (built here as {run.model})" if run.model.args else ""
        raise PrecropError(f"{error}{made}") from error


def _check_outputs(run: Run, network: nn.Module) -> None:
    """Check that the network gives one number per class for an image."""
    shape = "x".join(map(str, run.input_shape))
    training, failure = network.training, f"{run.model.name} cannot take images of {shape}"
    try:
        with torch.no_grad(), calling_own(failure):
            out = _output(network.eval(), run.input_shape)
    finally:
        network.train(training)
    classes = len(run.classes)
    if not isinstance(out, Tensor) or tuple(out.shape) != (1, classes):
        given = "x".join(map(str, out.shape)) if isinstance(out, Tensor) else type(out).__name__
        raise PrecropError(
            f"{run.model.name} gives {given} for an image, not 1x{classes}: {run.data_name} has "
            f"{classes} classes (--arg num_classes={classes}?)"
        )


def _output(network: nn.Module, shape: Sequence[int]) -> Any:
    """Return the network's output for one image: on the meta device, unless it reads values."""
    try:
        return meta_copy(network)(torch.zeros(1, *shape, device="meta"))
    except OWN_ERRORS:  # of a network that reads values, or cannot take such images
        return network(torch.zeros(1, *shape))


def _masks(run: Run, spec: MaskSpec, network: nn.Module, batches: Batches) -> dict[str, Tensor]:
    """Return masks by the method's scores, or random ones of the densities that the run gives."""
    if spec.densities is not None:
        return masks(network, spec.densities, spec.granularity, seed=run.seed)
    problem = Problem.of(
        network,
        tuple(run.input_shape),
        {"params": spec.params, "macs": spec.macs},
        data=batches() if find_method(spec.method).needs_data else None,
        seed=run.seed,
    )
    found = found_by(problem, spec.method, **spec.options)
    densities, scores = found.densities, None
    if found.scores is not None:
        densities = shares(kept_weights(problem, found.scores))
        scores = {problem.parameters[name]: values for name, values in found.scores.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MaskSizeWarning)  # `_say_size` says it better
        kept = masks(network, densities, spec.granularity, scores=scores, seed=run.seed)
    _say_size(problem, kept, spec.granularity)
    return kept


def _say_size(problem: Problem, kept: Mapping[str, Tensor], granularity: str) -> None:
    """Warn if a mask exceeds a budget, as every layer keeps whole units and at least one."""
    found = {layer: float(kept[name].double().mean()) for layer, name in problem.parameters.items()}
    above = [
        f"{name}={used:,.0f} where {problem.limits[name]:,} were asked for"
        for name, used in problem.used(found).items()
        if used > problem.limits[name] * (1 + WHOLE_UNITS)
    ]
    if above:
        say(
            f"warning: the mask keeps {' and '.join(above)}: every layer keeps a {granularity} at "
            "least, and whole ones"
        )
