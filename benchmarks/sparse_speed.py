"""Sparse kernels against dense ones at high sparsity: `python -m benchmarks.sparse_speed`.

The paper says that on a GPU cuSPARSE is faster than dense kernels only above 98% sparsity. This
asks the same of the sparse kernels of PyTorch and SciPy on a CPU: two convolutions of ResNet-50
with random masks of single weights take turns with the dense convolution, on one thread. Sparse
convolutions unfold images, as `precrop.deployment.sparse` says.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.report import Row, Section, setting, show
from precrop.deployment.sparse import sparse_kernels
from precrop.deployment.timing import interleaved
from precrop.files import write_text

SPARSITIES = (0.5, 0.9, 0.95, 0.98, 0.99, 0.995)
LAYOUTS = ("csr", "bsr", "scipy-csr")
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "3x3, 256 to 256, maps of 14": (
        partial(nn.Conv2d, 256, 256, 3, padding=1, bias=False),
        (8, 256, 14, 14),
    ),
    "1x1, 1024 to 256, maps of 14": (
        partial(nn.Conv2d, 1024, 256, 1, bias=False),
        (8, 1024, 14, 14),
    ),
}
RESULTS = Path("results/speed/sparse.json")


def masked(layer: nn.Module, sparsity: float, seed: int = 0) -> nn.Module:
    """Return the layer without a share of its weights, drawn at random."""
    chosen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in layer.parameters():
            gone = torch.randperm(weight.numel(), generator=chosen)[
                : round(sparsity * weight.numel())
            ]
            weight.view(-1)[gone] = 0
    return layer


def speedups(name: str, sparsity: float, rounds: int) -> Row:
    """Return each layout's speed-up over dense, by medians of interleaved rounds."""
    make, shape = LAYERS[name]
    layer = masked(nn.Sequential(make()), sparsity).eval()
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    networks = {"dense": layer}
    networks |= {layout: sparse_kernels(layer, layout)[0] for layout in LAYOUTS}
    with torch.inference_mode():
        wanted = layer(images)
        for network in networks.values():
            torch.testing.assert_close(network(images), wanted, rtol=1e-3, atol=1e-4)
        runners = {key: partial(_run, network, images) for key, network in networks.items()}
        found: dict[str, Any] = dict(interleaved(runners, rounds=rounds, least_seconds=0.02))
    dense = found["dense"].median
    ratios = {layout: dense / found[layout].median for layout in LAYOUTS}
    return {"layer": name, "sparsity": sparsity, **ratios}


def _run(network: nn.Module, images: Tensor) -> Any:
    return network(images)


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    where = setting("torch", "scipy")
    rows = [speedups(name, share, options.rounds) for name in LAYERS for share in SPARSITIES]
    show([Section("Times as fast as dense", {key: key for key in rows[0]}, rows)])
    write_text(options.json, json.dumps({"setting": where, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
