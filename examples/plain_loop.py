"""A cropped network in the training loop that you have.

Two lines are new: one decides the widths, one builds the network. Everything after them is a loop
as anybody writes it. At the end the network is saved so that it can be reloaded without this
script.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

import precrop

# Random pictures of 10 classes; put your own data set here.
images, labels = torch.randn(64, 3, 64, 64), torch.randint(10, (64,))
loader = DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True)

original = resnet18(num_classes=10)
plan = precrop.plan(original, (3, 64, 64), params=0.5, macs=0.5)  # new: how wide every layer is
model = plan.build(original)  # new: train this one instead

optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=len(loader))
for inputs, targets in loader:
    loss = nn.functional.cross_entropy(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    print(f"loss {loss.item():.3f}")

# A folder with weights, plan and the network's name: all that is needed to have it again.
precrop.save_pretrained(model, plan, "resnet18-half", name="resnet18", args={"num_classes": 10})
again = precrop.from_pretrained("resnet18-half")
print(f"{plan.params:,} of {plan.base_params:,} parameters, saved in resnet18-half")
