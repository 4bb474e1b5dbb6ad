"""Runs masked networks on sparse kernels: convolutions and linear layers as matrix products.

A layout is a function from a matrix to a module that multiplies by it; see `LAYOUTS`.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from precrop.errors import PrecropError, check_known
from precrop.modules.copying import copied

BLOCK = 4
"""Rows and columns of a BSR block. MKL needs square ones; small ones store fewer masked weights."""


class TorchMatrix(nn.Module):
    """A PyTorch sparse matrix, which uses MKL's kernels on a CPU and cuSPARSE's on a GPU."""

    matrix: Tensor

    def __init__(self, convert: Callable[[], Tensor]) -> None:
        super().__init__()
        with warnings.catch_warnings():  # PyTorch warns that these layouts are in beta
            warnings.filterwarnings("ignore", message="Sparse (CSR|BSR) tensor support")
            self.register_buffer("matrix", convert(), persistent=False)

    def forward(self, columns: Tensor) -> Tensor:
        """(rows, n) from (columns of the matrix, n)."""
        return self.matrix @ columns


def csr(matrix: Tensor) -> TorchMatrix:
    """Store a matrix in compressed sparse rows."""
    return TorchMatrix(matrix.to_sparse_csr)


def bsr(matrix: Tensor) -> TorchMatrix:
    """Store a matrix in compressed rows of blocks; a block is kept if one of its weights is."""
    if any(size % BLOCK for size in matrix.shape):
        rows, columns = matrix.shape
        raise PrecropError(f"{rows} x {columns} is not made of blocks of {BLOCK} x {BLOCK}")
    return TorchMatrix(lambda: matrix.to_sparse_bsr((BLOCK, BLOCK)))


class ScipyCsr(nn.Module):
    """SciPy's compressed sparse rows, which always use one CPU thread."""

    def __init__(self, matrix: Tensor) -> None:
        from scipy.sparse import csr_array

        super().__init__()
        self.matrix = csr_array(matrix.cpu().numpy())

    def forward(self, columns: Tensor) -> Tensor:
        """(rows, n) from (columns of the matrix, n)."""
        if columns.device.type != "cpu":
            raise PrecropError("SciPy's sparse matrices run on a CPU only")
        return torch.from_numpy(self.matrix @ columns.numpy())


LAYOUTS: dict[str, Callable[[Tensor], nn.Module]] = {"csr": csr, "bsr": bsr, "scipy-csr": ScipyCsr}


def sparse_kernels(model: nn.Module, layout: str) -> tuple[nn.Module, dict[str, str]]:
    """Copy a masked network for inference, with layers that multiply by sparse matrices.

    A convolution unfolds one image at a time, unless it is 1 x 1 with stride 1, and multiplies it
    by the weights as an (outputs, inputs x kernel) matrix.

    Args:
        model: the network, whose masked weights are zero; it is not changed.
        layout: a name in `LAYOUTS`.

    Returns:
        The copy, and the layers that stay on dense kernels: ``{layer name: reason}``.

    Raises:
        PrecropError: the layout is unknown.
    """
    check_known(f"layout {layout!r}", layout, LAYOUTS)
    network = copied(model, lambda name, tensor: tensor.detach())
    dense: dict[str, str] = {}
    for name, module in list(network.named_modules()):
        if not isinstance(module, _KINDS):
            continue
        try:
            made = _sparse(module, LAYOUTS[layout])
        except (PrecropError, RuntimeError, TypeError) as error:
            dense[name] = " ".join(str(error).split())
            continue
        if not name:
            return made, dense
        network.set_submodule(name, made)
    return network, dense


class SparseLinear(nn.Module):
    """`torch.nn.Linear` with a sparse matrix."""

    def __init__(self, layer: nn.Linear, product: nn.Module) -> None:
        super().__init__()
        self.product, self.bias = product, layer.bias
        self.out_features = layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        """(..., outputs) from (..., inputs)."""
        y: Tensor = self.product(x.reshape(-1, x.shape[-1]).T.contiguous()).T
        y = y.reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias


class SparseConv2d(nn.Module):
    """`torch.nn.Conv2d` as a product of a sparse matrix with unfolded images."""

    def __init__(self, layer: nn.Conv2d, product: nn.Module) -> None:
        super().__init__()
        self.product, self.bias = product, layer.bias
        self.kernel, self.dilation, self.stride = layer.kernel_size, layer.dilation, layer.stride
        # In the order of `functional.pad`, last axis first; "same" may pad one end more.
        self.padding = list(layer._reversed_padding_repeated_twice)
        self.plain = self.kernel == self.stride == (1, 1) and not any(self.padding)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, outputs, height, width) from (batch, inputs, height, width), or one image."""
        if x.dim() == 3:
            return self.forward(x[None])[0]
        if any(self.padding):
            x = functional.pad(x, self.padding)
        y = torch.stack([self.product(self._columns(image)) for image in x])
        if self.bias is not None:
            y += self.bias[:, None]
        axes = zip(x.shape[2:], self.kernel, self.dilation, self.stride, strict=True)
        size = [(n - dilation * (k - 1) - 1) // stride + 1 for n, k, dilation, stride in axes]
        return y.view(*y.shape[:2], *size)

    def _columns(self, image: Tensor) -> Tensor:
        """(inputs x kernel, positions) from (inputs, height, width)."""
        if self.plain:
            return image.flatten(1).contiguous()
        return functional.unfold(
            image[None], self.kernel, dilation=self.dilation, stride=self.stride
        )[0]


_KINDS = (nn.Linear, nn.modules.conv._ConvNd)


def _sparse(module: nn.Module, product: Callable[[Tensor], nn.Module]) -> nn.Module:
    """Return the layer on a sparse matrix, or raise a `PrecropError` why it must stay dense."""
    if isinstance(module, nn.Linear):
        if type(module) is not nn.Linear:  # attention reads its weight without calling it
            raise PrecropError(f"{type(module).__name__} is not a plain linear layer")
    elif not isinstance(module, nn.Conv2d) or type(module).forward is not nn.Conv2d.forward:
        raise PrecropError(f"{type(module).__name__} is not a plain convolution of images")
    elif module.groups > 1:
        raise PrecropError(f"a convolution in {module.groups} groups")
    elif module.padding_mode != "zeros":
        raise PrecropError(f"padding with {module.padding_mode}")
    matrix = module.weight.detach().flatten(1)
    if bool(matrix.all()):
        raise PrecropError("none of its weights is masked")
    if isinstance(module, nn.Linear):
        return SparseLinear(module, product(matrix))
    return SparseConv2d(module, product(matrix))
