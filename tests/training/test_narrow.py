"""Batch norms of few channels: the same numbers as PyTorch's own, in every respect."""

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import precrop
from precrop.training.kernels import CpuKernels
from precrop.training.narrow import pixels_together
from precrop.zoo import load_model


def images(batch: int, channels: int, side: int, dtype: torch.dtype = torch.float32) -> Tensor:
    values = 3 * torch.randn(batch, channels, side, side, dtype=torch.float64) + 2
    return values.to(dtype).to(memory_format=torch.channels_last)


def layers(channels: int) -> tuple[nn.BatchNorm2d, nn.BatchNorm2d]:
    one, other = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
    nn.init.uniform_(one.weight, 0.5, 2)
    nn.init.normal_(one.bias)
    other.load_state_dict(one.state_dict())
    return one, other


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(2, 9),
    channels=st.integers(1, 70),
    side=st.integers(2, 9),
    seed=st.integers(0, 1000),
)
def test_values_gradients_and_statistics_are_those_in_float64(
    batch: int, channels: int, side: int, seed: int
) -> None:
    torch.manual_seed(seed)
    given_images = images(batch, channels, side).requires_grad_()
    layer, reference = layers(channels)
    reference.double()
    exact = given_images.detach().double().requires_grad_()
    upstream = torch.randn(batch, channels, side, side, dtype=torch.float64)
    with CpuKernels():
        result = layer(given_images)
    result.backward(upstream.float())
    expected = reference(exact)
    expected.backward(upstream)
    # A channel of few pixels may have next to no variance, and then large gradients.
    assert exact.grad is not None
    scale = exact.grad.abs().max().item() + 1
    pairs = [
        (result, expected, 1.0),
        (given_images.grad, exact.grad, scale),
        (layer.weight.grad, reference.weight.grad, scale),
        (layer.bias.grad, reference.bias.grad, scale),
        (layer.running_mean, reference.running_mean, 1.0),
        (layer.running_var, reference.running_var, 1.0),
    ]
    for found, wanted, size in pairs:
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=2e-4 * size)


@pytest.mark.parametrize("channels", [3, 8, 9, 24, 40])
def test_bf16_errs_no_more_than_pytorch_does(channels: int) -> None:
    torch.manual_seed(channels)
    layer, native = layers(channels)
    exact_layer, _ = layers(channels)
    exact_layer.load_state_dict(layer.state_dict())
    exact_layer.double()
    given_images = images(16, channels, 8, torch.bfloat16)
    upstream = torch.randn(given_images.shape).bfloat16()

    def errors(norm: nn.BatchNorm2d, together: bool) -> list[float]:
        found = given_images.clone().requires_grad_()
        exact = given_images.double().requires_grad_()
        if together:
            with CpuKernels():
                result = norm(found)
        else:
            result = norm(found)
        result.backward(upstream)
        expected = exact_layer(exact)
        exact_layer.zero_grad()
        expected.backward(upstream.double())
        assert found.grad is not None
        assert exact.grad is not None
        return [
            (result.double() - expected).square().mean().sqrt().item(),
            (found.grad.double() - exact.grad).square().mean().sqrt().item(),
        ]

    ours, theirs = errors(layer, True), errors(native, False)
    # The gradient is rounded twice instead of once.
    for mine, pytorchs, allowed in zip(ours, theirs, (1.05, 1.6), strict=True):
        assert 0 < mine < allowed * pytorchs


def test_evaluation_uses_the_running_statistics() -> None:
    torch.manual_seed(0)
    layer, native = layers(9)
    for norm in (layer, native):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_(generator=torch.Generator().manual_seed(1))
        norm.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(1))
    given_images = images(4, 9, 8)
    with CpuKernels():
        found = layer.eval()(given_images)
    torch.testing.assert_close(found, native.eval()(given_images))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_only_narrow_channels_last_images_are_read_otherwise() -> None:
    assert pixels_together(images(2, 8, 4)) == 4
    assert pixels_together(images(2, 9, 4)) == 32
    assert pixels_together(images(1, 8, 1)) == 1  # one pixel alone
    assert pixels_together(images(3, 8, 1)) == 1  # three can't be paired off
    assert pixels_together(images(2, 32, 4)) == 1
    assert pixels_together(images(2, 8, 4).contiguous()) == 1
    assert pixels_together(torch.ones(4, 8)) == 1
    assert pixels_together(images(2, 8, 4).to("meta")) == 1


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}])
def test_what_is_not_covered_goes_its_usual_way(options: dict[str, bool]) -> None:
    layer, given_images = nn.BatchNorm2d(8, **options), images(2, 8, 4)
    with CpuKernels():
        found = layer(given_images)
    assert found.equal(layer(given_images))


def test_one_pixel_per_channel_is_refused_as_ever() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"), CpuKernels():
        nn.BatchNorm2d(8)(images(1, 8, 1))


def test_other_functions_are_not_touched() -> None:
    torch.manual_seed(0)
    given_images, weight = images(2, 8, 4), torch.randn(4, 8, 3, 3)
    with CpuKernels():
        found = F.conv2d(given_images, weight)
    assert found.equal(F.conv2d(given_images, weight))


@pytest.mark.parametrize("channels", [1, 5, 24])
def test_an_activation_may_change_the_result_in_place(channels: int) -> None:
    torch.manual_seed(channels)
    gradients = []
    for inplace in (False, True):
        torch.manual_seed(0)
        given_images = images(4, channels, 6).requires_grad_()
        layer, _ = layers(channels)
        with CpuKernels():
            nn.ReLU6(inplace=inplace)(layer(given_images)).square().sum().backward()
        gradients.append(given_images.grad)
    assert gradients[0] is not None
    assert gradients[0].abs().sum() > 0
    assert torch.equal(gradients[0], gradients[1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["resnet20", "cifar_vgg16_bn", "cifar_mobilenet_v2", "cifar_efficientnet_b0"]
)
def test_gradients_of_cropped_networks_are_no_worse_than_pytorchs(name: str) -> None:
    torch.manual_seed(0)
    network = precrop.crop(load_model(name, {}), (3, 32, 32), macs=0.1).train()
    network.to(memory_format=torch.channels_last)
    exact_network = copy.deepcopy(network).double()
    given_images = images(16, 3, 32)

    def gradient(model: nn.Module, data: Tensor, together: bool = False) -> Tensor:
        torch.manual_seed(1)  # of what is dropped
        model.zero_grad()
        with CpuKernels() if together else contextlib.nullcontext():
            model(data).square().mean().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    exact = gradient(exact_network, given_images.double())
    native, ours = (gradient(network, given_images, together) for together in (False, True))
    assert 0 < (ours - exact).norm() <= 3 * (native - exact).norm() + 1e-5 * exact.norm()
