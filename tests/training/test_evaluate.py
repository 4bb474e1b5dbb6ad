"""Pictures of what weights come to."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from precrop.training.data import ImageData, Images
from precrop.training.evaluate import Evaluation, draw_confusion, judge


@pytest.mark.parametrize("classes", [1, 3])
def test_a_judgement_counts_what_is_taken_for_what(classes: int) -> None:
    labels = torch.arange(9) % classes
    split = Images(torch.zeros(9, 3, 2, 2, dtype=torch.uint8), labels)
    names = tuple(map(str, range(classes)))
    data = ImageData("d", names, (3, 2, 2), (0.0,) * 3, (1.0,) * 3, split, split, digest="")
    logits = torch.randn(9, classes, generator=torch.Generator().manual_seed(0))
    parts = iter(logits.split(4))
    found = judge(lambda _: next(parts), data, device=torch.device("cpu"), batch_size=4)
    for label in range(classes):
        taken = logits[labels == label].argmax(1).bincount(minlength=classes)
        assert found.confusion[label].tolist() == taken.tolist()
    assert found.accuracy == float((logits.argmax(1) == labels).double().mean())
    assert found.loss == pytest.approx(float(F.cross_entropy(logits, labels)))


def test_names_of_classes_are_drawn_as_they_are(tmp_path: Path) -> None:
    classes = ("$x_{$", "a\x1bb")
    found = Evaluation(
        run=None,
        network=None,
        input_shape=(1, 8, 8),
        mean=(0.0,),
        std=(1.0,),
        crop_pct=1.0,
        accuracy=0.75,
        loss=0.5,
        params=1,
        macs=1,
        seconds=0.1,
        classes=classes,
        confusion=torch.tensor([[2, 0], [1, 1]]),
    )
    draw_confusion(found, tmp_path / "confusion.svg")
    drawn = (tmp_path / "confusion.svg").read_text()
    assert "<!-- $x_{$ -->" in drawn
    assert "<!-- a\\x1bb -->" in drawn
