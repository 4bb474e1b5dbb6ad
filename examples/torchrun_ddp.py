"""A cropped network on several GPUs, or several processes: torchrun and DistributedDataParallel.

    torchrun --standalone --nproc-per-node 2 torchrun_ddp.py

Planning is deterministic, so every process may plan for itself. It is safer, and what one wants for
the record, that the first one plans and all build by its plan.
"""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from torchvision.models import resnet18

import precrop

cuda = torch.cuda.is_available()
dist.init_process_group("nccl" if cuda else "gloo")
rank, local = dist.get_rank(), int(os.environ["LOCAL_RANK"])
device = torch.device("cuda", local) if cuda else torch.device("cpu")

torch.manual_seed(0)  # the same initial weights everywhere
original = resnet18(num_classes=10)
texts = [""]
if rank == 0:
    texts = [precrop.plan(original, (3, 64, 64), params=0.5, macs=0.5).to_json()]
dist.broadcast_object_list(texts)
plan = precrop.Plan.from_json(texts[0])

model = DistributedDataParallel(plan.build(original).to(device), [local] if cuda else None)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

# Random pictures, the same everywhere; the sampler gives every process its part.
data = TensorDataset(torch.randn(64, 3, 64, 64), torch.randint(10, (64,)))
sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(data)
for epoch in range(1):
    sampler.set_epoch(epoch)
    for images, labels in DataLoader(data, batch_size=8, sampler=sampler):
        loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

if rank == 0:  # the wrapper is taken off by itself
    precrop.save_pretrained(model, plan, "resnet18-half", name="resnet18", args={"num_classes": 10})
    print(f"loss {loss.item():.3f} after an epoch in {dist.get_world_size()} processes")
dist.destroy_process_group()
