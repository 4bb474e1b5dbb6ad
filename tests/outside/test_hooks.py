"""Looks at a network are not called; hooks that are the network run; wrappers are seen past."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

import precrop
from precrop.modules.hooks import unwrapped
from tests.networks import SHAPE, small
from tests.outside.capturing import captured

seen: list[Any] = []


def looks(module: nn.Module, args: Any, output: Any) -> None:
    seen.append(output)


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, module: nn.Module, args: Any, output: Any = None) -> None:
        self.calls += 1
        seen.append(self)

    def named(self, name: str, module: nn.Module, args: Any, output: Any = None) -> None:
        self.calls += 1
        seen.append(name)


LOOKS: dict[str, Any] = {
    "function": looks,
    "lambda": lambda module, args, output: seen.append(output),
    "object": Counter(),
    "method": Counter().__call__,
    "partial": partial(Counter().named, "layer"),
}


def answers(model: nn.Module) -> dict[str, Any]:
    plan = precrop.plan(model, SHAPE, params=0.5, macs=0.6)
    densities = precrop.densities(model, SHAPE, method="synflow", params=0.5)
    batch = (torch.ones(4, *SHAPE), torch.arange(4) % 3)
    snip = precrop.densities(model, SHAPE, method="snip", params=0.5, data=[batch])
    return {"widths": plan.widths, "macs": plan.macs, "densities": densities, "snip": snip}


@pytest.mark.parametrize("look", LOOKS)
def test_looks_are_not_called(look: str) -> None:
    model, hook = small("conv"), LOOKS[look]
    wanted = answers(model)
    seen.clear()
    for module in model.modules():
        module.register_forward_hook(hook)
    model.register_forward_pre_hook(lambda module, args: seen.append(args))
    hooks = [list(module._forward_hooks.values()) for module in model.modules()]
    assert answers(model) == wanted
    assert not seen
    assert [list(module._forward_hooks.values()) for module in model.modules()] == hooks


def test_hooks_of_all_modules_are_not_called() -> None:
    model = small("conv")
    wanted = answers(model)
    handle = register_module_forward_hook(looks)
    seen.clear()
    try:
        assert answers(model) == wanted
    finally:
        handle.remove()
    assert not seen


def test_backward_hooks_are_not_called() -> None:
    model = small("conv")
    for module in model.modules():
        module.register_full_backward_hook(lambda module, before, after: seen.append(module))
    seen.clear()
    answers(model)
    assert not seen


class Shortened(nn.Module):
    """Its layer's output is cut by a hook: without it the next layer would not fit."""

    def __init__(self, register: Callable[["Shortened"], None]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 24, 3), nn.Conv2d(8, 16, 3)
        self.head = nn.Linear(16, 3)
        self.kept = 8
        register(self)

    def cut(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output[:, : self.kept]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).mean((2, 3)))


def cut(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output[:, :8]


class Cut:
    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output[:, :8]


CUTS: dict[str, Callable[[Shortened], Any]] = {
    "method": lambda net: net.first.register_forward_hook(net.cut),
    "function": lambda net: net.first.register_forward_hook(cut),
    "lambda": lambda net: net.first.register_forward_hook(lambda m, a, out: out[:, :8]),
    "object": lambda net: net.first.register_forward_hook(Cut()),
    "before": lambda net: net.second.register_forward_pre_hook(lambda m, args: args[0][:, :8]),
}


@pytest.mark.parametrize("way", CUTS)
def test_hooks_that_change_what_passes_are_the_network(way: str) -> None:
    net = Shortened(CUTS[way])
    plan = precrop.plan(net, SHAPE, params=0.8)
    built = plan.build(net)
    assert built(torch.ones(2, *SHAPE)).shape == (2, 3)
    assert plan.params == sum(p.numel() for p in built.parameters())


class Scaled:
    """A weight of unit norm, computed before every pass, as code without parametrisations does."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        raw: Any = module.raw
        module.weight = raw / raw.norm()


def test_a_hook_that_computes_a_weight_is_the_network() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    layer = net[0]
    weight = layer.weight
    del layer.weight
    layer.raw = weight
    layer.register_forward_pre_hook(Scaled())
    plan = precrop.plan(net, SHAPE, macs=0.5)
    built = plan.build(net)
    assert built(torch.ones(2, *SHAPE)).shape == (2, 8, 4, 4)
    assert plan.macs <= 0.5 * plan.base_macs


def compiled(model: nn.Module) -> nn.Module:
    made: Any = torch.compile(model)
    assert isinstance(made, nn.Module)
    return made


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": compiled,
    "data parallel": nn.DataParallel,
    "both": lambda model: nn.DataParallel(compiled(model)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_network_is_planned_as_the_network_within(wrapper: str) -> None:
    model = small("residual")
    wrapped = WRAPPERS[wrapper](model)
    alone = precrop.plan(model, SHAPE, params=0.5)
    plan = precrop.plan(wrapped, SHAPE, params=0.5)
    assert [*plan.widths.values()] == [*alone.widths.values()]
    built = plan.build(wrapped)
    assert type(built) is type(unwrapped(wrapped))
    assert built.state_dict().keys() == unwrapped(wrapped).state_dict().keys()
    assert built(torch.ones(2, *SHAPE)).shape == model(torch.ones(2, *SHAPE)).shape
    masks = precrop.masks(wrapped, precrop.densities(wrapped, SHAPE, params=0.5))
    precrop.apply_masks(wrapped, masks)
    assert {f"{name}_orig" for name in masks} <= dict(unwrapped(wrapped).named_parameters()).keys()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_within_a_network_are_seen_past(wrapper: str) -> None:
    def net(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
        body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
        return nn.Sequential(wrap(body), nn.Flatten(), nn.Linear(256, 5))

    plain = precrop.plan(net(lambda body: body), SHAPE, params=0.5, macs=0.5)
    plan = precrop.plan(net(WRAPPERS[wrapper]), SHAPE, params=0.5, macs=0.5)
    assert [*plan.widths.values()] == [*plain.widths.values()]
    assert plan.macs == plain.macs


def test_a_module_compiled_in_place_is_read_and_built_as_it_was_written() -> None:
    model = small("conv")
    wanted = answers(model)
    calls: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        calls.append(inputs)
        return graph.forward

    model.compile(backend=backend)
    assert answers(model) == wanted
    built = precrop.plan(model, SHAPE, params=0.5).build(model)
    assert built._compiled_call_impl is None
    assert not calls


class Captured(nn.Module):
    """Its head reads what hooks collected, which its decorated forward installs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 32, 3))
        self.head = nn.Linear(24 + 32, 5)

    @captured
    def forward(self, found: list[Tensor]) -> Tensor:
        out: Tensor = self.head(torch.cat([x.mean((2, 3)) for x in found], 1))
        return out


@pytest.mark.parametrize("run_before", [False, True])
def test_hooks_that_a_decorated_forward_installs_are_the_networks_own(run_before: bool) -> None:
    model = Captured()
    x = torch.ones(2, 3, 12, 12)
    if run_before:
        model(x)
    plan = precrop.plan(model, (3, 12, 12), params=0.5)
    assert not plan.frozen
    built = plan.build(model)
    assert built(x).shape == (2, 5)
    assert sum(p.numel() for p in built.parameters()) == plan.params
    assert hasattr(model, "hooked") is run_before
