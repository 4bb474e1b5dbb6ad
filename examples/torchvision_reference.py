"""A cropped network in torchvision's reference script for classification, cut to its core.

Of torchvision's `references/classification/train.py` the lines marked `new` are all that change:
an option for the plan, and the network built by it. Write the plan before with
`precrop plan resnet18 --params 0.5 --macs 0.5 -o half.json`; the number of classes may differ.

    python torchvision_reference.py --model resnet18 --plan half.json --epochs 1
"""

import argparse

import torch
import torchvision
from torch import nn
from torchvision.transforms import v2

import precrop

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="resnet18")
parser.add_argument("--plan", help="the plan's file")  # new
parser.add_argument("--epochs", type=int, default=90)
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--output", default="checkpoint.pth")
args = parser.parse_args()

# Random pictures; the reference script reads ImageNet's folders here.
size, classes = 64, 10
data = torchvision.datasets.FakeData(64, (3, size, size), classes, v2.ToImage())
augment = v2.Compose([v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])
mixed = v2.MixUp(num_classes=classes)
loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)

model = torchvision.models.get_model(args.model, weights=None, num_classes=classes)
if args.plan:  # new
    model = precrop.Plan.load(args.plan).build(model)  # new

criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=1e-4)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.1)
for epoch in range(args.epochs):
    model.train()
    for images, targets in loader:
        images, targets = mixed(augment(images), targets)
        loss = criterion(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scheduler.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
    # The checkpoint is as before: the plan's file says what it is the weights of.
    torch.save({"model": model.state_dict(), "epoch": epoch, "args": args}, args.output)
