"""Pictures of what weights come to."""

from pathlib import Path

import torch

from precrop.training.evaluate import Evaluation, draw_confusion


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
