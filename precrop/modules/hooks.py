"""Calls the modules of a copied network with the hooks that are part of it, and no others.

A hook may be part of the network (weight normalisation, a norm of the weights, padding of an
output) or only observe it (a log, a plot, a counter). Observers are not called while a network is
read. A hook is part of the network if it belongs to an object of the network or to PyTorch's or our
own tools, or if its code changes something: it returns a value or, before forward, sets attributes
of the module. Global hooks (``register_module_forward_hook``) are taken for observers.
"""

import dis
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import pairwise
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from precrop.errors import PrecropError, brief
from precrop.modules.copying import cell_contents, held_objects
from precrop.modules.names import modules_of

CALL = "_compiled_call_impl"
"""The attribute by which a module instance replaces its call, as ``Module.compile`` does."""

_INNER = {"OptimizedModule": "_orig_mod", "_FabricModule": "_forward_module"}
"""Wrapper classes of `torch.compile` and Lightning's Fabric, and where they keep the network."""
_TOOLS = ("torch.", "precrop.")
HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def unwrapped(model: Any) -> nn.Module:
    """Return the network inside wrappers that only run it differently: compiled, distributed, EMA.

    `DataParallel` is kept, since its copy works like any module's: names keep its prefix.

    Raises:
        PrecropError: it is no network but a class, a name or such; the message says what to write.
    """
    if isinstance(model, type) and issubclass(model, nn.Module):
        name = model.__name__
        raise PrecropError(f"{name} is a class, not a network: make one, such as {name}()")
    if isinstance(model, str):
        raise PrecropError(
            f"{brief(model)} is a name, not a network: build it first, such as "
            f"torchvision.models.{model if model.isidentifier() else 'resnet50'}()"
        )
    given = model if isinstance(model, nn.Module) else getattr(model, "ema", None)
    if not isinstance(given, nn.Module):
        raise PrecropError(f"{brief(model)} is not a network: give an instance of torch.nn.Module")
    network: nn.Module = given
    while not isinstance(network, nn.DataParallel):
        inner = _wrapped(network) or _passed_to(network)
        if inner is None:
            break
        network = inner
    return network


def _wrapped(model: nn.Module) -> nn.Module | None:
    """Return the module inside a wrapper that only runs it in another way; None for others."""
    parallel = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
    name = "module" if parallel else _INNER.get(type(model).__name__)
    return None if name is None else model._modules.get(name)


