"""Batches of augmented images against the same thing done to one image at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from precrop.training.augment import (
    Augment,
    Draws,
    Normalise,
    crop_and_flip,
    cut_out,
    random_numbers,
)


def images(count: int, height: int, width: int, channels: int = 3) -> Tensor:
    numbers = torch.Generator().manual_seed(count * height + width)
    shape = (count, channels, height, width)
    return torch.randint(1, 256, shape, generator=numbers, dtype=torch.uint8)


def one_cropped(image: Tensor, top: int, left: int, flipped: bool, crop: int) -> Tensor:
    channels, height, width = image.shape
    padded = image.new_zeros(channels, height + 2 * crop, width + 2 * crop)
    padded[:, crop : crop + height, crop : crop + width] = image
    window = padded[:, top : top + height, left : left + width]
    return (
        torch.stack([window[:, :, width - 1 - x] for x in range(width)], -1) if flipped else window
    )


def one_cut(image: Tensor, row: int, column: int, size: int) -> Tensor:
    image = image.clone()
    for y in range(row - size // 2, row - size // 2 + size):
        for x in range(column - size // 2, column - size // 2 + size):
            if 0 <= y < image.shape[1] and 0 <= x < image.shape[2]:
                image[:, y, x] = 0
    return image


shapes = st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))


@given(shapes, st.integers(0, 4), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=60)
def test_crop_and_flip_of_a_batch_is_that_of_each_image(
    shape: tuple[int, int, int, int], crop: int, flip: bool, as_float: bool
) -> None:
    count, height, width, channels = shape
    batch = images(count, height, width, channels)
    if as_float:
        batch = batch.float()
    draws = Augment(crop=crop, flip=flip).draw(count, height, width, seed=count, epoch=crop)
    before = batch.clone()
    result = crop_and_flip(batch, draws, crop)
    assert torch.equal(batch, before)
    assert result.dtype == batch.dtype
    assert result.is_contiguous(memory_format=torch.channels_last)
    for k in range(count):
        numbers = int(draws.top[k]), int(draws.left[k]), bool(draws.flipped[k])
        assert torch.equal(result[k], one_cropped(batch[k], *numbers, crop))


@given(shapes, st.integers(1, 12))
@settings(deadline=None, max_examples=60)
def test_cutout_of_a_batch_is_that_of_each_image(
    shape: tuple[int, int, int, int], size: int
) -> None:
    count, height, width, channels = shape
    batch = images(count, height, width, channels)
    draws = Augment(cutout=size).draw(count, height, width, seed=size, epoch=count)
    result = cut_out(batch, draws, size)
    assert result.is_contiguous(memory_format=torch.channels_last)
    for k in range(count):
        assert torch.equal(
            result[k], one_cut(batch[k], int(draws.row[k]), int(draws.column[k]), size)
        )


def test_no_augmentation_leaves_an_image_as_it_is() -> None:
    batch = images(5, 6, 7)
    assert torch.equal(crop_and_flip(batch, Augment().draw(5, 6, 7, seed=0, epoch=0), 0), batch)


def test_every_window_flip_and_centre_is_equally_likely() -> None:
    count = 40_000
    draws = Augment(crop=2, flip=True, cutout=3).draw(count, 6, 8, seed=3, epoch=1)
    windows = (draws.top * 5 + draws.left).bincount(minlength=25) / count
    torch.testing.assert_close(windows, torch.full((25,), 1 / 25), rtol=0, atol=0.006)
    assert float(draws.flipped.float().mean()) == pytest.approx(0.5, abs=0.01)
    centres = (draws.row * 8 + draws.column).bincount(minlength=48) / count
    torch.testing.assert_close(centres, torch.full((48,), 1 / 48), rtol=0, atol=0.005)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("channels_last", [True, False])
def test_normalised(dtype: torch.dtype, channels_last: bool) -> None:
    batch = images(4, 5, 6)
    if channels_last:
        batch = batch.contiguous(memory_format=torch.channels_last)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 1 / 255)
    result = Normalise(mean, std, 6, device=torch.device("cpu"), dtype=dtype)(batch)
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=torch.channels_last)
    centre, scale = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, std))
    exact = (batch.double() / 255 - centre) / scale
    tolerance = 4e-3 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(result.double(), exact, rtol=tolerance, atol=2e-5)


def same(one: Draws, other: Draws) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_draws_depend_on_seed_and_epoch_alone() -> None:
    augment = Augment(crop=4, flip=True, cutout=8)
    first = augment.draw(100, 32, 32, seed=1, epoch=2)
    torch.manual_seed(99)
    assert same(first, augment.draw(100, 32, 32, seed=1, epoch=2))
    for seed, epoch in ((1, 3), (2, 2), (2, 1), (-1, 2), (2**40 + 1, 2)):
        other = augment.draw(100, 32, 32, seed=seed, epoch=epoch)
        assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_draws_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    Augment(crop=1, flip=True, cutout=1).draw(10, 4, 4, seed=0, epoch=0)
    assert torch.equal(state, torch.get_rng_state())


def test_one_augmentation_does_not_change_the_numbers_of_another() -> None:
    every = Augment(crop=4, flip=True, cutout=8).draw(50, 32, 32, seed=0, epoch=0)
    crop = Augment(crop=4).draw(50, 32, 32, seed=0, epoch=0)
    assert torch.equal(every.top, crop.top)
    assert torch.equal(every.left, crop.left)
    assert not crop.flipped.any()
    assert torch.equal(every.flipped, Augment(flip=True).draw(50, 9, 9, seed=0, epoch=0).flipped)


def test_part_and_device() -> None:
    draws = Augment(crop=4, flip=True).draw(10, 8, 8, seed=0, epoch=0)
    part = draws.part(slice(3, 7)).to(torch.device("cpu"))
    assert all(torch.equal(a, b[3:7]) for a, b in zip(part, draws, strict=True))


def test_streams_of_different_purposes_differ() -> None:
    one, other = (torch.rand(4, generator=random_numbers(0, 0, name)) for name in ("a", "b"))
    assert not torch.equal(one, other)
