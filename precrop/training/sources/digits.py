"""scikit-learn's digits, which come with the library."""

import torch

from precrop.errors import needs
from precrop.training.sources.source import Arrays, Source


def digits() -> Source:
    """Load scikit-learn's 1,797 digits of 8 x 8 pixels; every fifth image is held out."""
    with needs("digits need", "scikit-learn"):
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    found = load_digits()
    labels = torch.from_numpy(found.target).long()
    grey = (torch.from_numpy(found.images) * (255 / 16)).round().byte()  # 0..16 before
    pixels = grey[..., None].repeat(1, 1, 1, 3)
    # Sort images by class, in random order within each: every fifth image is then a fifth of
    # each class.
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[by_class[::5]] = True
    return Source(
        "digits",
        tuple(str(name) for name in found.target_names),
        Arrays("digits' training split", pixels[~held_out], labels[~held_out]),
        Arrays("digits' test split", pixels[held_out], labels[held_out]),
    )