def _passed_to(model: nn.Module) -> nn.Module | None:
    """Return the only child, ``module``, if forward only calls it or is missing (EMA)."""

    def handed_on(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    children = dict(model.named_children())
    if [*children] != ["module"] or any(True for _ in model.parameters(recurse=False)):
        return None
    forward = getattr(model.forward, "__func__", None)
    code, own = handed_on.__code__, getattr(forward, "__code__", None)
    same = own is not None and (own.co_code, own.co_names) == (code.co_code, code.co_names)
    return children["module"] if same or forward is nn.Module.forward else None


def keep_own_hooks(made: nn.Module, model: nn.Module) -> None:
    """Drop the hooks of a copy of ``model`` that are not part of the network."""
    modules = modules_of(model)
    if not any(vars(module)[kind] for module in modules.values() for kind in HOOKS):
        return
    network = _Network(list(modules.values()))
    for path, module in modules_of(made).items():
        for kind in HOOKS:
            hooks: dict[int, Any] = vars(modules[path])[kind] if path in modules else {}
            for key, hook in hooks.items():
                if not network.has(hook, before=kind == HOOKS[0]):
                    vars(module)[kind].pop(key, None)


def own_call(module: nn.Module) -> Callable[..., Any]:
    """Return the call of a module with its own hooks, also those that its forward registers.

    Global hooks are left out. A wrapper's call is that of the wrapped module.
    """
    inner = _wrapped(module)
    if inner is not None:
        return lambda *args, **kwargs: inner(*args, **kwargs)

    def call(*args: Any, **kwargs: Any) -> Any:
        for key, hook in module._forward_pre_hooks.items():
            named = key in module._forward_pre_hooks_with_kwargs
            changed: Any = hook(module, args, kwargs) if named else hook(module, args)
            if named and changed is not None:
                args, kwargs = changed
            elif changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        result = module.forward(*args, **kwargs)
        for key, hook in module._forward_hooks.items():
            given = (args, kwargs) if key in module._forward_hooks_with_kwargs else (args,)
            changed = hook(module, *given, result)
            result = result if changed is None else changed
        return result

    return call


def call_alone(made: nn.Module, model: nn.Module) -> None:
    """Let a copy of ``model`` call only what is part of the network."""
    keep_own_hooks(made, model)
    for module in made.modules():
        module.__dict__[CALL] = own_call(module)


class _Network:
    """What belongs to a network, to tell its own hooks from others."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.modules = modules
        self.kinds = {kind for module in modules for kind in type(module).__mro__}
        self.wrapping = {id(names) for kind in self.kinds for names in _wrapping(kind)}

    def has(self, hook: Any, *, before: bool) -> bool:
        """Whether a hook, called ``before`` or after forward, is part of the network."""
        while isinstance(hook, partial):
            hook = hook.func
        owner = hook.__self__ if isinstance(hook, MethodType) else hook
        code = owner if isinstance(owner, FunctionType) else type(owner)
        if (code.__module__ or "").startswith(_TOOLS):
            return True
        if not isinstance(owner, FunctionType):
            if id(owner) in self.objects:
                return True
            function = hook.__func__ if owner is not hook else type(hook).__call__
            return _changes(function, before, 1)
        if self._defines(owner) or id(owner.__globals__) in self.wrapping:
            return True
        if owner.__name__ == "<lambda>":
            return all(map(self._is_harmless, _outside_values(owner)))
        return _changes(owner, before, 0)

    @cached_property
    def objects(self) -> dict[int, Any]:
        """The network's modules and what they hold, by id."""
        states = [
            {name: entry for name, entry in vars(module).items() if name not in HOOKS}
            for module in self.modules
        ]
        return {id(one): one for one in [*self.modules, *held_objects(states)]}

    def _defines(self, function: FunctionType) -> bool:
        """Whether a function is defined in one of the network's classes or in their methods."""
        return any(
            kind.__module__ == function.__module__
            and function.__qualname__.startswith(f"{kind.__qualname__}.")
            for kind in self.kinds
        )

    def _is_harmless(self, value: Any) -> bool:
        """Whether a value that a function looks up is a constant, code, or part of the network."""
        constants = type(None), bool, int, float, str, bytes
        code = ModuleType, FunctionType, type, type(len)
        return isinstance(value, (*constants, *code)) or id(value) in self.objects


def _wrapping(kind: type) -> Iterator[Any]:
    """Yield the globals of Python modules whose decorators wrap a class' forward.

    Hooks from there are the network's; those from the class' own Python module may be anybody's.
    """
    function = vars(kind).get("forward")
    while isinstance(function, FunctionType):
        if function.__globals__.get("__name__") != kind.__module__:
            yield function.__globals__
        function = getattr(function, "__wrapped__", None)


def _outside_values(function: FunctionType) -> Iterator[Any]:
    """Yield the values that a function looks up outside itself: closure variables and globals."""
    yield from cell_contents(function)
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield function.__globals__[name]


def _changes(function: Any, before: bool, position: int) -> bool:
    """Whether a hook's code returns something or, before forward, sets attributes of the module.

    ``position`` is the module's index among the hook's parameters.
    """
    if not isinstance(function, FunctionType):
        return True  # its code is not known
    code = function.__code__
    steps = [step for step in dis.get_instructions(code) if step.opname != "CACHE"]
    returns = any(
        (step.opname == "RETURN_VALUE" and (last.opname, last.argval) != ("LOAD_CONST", None))
        or (step.opname == "RETURN_CONST" and step.argval is not None)
        for last, step in pairwise(steps)
    )
    if returns or not before:
        return returns
    module = code.co_varnames[position] if position < code.co_argcount else None
    # One instruction may load two variables.
    loaded = (last.argval for last, step in pairwise(steps) if step.opname == "STORE_ATTR")
    owners = (one[-1] if isinstance(one, tuple) and one else one for one in loaded)
    return module in owners or "setattr" in code.co_names
