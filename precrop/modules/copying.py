"""Copies networks, with other tensors in place of their parameters and buffers."""

import copy
import functools
import io
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from precrop.errors import PrecropError, typed_reason
from precrop.modules.names import buffers_of, held_tensors, modules_of, parameters_of
from precrop.modules.reparametrised import refresh
from precrop.modules.weak import Memo, beside, is_weak, targets
from precrop.own import calling_own

Make = Callable[[str, Tensor], Tensor]
"""From a tensor's name and the tensor to the tensor that replaces it in a copy."""


def copied(model: nn.Module, make: Make, make_plain: Make | None = None) -> nn.Module:
    """Deep-copy a network, with ``make(name, tensor)`` in place of every parameter and buffer.

    Plain tensors that modules hold become ``make_plain(name, tensor)``, if that is given.

    The original tensors are never copied, so a large network costs no more than a small one.
    Shared parameters stay shared, and parameters keep their class and their attributes. What cannot
    be copied, such as a lock, is shared; a stored result with autograd history is detached.
    """
    modules = modules_of(model)
    memo = Memo(held=lambda: held_objects(model, known=()))
    parameters, buffers = parameters_of(model), buffers_of(model)
    for name, parameter in parameters.items():
        if is_lazy(parameter):
            raise PrecropError(f"{name} has no shape yet: run the network once, then plan")
        memo[id(parameter)] = _parameter(parameter, make(name, parameter))
    for name, buffer in buffers.items():
        memo[id(buffer)] = make(name, buffer)
    for name, tensor in held_tensors(model).items():
        if id(tensor) not in memo:  # it is not a parameter or a buffer as well
            made = (make_plain or make)(name, tensor)
            memo[id(tensor)] = made.requires_grad_(tensor.requires_grad)
    plain = {path: m for path, m in modules.items() if copies_plainly(type(m))}
    for module in plain.values():
        kind: Any = type(module)
        memo[id(module)] = kind.__new__(kind)
    for module in modules.values():
        if isinstance(module, torch.jit.ScriptModule) and id(module) not in memo:
            _copy_script(module, memo)
    with calling_own("the network cannot be copied"):
        for path, module in reversed(modules.items()):  # children first, for their parents
            if path in plain:
                _copy_plainly(module, path, memo)
                continue
            _prepare(vars(module), memo)
            kind = type(module)
            where, own = path or kind.__name__, hasattr(kind, "__deepcopy__")
            if own and id(module) not in memo and copied_value(module, where, memo) is module:
                memo[id(module)] = kind.__new__(kind)  # its __deepcopy__ shares it
                _copy_plainly(module, path, memo)
        copy_of: nn.Module = copy.deepcopy(model, memo)
        for tensor in (*parameters.values(), *buffers.values()):
            if vars(tensor) and not _computes_itself(tensor):
                _prepare(vars(tensor), memo)
                vars(memo[id(tensor)]).update(copy.deepcopy(vars(tensor), memo))
        refresh(copy_of)
    return copy_of


def _parameter(original: nn.Parameter, data: Tensor) -> nn.Parameter:
    """Make a parameter of the original's class."""
    kind = type(original)
    if kind is nn.Parameter or not issubclass(kind, nn.Parameter) or type(data) is not Tensor:
        return nn.Parameter(data, requires_grad=original.requires_grad)
    made: nn.Parameter = Tensor._make_subclass(kind, data, original.requires_grad)
    return made


def _computes_itself(tensor: Tensor) -> bool:
    """Whether the tensor's class implements operations, so that its attributes are internal."""
    return type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__


def _copy_script(script: torch.jit.ScriptModule, memo: Memo) -> None:
    """Copy a scripted module, whose tensors and submodules live in C++."""
    twins = dict(copy.deepcopy(script).named_modules())
    for path, module in script.named_modules():
        twin = twins[path]
        memo[id(module)] = twin
        tensors = parameters_of(module, recurse=False) | buffers_of(module, recurse=False)
        for name, tensor in tensors.items():
            twin._c.setattr(name, memo[id(tensor)])


def meta_copy(model: nn.Module) -> nn.Module:
    """Copy a network to the meta device."""
    return copied(model, lambda _, tensor: tensor.detach().to("meta"))


