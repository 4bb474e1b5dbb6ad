"""An oracle for kept channels: the original, whose layers do not see the channels that went."""

from typing import Any

import torch
from torch import Tensor, nn

import precrop
from precrop.plans.kinds import Init
from precrop.plans.plan import Plan
from precrop.read.axes import Axis, segment_size
from precrop.read.inputs import Inputs
from precrop.read.within import tensors_within
from precrop.trained.channels import KeptChannels, choose


def trained(model: nn.Module) -> nn.Module:
    """A network as training leaves it: no scale, shift or statistic as it began; in float64."""
    generator = torch.Generator().manual_seed(1)
    model.double().eval()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if not isinstance(tensor, nn.Parameter) and "running" not in name:
                continue
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.mul_(1 + 0.2 * noise).add_(0.02 * noise.roll(1))
            if name.endswith("running_var"):
                tensor.abs_()
    return model


def blinded(model: nn.Module, kept: KeptChannels) -> list[Any]:
    """Let no layer of the network read a channel that is dropped; returns the hooks."""
    modules = dict(model.named_modules())
    hooks = []
    for layer in kept.layout.network.layers:
        if layer.kind == "depthwise":
            continue  # it mixes no channels: what reads its output is blind to them
        seen = _seen(layer.inputs, kept)
        if bool(seen.all()):
            continue
        assert isinstance(modules[layer.name], (nn.Linear, nn.modules.conv._ConvNd)), layer.name
        hooks.append(modules[layer.name].register_forward_pre_hook(_Blind(seen)))
    return hooks


class _Blind:
    def __init__(self, seen: Tensor) -> None:
        self.seen = seen

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0]
        if isinstance(module, nn.Linear):
            return (x * self.seen,)
        return (x * self.seen.view(-1, *[1] * (x.dim() - 2)),)


def _seen(axis: Axis, kept: KeptChannels) -> Tensor:
    from precrop.read.axes import resolve

    pieces = []
    for segment in resolve(axis):
        atom, count = segment
        seen = torch.ones(segment_size(segment), dtype=torch.float64)
        if atom in kept.orders:
            assert atom is not None
            rows = seen.view(atom.size, count)
            rows[kept.orders[atom][kept.counts[atom] :]] = 0
        pieces.append(seen)
    return torch.cat(pieces)


def outputs(model: nn.Module, shape: Any) -> Tensor:
    """All that the network puts out, for two random inputs, in a row."""
    args, kwargs = Inputs(shape).make(2, model, "cpu")
    generator = torch.Generator().manual_seed(2)
    args = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in args]
    with torch.no_grad():
        return torch.cat([t.flatten().double() for t in tensors_within(model(*args, **kwargs))])


def identity_kept(model: nn.Module, shape: Any, norm: Any = "l1", **options: Any) -> Plan:
    """A plan for the widths whose channels keep their identity; others stay as they are."""
    plan = precrop.plan(model, shape, **options)
    sliced = choose(plan, model, norm).sliced
    names = [layer.name for layer in plan.layers if layer.group in sliced]
    return precrop.plan(model, shape, ignore=names, **options) if names else plan


def difference(model: nn.Module, plan: Plan, init: Init = "l1") -> float:
    """How far the built network is from the blinded original, relative to how its outputs vary."""
    assert init in ("l1", "l2", "bn")
    kept = choose(plan, model, init)
    assert not kept.sliced, kept.sliced
    shape = plan.input_shape
    small = plan.build(model, init).eval()
    before = outputs(model, shape)
    hooks = blinded(model, kept)
    wanted = outputs(model, shape)
    for hook in hooks:
        hook.remove()
    assert not torch.allclose(before, wanted), "the oracle must see that channels are gone"
    found = outputs(small, shape)
    return float((found - wanted).abs().max() / (wanted - wanted.mean()).abs().max())
