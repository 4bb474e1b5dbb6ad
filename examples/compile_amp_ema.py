"""A cropped network with torch.compile, mixed precision and an averaged copy of its weights.

It is an ordinary network, so all of them take it. Crop first, compile last: what is compiled, and
what is averaged, is the small network.
"""

import os

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models import mobilenet_v2

import precrop

device = "cuda" if torch.cuda.is_available() else "cpu"
kind = torch.float16 if device == "cuda" else torch.bfloat16

original = mobilenet_v2(num_classes=10)
# Widths in multiples of 8 suit the fast kernels of mixed precision.
plan = precrop.plan(original, (3, 64, 64), params=0.5, macs=0.5, divisor=8)
model = plan.build(original).to(device).to(memory_format=torch.channels_last)

ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
compiled = torch.compile(model, backend=os.environ.get("BACKEND", "inductor"))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scaler = torch.amp.GradScaler(device, enabled=kind == torch.float16)

for step in range(4):
    images = torch.randn(16, 3, 64, 64, device=device)  # your loader
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(10, (16,), device=device)
    with torch.autocast(device, dtype=kind):
        loss = nn.functional.cross_entropy(compiled(images), labels)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    ema.update_parameters(model)
    print(f"step {step}: loss {loss.item():.3f}")

# The averaged network is what one keeps.
precrop.save_pretrained(
    ema.module, plan, "mobilenet-half", name="mobilenet_v2", args={"num_classes": 10}
)
again = precrop.from_pretrained("mobilenet-half")
