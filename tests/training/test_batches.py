"""The batches of an epoch."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from precrop.errors import PrecropError
from precrop.training.augment import Augment
from precrop.training.batches import Placement, held_out_batches, train_batches
from precrop.training.data import Decoded, ImageData, Images
from tests.training.image_sets import held, one_line

USUAL = Augment(crop=2, flip=True, cutout=3)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork beside threads
def test_workers_do_not_change_the_images(photographs: ImageData) -> None:
    def epoch(workers: int, number: int = 0) -> list[tuple[Tensor, Tensor]]:
        place = Placement(workers=workers)
        return list(train_batches(photographs, 4, place, seed=5, epoch=number, augment=USUAL))

    state = torch.get_rng_state()
    alone, helped = epoch(0), epoch(2)
    assert torch.equal(state, torch.get_rng_state())
    assert len(alone) == 3
    assert equal(alone, helped)
    assert not equal(alone, epoch(0, 1))
    tests = [list(held_out_batches(photographs, 5, Placement(workers=n))) for n in (0, 1)]
    assert equal(*tests)
    assert [len(labels) for _, labels in tests[0]] == [5, 5, 2]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_later_is_named(photographs: ImageData, workers: int) -> None:
    assert isinstance(photographs.test, Decoded)
    file = photographs.test.split.where(3)
    Path(file).write_bytes(b"nothing")
    with pytest.raises(PrecropError) as error:
        list(held_out_batches(photographs, 4, Placement(workers=workers)))
    assert one_line(error) == f"{file} is damaged: no image that can be read"


def numbered(count: int, held_out: int = 7) -> ImageData:
    """Images that carry their label's number in every pixel."""

    def split(size: int) -> Images:
        labels = torch.arange(size)
        pixels = labels.byte()[:, None, None, None].expand(size, 3, 5, 6).contiguous()
        return Images(pixels, labels)

    classes = tuple(str(k) for k in range(count))
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return ImageData(
        "numbers", classes, (3, 5, 6), mean, std, split(count), split(held_out), "digest"
    )


def equal(one: Iterable[tuple[Tensor, Tensor]], other: Iterable[tuple[Tensor, Tensor]]) -> bool:
    """Whether two epochs have the same batches."""
    pairs = list(zip(one, other, strict=True))
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


def test_an_epoch_has_every_image_once() -> None:
    data = numbered(40)
    batches = train_batches(data, 8, seed=0, epoch=0, augment=Augment())
    assert len(batches) == 5
    seen = []
    for images, labels in batches:
        assert images.shape == (8, 3, 5, 6)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), labels)
        seen += labels.tolist()
    assert sorted(seen) == list(range(40))
    assert seen != sorted(seen)


def test_a_last_incomplete_batch() -> None:
    data = numbered(43, held_out=10)
    train = train_batches(data, 8, seed=0, epoch=0, augment=USUAL)
    assert [len(labels) for _, labels in train] == [8] * 5
    test = held_out_batches(data, 4)
    assert [labels.tolist() for _, labels in test] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(test) == 3


def test_batches_are_augmented_images(digits: ImageData) -> None:
    """The whole way against single images, in the order of the epoch."""
    train = held(digits.train)
    augment = Augment(crop=1, flip=True)
    plain = list(train_batches(digits, 100, seed=3, epoch=2, augment=Augment()))
    moved = list(train_batches(digits, 100, seed=3, epoch=2, augment=augment))
    draws = augment.draw(len(train), 8, 8, seed=3, epoch=2)
    black = -torch.tensor(digits.mean)[:, None, None] / torch.tensor(digits.std)[:, None, None]
    place = 0
    for (before, labels), (after, same_labels) in zip(plain, moved, strict=True):
        assert torch.equal(labels, same_labels)
        for image, result in zip(before, after, strict=True):
            padded = black.expand(3, 10, 10).clone()
            padded[:, 1:9, 1:9] = image
            top, left = int(draws.top[place]), int(draws.left[place])
            window = padded[:, top : top + 8, left : left + 8]
            expected = window.flip(-1) if draws.flipped[place] else window
            torch.testing.assert_close(result, expected)
            place += 1


def test_cutout_is_the_mean_colour(digits: ImageData) -> None:
    batches = train_batches(digits, 50, seed=0, epoch=0, augment=Augment(cutout=100))
    assert not any(images.any() for images, _ in batches)


