"""Pictures of what weights come to."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from precrop.errors import PrecropError
from precrop.training.data import ImageData, Images
from precrop.training.evaluate import Evaluation, draw_confusion, judge


@pytest.mark.parametrize("classes", [1, 3])
def test_a_judgement_says_what_is_taken_for_what(classes: int) -> None:
    labels = torch.arange(9) % classes
    split = Images(torch.zeros(9, 3, 2, 2, dtype=torch.uint8), labels)
    names = tuple(map(str, range(classes)))
    data = ImageData("d", names, (3, 2, 2), (0.0,) * 3, (1.0,) * 3, split, split, digest="")
    logits = torch.randn(9, classes, generator=torch.Generator().manual_seed(0))
    parts = iter(logits.split(4))
    found = judge(lambda _: next(parts), data, device=torch.device("cpu"), batch_size=4)
    assert found.labels.tolist() == labels.tolist()
    assert found.taken.tolist() == logits.argmax(1).tolist()
    assert found.accuracy == float((logits.argmax(1) == labels).double().mean())
    assert found.loss == pytest.approx(float(F.cross_entropy(logits, labels)))


def evaluation(classes: tuple[str, ...], labels: list[int], taken: list[int]) -> Evaluation:
    return Evaluation(
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
        labels=torch.tensor(labels),
        taken=torch.tensor(taken),
    )


def test_classes_are_counted_one_by_one() -> None:
    found = evaluation(("a", "b", "c"), labels=[0, 0, 1, 1], taken=[0, 0, 0, 1])
    assert found.images == [2, 2, 0]
    assert found.to_json()["per_class"] == {"a": 1.0, "b": 0.5, "c": None}
    assert not found.to_json().keys() & {"labels", "taken"}


def test_names_of_classes_are_drawn_as_they_are(tmp_path: Path) -> None:
    found = evaluation(("$x_{$", "a\x1bb"), labels=[0, 0, 1, 1], taken=[0, 0, 0, 1])
    draw_confusion(found, tmp_path / "confusion.svg")
    drawn = (tmp_path / "confusion.svg").read_text()
    assert "<!-- $x_{$ -->" in drawn
    assert "<!-- a\\x1bb -->" in drawn


def test_a_picture_of_more_classes_than_it_has_dots_is_refused(tmp_path: Path) -> None:
    classes = tuple(map(str, range(40_000)))  # a label of a file may be as large
    found = evaluation(classes, labels=[39_999], taken=[39_999])
    assert found.per_class["39999"] == 1
    with pytest.raises(PrecropError, match="cannot show 40,000 classes: up to 2,000 fit"):
        draw_confusion(found, tmp_path / "confusion.svg")
