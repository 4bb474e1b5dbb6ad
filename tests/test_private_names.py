"""Tests use public names alone, so that whoever changes a module's inside need not change them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import precrop

TESTS = Path(__file__).parent
OTHERS = {name for thing in (torch, nn.Module, torch.Tensor) for name in dir(thing)}
"""Names that are private in PyTorch too: a test that has one means PyTorch's."""
BY_TEXT = ("setattr", "delattr", "getattr", "hasattr", "object", "patch")
"""Functions that take a name as a text."""


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_")


def defined(path: Path) -> set[str]:
    """Private names that a file gives to functions, classes, variables and attributes."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return {name for name in found if private(name)}


def used(path: Path) -> Iterator[tuple[int, str]]:
    """Lines and names of imports, of attributes, and of texts that stand for them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("precrop"):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in BY_TEXT:
            texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            yield from ((node.lineno, t.split(".")[-1]) for t in texts if isinstance(t, str))


def test_no_test_uses_a_private_name_of_the_package() -> None:
    assert precrop.__file__
    package = Path(precrop.__file__).parent
    names = {name for path in package.rglob("*.py") for name in defined(path)} - OTHERS
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        theirs = names - defined(path)
        place = path.relative_to(TESTS)
        found += [f"{place}:{line} {name}" for line, name in used(path) if name in theirs]
    assert found == []
