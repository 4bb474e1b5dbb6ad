"""A cropped network under a name in timm's registry, trained with timm's own parts.

After one call `timm.create_model` builds it, with whatever options a script of timm's gives. For
timm's own train.py put that call into a file `cropped.py` beside it, add `import cropped` to its
first lines, and say `--model resnet18_half`.
"""

import timm
import torch
from timm.data import resolve_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import AverageMeter, ModelEmaV3

import precrop
from precrop.integrations.timm import register

# Once: decide the widths. A network of 1000 classes may be planned and one of 37 be built.
plan = precrop.plan(timm.create_model("resnet18"), (3, 64, 64), params=0.5, macs=0.5)
plan.save("half.json")

# In every process that builds it: make the name known.
register("resnet18_half", "half.json", base="resnet18")

model = timm.create_model("resnet18_half", num_classes=37, drop_path_rate=0.05)
config = resolve_data_config({}, model=model)  # mean, deviation and size of the original
print(f"normalised by {config['mean']}")

optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
scheduler = CosineLRScheduler(optimizer, t_initial=4, warmup_t=1, warmup_lr_init=1e-5)
ema = ModelEmaV3(model, decay=0.99)
loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)

losses = AverageMeter()
for step in range(4):
    images, labels = torch.randn(16, 3, 64, 64), torch.randint(37, (16,))  # your loader
    loss = loss_of(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step(step + 1)
    ema.update(model, step=step)
    losses.update(loss.item(), len(images))
print(f"mean loss {losses.avg:.3f}")

# The plan is recounted for 37 classes when it is saved.
precrop.save_pretrained(
    ema.module, plan, "resnet18-half", name="timm:resnet18", args={"num_classes": 37}
)
again = precrop.from_pretrained("resnet18-half")
