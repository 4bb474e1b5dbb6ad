"""A cropped network of transformers in the Hugging Face Trainer.

The Trainer takes any network whose forward takes the data set's columns and gives the loss, and a
cropped network is of the same class as before. What `save_pretrained` of transformers writes has a
config of the whole network, though: save with precrop's.
"""

import torch
from torch.utils.data import Dataset
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

import precrop


class Pictures(Dataset[dict[str, torch.Tensor]]):
    """Random pictures of 10 classes; put your own data set here."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.randn(3, 64, 64), "labels": torch.tensor(index % 10)}


def make() -> ResNetForImageClassification:
    """The original: ResNet-18 in transformers' words."""
    return ResNetForImageClassification(
        ResNetConfig(
            hidden_sizes=[64, 128, 256, 512],
            depths=[2, 2, 2, 2],
            layer_type="basic",
            embedding_size=64,
            num_labels=10,
        )
    )


original = make()
plan = precrop.plan(original, (3, 64, 64), params=0.5, macs=0.5)
model = plan.build(original)

arguments = TrainingArguments(
    output_dir="run", max_steps=2, per_device_train_batch_size=8, save_strategy="no", report_to=[]
)
trainer = Trainer(model=model, args=arguments, train_dataset=Pictures())
print(trainer.train().metrics["train_loss"])

precrop.save_pretrained(model, plan, "resnet-half")
again = precrop.from_pretrained("resnet-half", make)
