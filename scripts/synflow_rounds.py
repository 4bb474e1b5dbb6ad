"""How far masks of SynFlow's official algorithm differ from ours and from each other.

ResNet-20, 10% of the weights, 100 rounds: the algorithm is written in plain PyTorch as in its
official code, in both precisions, with and without the epsilon of batch norms. Run from the
repository's root: ``python -m scripts.synflow_rounds``.
"""

import copy
import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

import precrop
from precrop.models import resnet20

SHAPE, DENSITY, ROUNDS = (3, 32, 32), 0.1, 100
Masks = Mapping[str, Tensor]


def main() -> None:
    """Print for each two masks how many weights they differ in."""
    torch.manual_seed(0)
    model = resnet20()
    found = {"precrop, float32": ours(model.float()), "precrop, float64": ours(model.double())}
    for dtype, epsilon in itertools.product((torch.float32, torch.float64), (0.0, 1e-5)):
        name = f"official, {str(dtype).removeprefix('torch.')}, epsilon {epsilon}"
        found[name] = official(copy.deepcopy(model).to(dtype), epsilon)
    for (one, first), (other, second) in itertools.combinations(found.items(), 2):
        apart = sum(int((first[name] != second[name]).sum()) for name in first)
        print(f"{one} | {other} | {apart:,}")


def ours(model: nn.Module) -> Masks:
    """Return masks by the package's scores."""
    densities = precrop.densities(
        model, SHAPE, method="synflow", params=DENSITY, rounds=ROUNDS, progress=True
    )
    scores = precrop.scores(model, SHAPE, method="synflow", params=DENSITY, rounds=ROUNDS)
    return precrop.masks(model, densities, scores=scores)


def official(model: nn.Module, epsilon: float) -> Masks:
    """Make weights absolute, in eval mode; each round zeroes those not above its threshold."""
    for module in model.eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = epsilon
    weights = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    ones = torch.ones(1, *SHAPE, dtype=next(iter(weights.values())).dtype)
    total = sum(weight.numel() for weight in weights.values())
    masks: Masks = {}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    for done in range(1, ROUNDS + 1):
        slopes = torch.autograd.grad(model(ones).sum(), list(weights.values()))
        with torch.no_grad():
            pairs = zip(weights.items(), slopes, strict=True)
            scores = {name: weight * slope for (name, weight), slope in pairs}
            row = torch.cat([values.flatten() for values in scores.values()])
            threshold = row.kthvalue(int((1.0 - DENSITY ** (done / ROUNDS)) * total)).values
            masks = {name: values > threshold for name, values in scores.items()}
            for name, weight in weights.items():
                weight.mul_(masks[name])
    return masks


if __name__ == "__main__":
    main()
