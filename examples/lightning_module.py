"""A cropped network in a LightningModule that restores it from a checkpoint.

`load_from_checkpoint` calls `__init__` with the hyperparameters in the checkpoint. So the plan is
one of them, as text: then the network is built with the right widths before its weights are loaded.
"""

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

import precrop


class Cropped(lightning.LightningModule):
    """An image classifier, cropped by a plan."""

    def __init__(self, plan: str, num_classes: int = 10, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # a plan is long: not into every logger
        self.lr = lr
        self.network = precrop.Plan.from_json(plan).build(resnet18(num_classes=num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of a batch."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


plan = precrop.plan(resnet18(num_classes=10), (3, 64, 64), params=0.5, macs=0.5)
module = Cropped(plan.to_json())

# Random pictures; put your own data here.
data = TensorDataset(torch.randn(64, 3, 64, 64), torch.randint(10, (64,)))
trainer = lightning.Trainer(
    max_steps=4, accelerator="auto", logger=False, enable_progress_bar=False
)
trainer.fit(module, DataLoader(data, batch_size=16))
trainer.save_checkpoint("cropped.ckpt")

again = Cropped.load_from_checkpoint("cropped.ckpt")  # nothing else to say
print(f"{sum(p.numel() for p in again.parameters()):,} parameters, from cropped.ckpt")