def test_normalisation_gives_mean_zero_and_deviation_one(digits: ImageData) -> None:
    batches = train_batches(digits, 1437, seed=0, epoch=0, augment=Augment())
    ((images, _),) = batches
    assert images.mean().abs() < 1e-5
    assert images.std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dtype(digits: ImageData, dtype: torch.dtype) -> None:
    place = Placement(dtype=dtype)
    train = train_batches(digits, 32, place, seed=0, epoch=0, augment=USUAL)
    test = held_out_batches(digits, 32, place)
    for batches in (train, test):
        images, labels = next(iter(batches))
        assert (images.dtype, labels.dtype) == (dtype, torch.int64)
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_depends_on_seed_and_epoch_alone(digits: ImageData) -> None:
    def epoch(seed: int, number: int) -> Any:
        return train_batches(digits, 64, seed=seed, epoch=number, augment=USUAL)

    first = [list(epoch(7, number)) for number in range(3)]
    torch.manual_seed(1234)
    random.seed(1)
    resumed = list(epoch(7, 2))
    assert equal(first[2], resumed)
    assert not equal(first[1], resumed)
    assert not equal(epoch(8, 2), resumed)
    again = epoch(7, 2)
    next(iter(again))  # one that was not gone through to its end
    assert equal(again, resumed)


def test_batches_leave_the_global_generator_and_the_data_alone(digits: ImageData) -> None:
    state, before = torch.get_rng_state(), held(digits.train).images.clone()
    for _ in train_batches(digits, 64, seed=0, epoch=0, augment=USUAL):
        pass
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(before, held(digits.train).images)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_parts_of_all_processes_are_the_batch(digits: ImageData, world_size: int) -> None:
    options: dict[str, Any] = {"seed": 1, "epoch": 4, "augment": USUAL}
    whole = list(train_batches(digits, 48, **options))
    places = [Placement(rank=rank, world_size=world_size) for rank in range(world_size)]
    parts = [list(train_batches(digits, 48, place, **options)) for place in places]
    assert {len(labels) for part in parts for _, labels in part} == {48 // world_size}
    assert equal(whole, united(parts))
    tests = [list(held_out_batches(digits, 50, place)) for place in places]
    assert equal(held_out_batches(digits, 50), united(tests))


def test_the_parts_of_all_processes_are_the_batch_of_decoded_images(
    photographs: ImageData,
) -> None:
    options: dict[str, Any] = {"seed": 1, "epoch": 4, "augment": USUAL}
    places = [Placement(rank=rank, world_size=2) for rank in range(2)]
    parts = [train_batches(photographs, 6, place, **options) for place in places]
    assert equal(train_batches(photographs, 6, **options), united(parts))


def united(parts: Sequence[Iterable[tuple[Tensor, Tensor]]]) -> list[tuple[Tensor, Tensor]]:
    """Batch by batch, the parts of all processes one after the other."""
    return [
        (torch.cat([images for images, _ in batch]), torch.cat([labels for _, labels in batch]))
        for batch in zip(*parts, strict=True)
    ]


def test_a_last_test_batch_smaller_than_the_processes() -> None:
    data = numbered(8, held_out=9)
    places = [Placement(rank=rank, world_size=4) for rank in range(4)]
    parts = [held_out_batches(data, 4, place) for place in places]
    assert [len(part) for part in parts] == [2, 2, 2, 3]
    seen = [label for part in parts for _, labels in part for label in labels.tolist()]
    assert sorted(seen) == list(range(9))


def test_fewer_held_out_images_than_processes() -> None:
    with pytest.raises(PrecropError, match="3 held-out images for 4 processes"):
        held_out_batches(numbered(8, held_out=3), 4, Placement(rank=1, world_size=4))


@pytest.mark.parametrize(
    ("size", "processes", "message"),
    [
        (
            41,
            1,
            "numbers has 40 training images, less than one batch of 41: say a smaller --batch-size",
        ),
        (8, 3, "a batch of 8 images can't be shared out equally to 3 processes"),
    ],
)
def test_senseless_batches(size: int, processes: int, message: str) -> None:
    with pytest.raises(PrecropError) as error:
        train_batches(numbered(40), size, Placement(world_size=processes), seed=0, epoch=0)
    assert one_line(error) == message
