import pytest
import torch
from torch import nn

from precrop.deployment.runtimes import sessions
from precrop.deployment.setting import Setting
from precrop.deployment.sparse import (
    BLOCK,
    LAYOUTS,
    SparseConv2d,
    SparseLinear,
    bsr,
    sparse_kernels,
)
from precrop.errors import PrecropError
from precrop.read.inputs import Inputs
from tests.deployment.benched import SHAPE, inputs, mask, small


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_are_the_dense_networks(layout: str, batch: int) -> None:
    model = mask(small(), 0.4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made, dense = sparse_kernels(model, layout)
    x = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(made(x), model(x), atol=1e-4, rtol=1e-4)
    assert isinstance(made.get_submodule("pointwise"), SparseConv2d)
    assert isinstance(made.get_submodule("fc"), SparseLinear)
    assert "depthwise" in dense
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 8, 3),
        nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(4, 8, (5, 3), stride=(1, 2), padding=(2, 1), dilation=(1, 2)),
        nn.Conv2d(4, 8, 3, padding="same"),
        nn.Conv2d(4, 8, 1),
        nn.Conv2d(4, 8, 1, stride=2),
        nn.Conv2d(4, 8, 1, padding=1),
    ],
    ids=str,
)
def test_convolutions_of_all_kinds(layout: str, layer: nn.Conv2d) -> None:
    model = mask(nn.Sequential(layer), 0.5)
    made, dense = sparse_kernels(model, layout)
    assert not dense
    x = torch.randn(2, 4, 9, 11, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        found = made(x)
        torch.testing.assert_close(found, model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_linear_layer_alone_and_over_tokens(layout: str) -> None:
    model = mask(nn.Linear(8, 12), 0.5)
    made, dense = sparse_kernels(model, layout)
    assert isinstance(made, SparseLinear)
    assert not dense
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        torch.testing.assert_close(made(x), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Linear(8, 12), (8,)), (nn.Conv2d(4, 8, 3), (4, 9, 11))], ids=str
)
def test_inputs_without_a_batch(layout: str, layer: nn.Module, shape: tuple[int, ...]) -> None:
    model = mask(nn.Sequential(layer), 0.5)
    made, dense = sparse_kernels(model, layout)
    assert not dense
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        torch.testing.assert_close(made(x), model(x), atol=1e-5, rtol=1e-5)


def test_types_that_a_layout_lacks_stay_dense() -> None:
    _, dense = sparse_kernels(nn.Sequential(nn.Linear(8, 8)).bfloat16(), "scipy-csr")
    assert [*dense] == ["0"]


def test_what_stays_dense_is_said() -> None:
    class Own(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    model = nn.ModuleDict(
        {
            "grouped": mask(nn.Conv2d(4, 8, 3, groups=2), 0.5),
            "circular": mask(nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular"), 0.5),
            "one_axis": mask(nn.Conv1d(4, 8, 3), 0.5),
            "transposed": mask(nn.ConvTranspose2d(4, 8, 3), 0.5),
            "own": mask(Own(4, 8, 3), 0.5),
            "attention": mask(nn.MultiheadAttention(8, 2), 0.5),
            "full": nn.Conv2d(4, 8, 3),
            "sparse": mask(nn.Conv2d(4, 8, 3), 0.5),
        }
    )
    made, dense = sparse_kernels(model, "csr")
    assert dense == {
        "grouped": "a convolution in 2 groups",
        "circular": "padding with circular",
        "one_axis": "Conv1d is not a plain convolution of images",
        "transposed": "ConvTranspose2d is not a plain convolution of images",
        "own": "Own is not a plain convolution of images",
        "attention.out_proj": "NonDynamicallyQuantizableLinear is not a plain linear layer",
        "full": "none of its weights is masked",
    }
    assert isinstance(made.get_submodule("sparse"), SparseConv2d)


def test_blocks_hold_what_they_have_to() -> None:
    matrix = torch.zeros(2 * BLOCK, 3 * BLOCK)
    matrix[0, 0] = matrix[1, 1] = matrix[BLOCK, 2 * BLOCK] = 1
    assert bsr(matrix).matrix.values().shape[0] == 2  # two of six blocks hold something
    with pytest.raises(PrecropError, match="is not made of blocks"):
        bsr(torch.zeros(BLOCK, BLOCK + 1))


def test_a_layer_that_blocks_do_not_fit_stays_dense() -> None:
    _, dense = sparse_kernels(mask(small(), 0.5), "bsr")
    assert dense == {
        "conv1": f"16 x 27 is not made of blocks of {BLOCK} x {BLOCK}",
        "depthwise": "a convolution in 16 groups",
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sparse_networks_run_eagerly(layout: str) -> None:
    made, _ = sparse_kernels(mask(small(), 0.5), layout)
    with sessions(made, inputs(), Setting(batch=2)) as (run,):
        assert run().shape == (2, 12)


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(PrecropError, match="layout 'coo' is unknown: choose from csr, bsr"):
        sparse_kernels(small(), "coo")


def test_inputs_without_a_layer_stay() -> None:
    made, dense = sparse_kernels(nn.ReLU(), "csr")
    assert not dense
    with sessions(made, Inputs((3,)), Setting()) as (run,):
        assert run().shape == (1, 3)