def submodule(model: nn.Module, path: str) -> nn.Module:
    """Return the module at a path; scripted modules have no ``get_submodule``.

    For paths from files, which are not trusted, use `precrop.fit.attributes.registered_module`.
    """
    found: nn.Module = functools.reduce(getattr, path.split(".") if path else (), model)
    return found


def tensor_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in the state_dict, which tells networks apart."""
    state = model.state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}


def copies_plainly(kind: type[nn.Module]) -> bool:
    """Whether a class has no way of copying of its own: copying its attributes is enough."""
    own = kind.__setstate__ is not nn.Module.__setstate__  # libraries may replace the latter
    upgrades = kind.__setstate__.__module__ in _UPGRADING
    if (own and not upgrades) or issubclass(kind, torch.jit.ScriptModule):
        return False
    return all(
        getattr(kind, name, None) is getattr(nn.Module, name, None)
        for name in ("__getstate__", "__deepcopy__", "__reduce__", "__reduce_ex__")
    )


def _copy_plainly(module: nn.Module, path: str, memo: Memo) -> None:
    """Fill a module's copy, which is still empty, with copies of its attributes and slots."""
    state = object.__getstate__(module)
    slots = state[1] if isinstance(state, tuple) else {}
    memo[id(module)].__dict__ = _copied_state(vars(module), path, memo)
    for name, value in _copied_state(slots, path, memo).items():
        object.__setattr__(memo[id(module)], name, value)


def _copied_state(state: dict[str, Any], path: str, memo: Memo) -> dict[str, Any]:
    """Copy a module's attributes as `copy.deepcopy` does, but faster if they are not nested."""
    copies = {}
    for name, value in state.items():
        if name == "_compiled_call_impl":
            continue  # compiled for the original
        kind = type(value)
        plain = kind in _LISTS and set(map(type, value)) <= _ATOMIC  # may be a long table
        if kind in _ATOMIC or (plain and kind is tuple):
            copies[name] = value
        elif plain or (kind in _CONTAINERS and not value):
            copies[name] = memo.setdefault(id(value), kind(value))  # modules may share it
        elif kind is dict and all(
            type(key) in _ATOMIC and id(entry) in memo for key, entry in value.items()
        ):
            same = {key: memo[id(entry)] for key, entry in value.items()}
            copies[name] = memo.setdefault(id(value), same)
        else:
            copies[name] = copied_value(value, f"{path}.{name}" if path else name, memo)
    return copies


def copied_value(value: Any, where: str, memo: Memo) -> Any:
    """Copy a value; what cannot be copied, such as a lock, is shared, but not what holds it."""
    _prepare(value, memo)
    with suppress(Exception):  # a class' own way of copying may raise anything
        return _deep_copy(value, memo)
    for part in reversed([*held_objects(value)]):
        try:
            _deep_copy(part, memo)
        except Exception as error:
            if isinstance(part, dict) and hasattr(part, "__dict__"):
                with suppress(Exception):
                    _copy_entries([part], memo)
                    continue
            # Never share what holds layers, or iterators, which each use advances; files may be.
            kinds = (nn.Module, nn.Parameter, Iterator)
            inside = (one for one in held_objects(part) if not isinstance(one, io.IOBase))
            if any(isinstance(one, kinds) for one in inside):
                message = f"the network cannot be copied: {where}: {typed_reason(error)}"
                raise PrecropError(message) from error
            memo[id(part)] = part
    return memo.get(id(value), value)


def _deep_copy(value: Any, memo: Memo) -> Any:
    """Deep-copy a value; if that fails, remove its unfinished parts from ``memo``."""
    known = len(memo)
    try:
        return copy.deepcopy(value, memo)
    except Exception:
        for key in [*memo][known:]:
            del memo[key]
        raise


def _prepare(value: Any, memo: Memo) -> None:
    """Copy in advance what `copy.deepcopy` refuses, or would share although it holds modules."""
    parts = []
    for part in held_objects(value, known=memo):
        if is_weak(part):
            memo.note(part)
        elif id(part) not in memo:
            parts.append(part)
    # Python's copies of dicts that are their own ``__dict__`` have no attributes.
    _copy_entries([part for part in parts if _is_named_by_itself(part)], memo)
    for part in parts:
        if id(part) in memo:
            continue
        if isinstance(part, Tensor) and part.grad_fn is not None:
            memo[id(part)] = part.detach().clone()
        elif _reaches_module(part):
            _rebind(part, memo)
        elif isinstance(part, types.MethodType) and _reaches_module(part.__func__):
            if id(part.__func__) not in memo:
                _rebind(part.__func__, memo)
            owner = copy.deepcopy(part.__self__, memo)
            memo[id(part)] = types.MethodType(memo[id(part.__func__)], owner)


