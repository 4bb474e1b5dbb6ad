"""How far chosen widths are from one share of every width, at the same budgets."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from precrop.solve.program import Floats, Program
from precrop.solve.structure import Cost

_LISTED = 3
_REAL = 1e-9
"""Imaginary part, of the whole, up to which a root is real."""


def uniform_share(program: Program) -> float:
    """The share of every width that uses up the tightest budget; 1 where none binds.

    A cost is a polynomial in that share, nearly always of degree two. Bounds and steps of widths
    are not heeded.
    """
    shares = [_share(program.costs[name], limit, program) for name, limit in program.limits.items()]
    widening = bool((program.choices.upper > program.choices.units).any())
    return min(shares, default=1.0) if widening else min([1.0, *shares])


def _share(cost: Cost, limit: int, program: Program) -> float:
    """The share at which a cost reaches its limit."""
    by_degree = [0.0] * max(3, 1 + max(map(len, cost.terms), default=0))
    for groups, coefficient in cost.terms.items():
        by_degree[len(groups)] += coefficient * math.prod(
            int(program.choices.units[group]) for group in groups
        )
    constant, linear, square = by_degree[0] - limit, by_degree[1], by_degree[2]
    if any(by_degree[3:]):
        roots = np.roots([*by_degree[:0:-1], constant])
        # All other coefficients are positive, so that there is one positive root or none.
        return max((float(r.real) for r in roots if abs(r.imag) <= _REAL * abs(r)), default=0.0)
    if square == 0:
        return -constant / linear if linear > 0 else math.inf
    return (-linear + math.sqrt(max(0.0, linear**2 - 4 * square * constant))) / (2 * square)


def beside_uniform(program: Program, x: Floats) -> dict[str, Any]:
    """Log ratios ``x`` beside uniform width within the same budgets.

    Returns:
        ``share``: of every width that uniform width keeps; ``gain``: what ``x`` adds to the
        objective; ``apart``: the root mean square difference of the log ratios, so that 0.1 is
        about 10% of a width; ``most``: the layers that differ most. Nothing where no width can
        change or no budget is given.
    """
    share = uniform_share(program)
    free = np.flatnonzero(program.choices.lower < program.choices.upper)
    if not program.limits or not len(free) or not 0 < share < math.inf:
        return {}
    uniform = np.zeros(len(x))
    uniform[free] = math.log(share)
    differences = np.abs(x - uniform)[free]
    most = free[np.argsort(-differences, kind="stable")[:_LISTED]]
    return {
        "share": share,
        "gain": program.value(x) - program.value(uniform),
        "apart": float(np.sqrt((differences**2).mean())),
        "most": [program.structure.groups[group].name for group in most],
    }


CLOSE = 0.1
"""Widths no further apart count as close to uniform ones."""
MANY_CLASSES = 50
STARVED = 0.85
"""A classifier's input below this part of what uniform width keeps counts as starved."""


def starved_classifier(program: Program, x: Floats) -> Mapping[str, Any]:
    """The last layer's input where a budget of parameters alone narrows it far below the rest.

    A classifier of many classes has many parameters per channel of its input, so that such a
    budget cuts there first; its accuracy on many classes suffers (`precrop judge`).
    """
    layer = program.structure.layers[-1] if program.structure.layers else None
    many = layer is not None and not layer.outputs and layer.out_channels >= MANY_CLASSES
    if layer is None or not many or not layer.inputs or set(program.limits) != {"params"}:
        return {}
    kept = sum(share * math.exp(x[group]) for group, share in layer.inputs.items())
    total, uniform = sum(layer.inputs.values()), uniform_share(program)
    if kept / total >= STARVED * uniform:
        return {}
    classes = layer.out_channels
    return {"layer": layer.name, "classes": classes, "kept": kept / total, "uniform": uniform}
