"""The public functions of pruning at initialization."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from precrop import plugins
from precrop.modules.apart import apart
from precrop.progress import bar, silent
from precrop.pruning.methods import found_by, weight_scores
from precrop.pruning.problem import LayerCollapseWarning, Problem
from precrop.pruning.ranking import kept_weights, outranked, shares
from precrop.read.inputs import given
from precrop.solve.budgets import Budget


@apart()
def densities(
    model: nn.Module,
    input_shape: Any = None,
    *,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    method: str = "synexp",
    params: Budget | None = None,
    macs: Budget | None = None,
    data: Iterable[Any] | None = None,
    seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> dict[str, float]:
    """Return the share of every layer's weights that remains, taking layers as independent.

    Budgets count the prunable weights (convolutions and linear layers), not biases or norms. Fixed
    filters, which require no gradient though other layers do, stay whole and are not counted.

    Args:
        model: the network; it is not changed.
        input_shape: as in `precrop.plan`.
        example_inputs: as in `precrop.plan`, instead of a shape.
        example_kwargs: likewise.
        method: a name in `precrop.pruning.methods.METHODS`.
        params: budget for the prunable weights.
        macs: budget for their multiply-accumulates at batch 1.
        data: batches ``(inputs, targets)``, all of which are used; for ``snip`` and ``grasp``.
        seed: seed of every random choice.
        progress: show a progress bar on standard error for methods that take long.
        options: options of the method, such as ``rounds=`` of ``synflow``.

    Returns:
        ``{layer name: density}`` with densities in (0, 1], in the order of execution.

    Warns:
        LayerCollapseWarning: the method leaves a layer no weight; it then keeps its best one.
        UserWarning: the method leaves a layer a single weight.

    Raises:
        BudgetError: a budget makes no sense.
        PrecropError: the method is unknown or lacks data, or the network has no prunable layer.
    """
    plugins.load()
    inputs = given(model, input_shape, example_inputs, example_kwargs)
    budgets, shown = {"params": params, "macs": macs}, bar if progress else silent
    problem = Problem.of(model, inputs, budgets, data=data, seed=seed, progress=shown)
    found = found_by(problem, method, **options)
    if found.scores is None:
        kept_shares, thin = found.densities, []
        sizes = {name: layer.weights for name, layer in problem.layers.items()}
        gone = [name for name, size in sizes.items() if kept_shares[name] * size < 1]
    else:
        kept = kept_weights(problem, found.scores)
        kept_shares, gone = shares(kept), outranked(found.scores, kept)
        single = [name for name, mask in kept.items() if mask.numel() > 1 == int(mask.sum())]
        thin = [name for name in single if name not in gone]
    said = []
    if gone:
        said.append(f"collapses {', '.join(gone)}: no weight ranks high enough to remain")
    if thin:
        said.append(f"leaves a single weight of {', '.join(thin)}")
    if said:
        category = LayerCollapseWarning if gone else UserWarning
        # The frame above this function is that of the decorator `apart`.
        warnings.warn(f"{method} {'; it '.join(said)}", category, stacklevel=3)
    return kept_shares


@apart()
def scores(
    model: nn.Module,
    input_shape: Any = None,
    *,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    method: str,
    params: Budget | None = None,
    macs: Budget | None = None,
    data: Iterable[Any] | None = None,
    seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> dict[str, Tensor]:
    """Return the saliency score of every prunable weight; the weights that score highest remain.

    The arguments are those of `densities`. Only ``synflow`` depends on the budgets.

    Returns:
        ``{parameter name: tensor}`` of the parameters' shapes, for `precrop.masks`.

    Raises:
        PrecropError: the method is unknown, scores no single weights, or lacks data.
    """
    plugins.load()
    inputs = given(model, input_shape, example_inputs, example_kwargs)
    budgets, shown = {"params": params, "macs": macs}, bar if progress else silent
    problem = Problem.of(model, inputs, budgets, data=data, seed=seed, progress=shown)
    found = weight_scores(problem, method, **options)
    return {problem.parameters[name]: values for name, values in found.items()}
