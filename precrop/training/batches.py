"""The batches of an epoch.

Batch k of an epoch has the same images, augmented in the same way, for any number of processes;
each process takes its part of the global batch.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from precrop.errors import PrecropError
from precrop.training.augment import (
    PLAIN,
    Augment,
    Draws,
    Normalise,
    crop_and_flip,
    cut_out,
    random_numbers,
)
from precrop.training.data import Decoded, ImageData, Images

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Placement:
    """Where a process holds its batches, and which part of each batch is its own."""

    device: torch.device = CPU
    dtype: torch.dtype = torch.float32  # of the images
    rank: int = 0  # the number of this process, from 0
    world_size: int = 1  # number of processes; each takes its part of every batch
    workers: int = 0  # worker processes that decode images which are not held in memory


ALONE = Placement()
"""A single process on the CPU."""


@dataclass(frozen=True, eq=False)
class Batches(Iterable[tuple[Tensor, Tensor]]):
    """The batches of one epoch, or this process's part of each.

    Iterating again gives the same batches. Each is images (B, C, H, W), normalised, channels_last,
    and int64 labels (B,).
    """

    data: ImageData
    split: Images | Decoded
    parts: Sequence[slice]  # of ``order``, one per batch
    order: Tensor  # int64: indices of the images, in the epoch's order
    place: Placement
    seeds: tuple[int, int] = (0, 0)  # the run's seed and the epoch
    augment: Augment = PLAIN

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        data, split, augment, place = self.data, self.split, self.augment, self.place
        _, height, width = data.shape
        draws = augment.draw(len(self.order), height, width, *self.seeds).to(place.device)
        loaded = self._held(split, draws) if isinstance(split, Images) else self._decoded(split)
        normalise = Normalise(data.mean, data.std, width, place.device, place.dtype)
        for part, (images, labels) in zip(self.parts, loaded, strict=True):
            values = normalise(images)
            if augment.cutout:
                values = cut_out(values, draws.part(part), augment.cutout)
            yield values, labels

    def _held(self, split: Images, draws: Draws) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of images in memory, cropped and flipped."""
        held = _on_device(split, self.place.device)
        order = self.order.to(self.place.device)
        last = held.images.permute(0, 2, 3, 1)
        for part in self.parts:
            images = last.index_select(0, order[part]).permute(0, 3, 1, 2)
            if self.augment.crop or self.augment.flip:
                images = crop_and_flip(images, draws.part(part), self.augment.crop)
            yield images, held.labels[order[part]]

    def _decoded(self, split: Decoded) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of images that worker processes decode and crop."""
        device = self.place.device
        on_gpu = device.type == "cuda"
        loader = DataLoader(
            _Seeded(split, self.seeds),
            batch_sampler=[self.order[part].tolist() for part in self.parts],
            num_workers=self.place.workers,
            collate_fn=_collated,
            pin_memory=on_gpu,
            # Without it, the loader would draw its seed from the global generator.
            generator=torch.Generator(),
        )
        for batch in loader:
            if isinstance(batch, PrecropError):
                raise batch
            images, labels = batch
            yield images.to(device, non_blocking=on_gpu), labels.to(device, non_blocking=on_gpu)


class _Seeded(Dataset[tuple[Tensor, int] | PrecropError]):
    """A data set whose random transforms depend only on the seed, the epoch and the image.

    The error of a damaged image is returned, not raised: the loader would wrap a raised one in text
    with the worker's traceback.
    """

    def __init__(self, data: Decoded, seeds: tuple[int, int]) -> None:
        self.data = data
        self.seeds = seeds

    def __getitem__(self, index: int) -> tuple[Tensor, int] | PrecropError:
        # torchvision draws from the global generator, so it is set per image and restored after.
        with torch.random.fork_rng(devices=()):
            torch.set_rng_state(random_numbers(*self.seeds, f"image {index}").get_state())
            try:
                return self.data[index]
            except PrecropError as error:
                return error


def _collated(
    samples: list[tuple[Tensor, int] | PrecropError],
) -> tuple[Tensor, Tensor] | PrecropError:
    """Return a batch, or the first error among its images."""
    fault = next((sample for sample in samples if isinstance(sample, PrecropError)), None)
    return default_collate(samples) if fault is None else fault


# Copies on devices, kept from epoch to epoch as long as the data set itself.
_copies: WeakKeyDictionary[Images, dict[torch.device, Images]] = WeakKeyDictionary()


def _on_device(split: Images, device: torch.device) -> Images:
    """Return the split on a device; it is copied there once."""
    if split.images.device == device:
        return split
    copies = _copies.setdefault(split, {})
    if device not in copies:
        copies[device] = Images(split.images.to(device), split.labels.to(device))
    return copies[device]


def sample(data: ImageData, batch_size: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return training batches, ten images per class on average, for mask methods that use data."""
    found, seen = [], 0
    for images, labels in train_batches(data, batch_size, seed=seed, epoch=0):
        found.append((images, labels))
        seen += len(labels)
        if seen >= 10 * len(data.classes):
            break
    return found


def check_batch(data: ImageData, batch_size: int, processes: int = 1) -> None:
    """Refuse a batch size that training images do not fill, or processes cannot share equally."""
    count = data.count
    if batch_size % processes:
        raise PrecropError(
            f"a batch of {batch_size} images can't be shared out equally to {processes} processes"
        )
    if count < batch_size:
        images = "training image" if count == 1 else "training images"
        raise PrecropError(
            f"{data.name} has {count} {images}, less than one batch of {batch_size}: say a "
            "smaller --batch-size"
        )


def train_batches(
    data: ImageData,
    batch_size: int,
    place: Placement = ALONE,
    *,
    seed: int,
    epoch: int,
    augment: Augment = PLAIN,
) -> Batches:
    """Return the shuffled and augmented batches of an epoch; an incomplete last one is dropped.

    Order and augmentation depend only on ``seed`` and ``epoch`` (counted from 0). ``batch_size`` is
    that of all processes together. Images that are decoded as used come with a random crop and flip
    already; of ``augment`` they only get the cutout.
    """
    check_batch(data, batch_size, place.world_size)
    count = len(data.train)
    parts = _parts(count // batch_size * batch_size, batch_size, place)
    order = torch.randperm(count, generator=random_numbers(seed, epoch, "order"))
    return Batches(data, data.train, parts, order, place, (seed, epoch), augment)


def held_out_batches(data: ImageData, batch_size: int, place: Placement = ALONE) -> Batches:
    """Return batches of all held-out images in their own order; the last batch may be smaller.

    The processes' parts of a batch may differ by one image. If the last batch has fewer images than
    there are processes, those without an image have one batch less.
    """
    count = len(data.test)
    if count < place.world_size:
        raise PrecropError(
            f"{data.name} has {count} held-out images for {place.world_size} processes: each needs "
            "one or more"
        )
    return Batches(data, data.test, _parts(count, batch_size, place), torch.arange(count), place)


def _parts(count: int, batch_size: int, place: Placement) -> list[slice]:
    """Return this process's slices of the global batches of ``count`` images."""
    parts = []
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        first, stop = (size * k // place.world_size for k in (place.rank, place.rank + 1))
        if stop > first:
            parts.append(slice(start + first, start + stop))
    return parts
