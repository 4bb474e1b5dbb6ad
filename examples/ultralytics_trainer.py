"""A cropped YOLO in Ultralytics' own trainer.

Their trainer builds its network from a YAML file in `get_model`, so that is where the plan goes.
A resumed training gives `weights`, those of the cropped network: they are loaded after it is built.
"""

from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.functional import to_pil_image
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer

import precrop


class CroppedTrainer(DetectionTrainer):
    """Trains the network at half its parameters and MACs."""

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """The cropped network, the same one in every process."""
        original = super().get_model(cfg, None, verbose)
        side = self.args.imgsz
        plan = precrop.plan(original, (3, side, side), params=0.5, macs=0.5)
        model: Any = plan.build(original)
        if weights is not None:
            model.load(weights)
        return model


# Random pictures with one box each; put the YAML file of your own data here.
for part in ("train", "val"):
    for kind in ("images", "labels"):
        Path(f"boxes/{kind}/{part}").mkdir(parents=True, exist_ok=True)
    for i in range(8):
        to_pil_image(torch.rand(3, 64, 64)).save(f"boxes/images/{part}/{i}.jpg")
        Path(f"boxes/labels/{part}/{i}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
data = Path("boxes.yaml")
data.write_text(
    f"path: {Path.cwd() / 'boxes'}\ntrain: images/train\nval: images/val\nnames: [box]\n"
)

yolo = YOLO("yolov8n.yaml")
options = {"epochs": 1, "imgsz": 64, "batch": 4, "workers": 0, "plots": False}
yolo.train(trainer=CroppedTrainer, data=str(data), project=str(Path.cwd() / "runs"), **options)

# Its checkpoint holds the whole network, as ever.
best = yolo.trainer.best
again = YOLO(str(best))
print(f"{sum(p.numel() for p in again.model.parameters()):,} parameters, in {best}")
