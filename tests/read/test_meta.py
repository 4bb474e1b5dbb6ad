"""Results on meta tensors without PyTorch's kernels are those of PyTorch's kernels."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from precrop.read.meta import MetaKernels

aten = torch.ops.aten


def laid_out(*shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Tensors of a shape in several orders in memory; one has each entry several times."""
    made = [torch.empty(shape, dtype=dtype, device="meta")]
    if len(shape) > 1:
        turned = (*shape[:-2], shape[-1], shape[-2])
        made.append(torch.empty(turned, dtype=dtype, device="meta").transpose(-1, -2))
        made.append(torch.empty(shape[1:], dtype=dtype, device="meta").expand(shape))
        made.append(torch.empty((*shape[:-1], 2 * shape[-1]), dtype=dtype, device="meta")[..., ::2])
    if len(shape) == 4:
        made.append(made[0].to(memory_format=torch.channels_last))
    return made


def half(*shape: int) -> list[Tensor]:
    return laid_out(*shape, dtype=torch.float16)


def linears() -> list[tuple[Any, ...]]:
    return [
        *product(laid_out(5), laid_out(2, 3), laid_out(3, 5)),
        *product(laid_out(2, 5), laid_out(2, 3), laid_out(3, 5)),
        *product(half(5), half(2, 3), half(3, 5)),
    ]


def norms() -> list[tuple[Any, ...]]:
    kinds = [laid_out(2, 4, 3), laid_out(2, 3), laid_out(3), laid_out(0, 3), half(2, 3)]
    scales = [None, torch.empty(3, device="meta")]
    return [
        *((*each, 1e-5) for kind in kinds for each in product(kind, [[3]], scales, scales)),
        *((x, [4, 3], None, None, 1e-5) for x in laid_out(2, 4, 3)),
    ]


def cats() -> list[tuple[Any, ...]]:
    pairs = [
        *product(laid_out(2, 4, 3, 3), laid_out(2, 5, 3, 3)),
        *product(laid_out(2, 4, 1, 1), laid_out(2, 5, 1, 1)),
        *product(laid_out(2, 4, 3, 3), half(2, 5, 3, 3)),
        *product(laid_out(2, 0, 3, 3), laid_out(2, 5, 3, 3)),
        *product(laid_out(0), laid_out(2, 5, 3, 3)),
    ]
    return [([*pair], dim) for pair in pairs for dim in (1, -3)] + [
        ([*pair],) for pair in product(laid_out(2, 3), laid_out(5, 3))
    ]


def batch_norms() -> list[tuple[Any, ...]]:
    each = torch.empty(4, device="meta")
    return [
        (x, *([each if filled else None] * 4), True, 0.1, 1e-5)
        for x in [*laid_out(2, 4, 3, 3), *laid_out(2, 4), *half(2, 4, 3, 3)]
        for filled in (True, False)  # in training: else the kernels differ in what they save
    ]


def means() -> list[tuple[Any, ...]]:
    return [
        (x, dims, keep)
        for x in laid_out(2, 4, 3, 3)
        for dims in ([2, 3], [-1], None)
        for keep in (True, False)
    ]


def sums() -> list[tuple[Any, ...]]:
    one = laid_out(2, 4, 3, 3)
    return [
        *product(one, one),
        *product(one, laid_out(4, 1, 1)),
        *product(one, [2, 0.5]),
        *product(one, half(2, 4, 3, 3)),
    ]


CALLS: dict[Any, Callable[[], list[tuple[Any, ...]]]] = {
    aten.addmm.default: linears,
    aten.native_layer_norm.default: norms,
    aten.cat.default: cats,
    aten.native_batch_norm.default: batch_norms,
    aten.mean.dim: means,
    aten.add.Tensor: sums,
    aten.mul.Tensor: sums,
}


def described(made: Any) -> list[Any]:
    outputs = made if isinstance(made, tuple) else (made,)
    return [(out.shape, out.stride(), out.dtype, out.device.type) for out in outputs]


@pytest.mark.parametrize("op", CALLS, ids=str)
def test_results_are_pytorchs(op: Any) -> None:
    for args in CALLS[op]():
        expected = described(op(*args))
        kernels = MetaKernels()
        for _ in range(2):  # the second may be from what is known
            assert described(kernels(op, args, {})) == expected, args


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (aten.addmm.default, [(5,), (2, 4), (3, 5)]),
        (aten.addmm.default, [(4,), (2, 3), (3, 5)]),
        (aten.addmm.default, [(5,), (), (3, 5)]),
        (aten.addmm.default, [(5,), (2, 3), ()]),
        (aten.add.Tensor, [(2, 3), (3, 2)]),
    ],
)
def test_what_does_not_fit_is_pytorchs_error(op: Any, shapes: list[tuple[int, ...]]) -> None:
    args = [torch.empty(shape, device="meta") for shape in shapes]
    with pytest.raises(RuntimeError):
        MetaKernels()(op, args, {})


@pytest.mark.parametrize("dim", [3, -4])
def test_a_mean_over_no_axis_is_pytorchs_error(dim: int) -> None:
    with pytest.raises(IndexError):
        MetaKernels()(aten.mean.dim, [torch.empty(2, 4, 3, device="meta"), [dim], True], {})


@pytest.mark.parametrize("dim", [3, -4, 1])
def test_tensors_that_do_not_lie_beside_each_other_are_pytorchs_error(dim: int) -> None:
    pair = [torch.empty(2, 4, size, device="meta") for size in (3, 5)]
    with pytest.raises((RuntimeError, IndexError)):
        MetaKernels()(aten.cat.default, [pair, dim], {})
    with pytest.raises((RuntimeError, ValueError), match="expected a non-empty list"):
        MetaKernels()(aten.cat.default, [[]], {})
