import pytest
import torch
from torch import Tensor, nn

from precrop.deployment.memory import peak_activation_memory
from precrop.deployment.setting import Setting
from precrop.errors import PrecropError
from precrop.read.inputs import Inputs

FLOAT = 4


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(1000, 3000, bias=False), nn.Linear(3000, 100, bias=False))


@pytest.mark.parametrize("batch", [1, 5])
def test_two_layers_by_hand(batch: int) -> None:
    """Input, hidden and output are alive while the second layer runs: its caller has the input."""
    found = peak_activation_memory(two_layers(), Inputs((1000,)), Setting(batch=batch))
    assert found == batch * (1000 + 3000 + 100) * FLOAT


class Freed(nn.Module):
    """Holds ten times the input at most; nothing released, it would be seventeen times."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.repeat(1, 7)
        y = y[:, :1000].clone()
        z = x + y
        return z.repeat(1, 5)[:, 1000:3000].clone()


def test_what_was_released_is_not_counted_again() -> None:
    # x, y, z, five times z and the last two: ten. Before: x, seven times x, y: nine.
    found = peak_activation_memory(Freed(), Inputs((1000,)), Setting())
    assert found == 10 * 1000 * FLOAT


def test_parameters_are_not_counted_and_gradients_are_not_kept() -> None:
    many = nn.Sequential(*(nn.Linear(100, 100, bias=False) for _ in range(20)))
    # Two neighbours and the input: with gradients all of them would be alive.
    assert peak_activation_memory(many, Inputs((100,)), Setting(batch=10)) == 3 * 10 * 100 * FLOAT


def test_it_grows_with_the_batch_and_repeats_itself() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    shape = Inputs((3, 16, 16))
    four, again, eight = (peak_activation_memory(net, shape, Setting(batch=n)) for n in (4, 4, 8))
    assert four == again
    assert four < eight <= 2 * four


def test_errors_are_one_line() -> None:
    with pytest.raises(PrecropError, match="the network cannot run") as caught:
        peak_activation_memory(two_layers(), Inputs((7,)), Setting())
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_two_layers_on_a_gpu() -> None:
    shape, batch = Inputs((1024,)), 16
    net = nn.Sequential(nn.Linear(1024, 4096, bias=False), nn.ReLU(), nn.ReLU())
    found = peak_activation_memory(net, shape, Setting(batch=batch, device="cuda"))
    # Blocks are multiples of 512 bytes, as these tensors are; cuBLAS has its workspace before.
    assert found == batch * (1024 + 2 * 4096) * FLOAT