def _copy_entries(dicts: list[dict[Any, Any]], memo: Memo) -> None:
    """Copy instances of dict subclasses by their entries and attributes.

    `copy.deepcopy` fails on those that look up attributes among their entries.
    """
    for original in dicts:
        kind: Any = type(original)
        memo[id(original)] = kind.__new__(kind)
        if _is_named_by_itself(original):
            memo[id(original)].__dict__ = memo[id(original)]
    for original in dicts:
        made, where = memo[id(original)], type(original).__name__
        dict.update(made, copied_value(dict(original), where, memo))
        if not _is_named_by_itself(original):
            vars(made).update(copied_value(dict(vars(original)), where, memo))


def _is_named_by_itself(value: Any) -> bool:
    return isinstance(value, dict) and getattr(value, "__dict__", None) is value


def held_objects(value: Any, known: Container[int] | None = None) -> Iterator[Any]:
    """Yield a value and all that can be reached from it, but not through modules.

    If ``known`` is given, modules whose ids are not in it are followed, too.
    """
    seen: set[int] = set()
    stack = [value]
    while stack:
        part = stack.pop()
        if type(part) in _ATOMIC or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        stack += _held(part, known)


def _held(value: Any, known: Container[int] | None) -> list[Any]:
    """Return what a value holds: entries, attributes, the variables that a function closes over."""
    if is_weak(value):
        return beside(value)
    if isinstance(value, nn.Module):
        return [] if known is None or id(value) in known else [*vars(value).values()]
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return [*value]
    if isinstance(value, types.FunctionType):
        return _closed_over(value)
    if isinstance(value, types.MethodType):
        return [value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, (Tensor, type, types.ModuleType)):
        return []
    return [*getattr(value, "__dict__", {}).values()]


def _closed_over(function: types.FunctionType) -> list[Any]:
    defaults = function.__defaults__ or (), (function.__kwdefaults__ or {}).values()
    return [*chain(*defaults), *cell_contents(function)]


def cell_contents(function: types.FunctionType) -> Iterator[Any]:
    """Yield the values of the variables that a function closes over, as far as they are set."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):
            yield cell.cell_contents


def _reaches_module(value: Any) -> TypeGuard[types.FunctionType]:
    """Whether a value is a function whose closure or defaults lead to modules or parameters."""
    held = _closed_over(value) if isinstance(value, types.FunctionType) else []
    parts = held_objects(held) if held else ()
    reached = (one for part in parts for one in (targets(part) if is_weak(part) else [part]))
    return any(isinstance(one, (nn.Module, nn.Parameter)) for one in reached)


def _rebind(function: types.FunctionType, memo: Memo) -> None:
    """Copy a function that closes over modules, so that it uses the copied modules."""
    old = function.__closure__ or ()
    cells = tuple(types.CellType() for _ in old)
    code, name = function.__code__, function.__name__
    made = types.FunctionType(code, function.__globals__, name, function.__defaults__, cells)
    memo[id(function)] = made
    for cell, original in zip(cells, old, strict=True):
        try:
            contents = original.cell_contents
        except ValueError:  # a variable that is not set yet
            continue
        _prepare(contents, memo)
        cell.cell_contents = copy.deepcopy(contents, memo)
    made.__defaults__ = copy.deepcopy(function.__defaults__, memo)
    made.__kwdefaults__ = copy.deepcopy(function.__kwdefaults__, memo)
    made.__dict__.update(function.__dict__)
    made.__qualname__, made.__doc__ = function.__qualname__, function.__doc__


_ATOMIC = {bool, int, float, str, type(None)}
# Here __setstate__ only adds what modules saved by older versions of PyTorch lack.
_UPGRADING = {f"torch.nn.modules.{name}" for name in ("module", "conv", "activation", "batchnorm")}
_LISTS = {list, tuple}
_CONTAINERS = {dict, OrderedDict, set}
