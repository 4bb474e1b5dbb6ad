"""Stand-ins for images that are not at hand, for dry runs of a study."""

from contextlib import suppress

import torch

from precrop.own import OWN_ERRORS
from precrop.study.cells import Cell
from precrop.training.augment import random_numbers
from precrop.training.data import DECODED_SIZE, ImageData, Images
from precrop.training.sources.finding import CLASSES_AND_SIDE

_CLASSES = 1000
"""Used where neither the data's name nor the network says how many there are: ImageNet's."""


def unseen(cell: Cell) -> ImageData:
    """Return noise in place of a cell's images: one batch, of their size and with as many classes.

    Well-known data names give both. Otherwise images are as large as those that do not fit in
    memory, and there are as many classes as the network has outputs.
    """
    classes, side = CLASSES_AND_SIDE.get(cell.data_name, (0, DECODED_SIZE))
    side = cell.image_size or side
    classes = classes or _told_apart(cell, side)
    count = cell.recipe.batch_size
    shape = (count, 3, side, side)
    noise = torch.randint(256, shape, dtype=torch.uint8, generator=random_numbers(0, 0, "unseen"))
    images = Images(noise, torch.arange(count) % classes)
    return ImageData(
        name=cell.data_name,
        classes=tuple(map(str, range(classes))),
        shape=(3, side, side),
        mean=(0.5,) * 3,
        std=(0.3,) * 3,
        train=images,
        test=images,
        digest="",
    )


def _told_apart(cell: Cell, side: int) -> int:
    """Return the number of classes of the network as its arguments build it."""
    network = cell.network.build().eval()
    with suppress(*OWN_ERRORS), torch.no_grad():  # `check` says what is wrong with it
        return int(network(torch.zeros(1, 3, side, side)).shape[1])
    return _CLASSES
