"""Rooms (subpackages) stand in one order: a module imports from its own and those above it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import precrop

ROOMS = (
    "version errors files forking processes progress plugins sources own",  # files, others' code
    "trust models allowance zoo model_spec",  # networks by name
    "modules",  # any nn.Module: copies, hooks, state kept apart
    "solve",  # widths within budgets, as mathematics
    "read",  # a network's forward passes as a structure
    "fit",  # proof that the built network is the predicted one
    "plans trained",  # what was decided: file, table, built network; channels that are kept
    "counting",  # what a network has
    "linear",  # a network's passes replayed on densities and scores
    "costs",  # latency and memory
    "strategies",  # how widths are found
    "planning",
    "api",
    "pretrained integrations",  # cropped networks in folders and registries
    "pruning",  # scores, densities, masks
    "training",
    "deployment",
    "study",
    "report",
    "evidence",
    "explore",
    "cli",
)
FIRST_WING = "pruning"
RANK = {name: rank for rank, names in enumerate(ROOMS) for name in names.split()}


def modules() -> dict[str, Path]:
    """Every module of the package but the front door, whose names are imported when used."""
    assert precrop.__file__
    root = Path(precrop.__file__).parent
    found = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name not in ("precrop", "precrop.__main__"):
            found[name] = path
    return found


def only_types(tree: ast.AST) -> set[ast.AST]:
    """What is imported for a type checker alone."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    return {
        inner
        for block in blocks
        if "TYPE_CHECKING" in ast.dump(block.test)
        for inner in ast.walk(block)
    }


def imports(path: Path, known: set[str], *, types: bool) -> Iterator[str]:
    """Modules of the package that a module imports, within functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    left_out = set() if types else only_types(tree)
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("precrop"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("precrop"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else str(node.module)


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_room_has_its_place() -> None:
    assert {room(name) for name in modules()} == set(RANK)


def test_no_module_imports_from_a_room_below() -> None:
    found = modules()
    for name, path in found.items():
        for other in imports(path, set(found), types=True):
            if other == "precrop":  # the front door: for wings alone
                assert RANK[room(name)] >= RANK[FIRST_WING], name
            else:
                assert RANK[room(other)] <= RANK[room(name)], f"{name} imports {other}"


def test_no_modules_import_one_another() -> None:
    found = modules()
    after = {
        name: set(imports(path, set(found), types=False)) & found.keys()
        for name, path in found.items()
    }
    while after:
        done = {name for name, others in after.items() if not others & after.keys()}
        assert done, f"in a circle, or behind one: {sorted(after)}"
        after = {name: others for name, others in after.items() if name not in done}


def test_solving_knows_no_tensor() -> None:
    for name, path in modules().items():
        if room(name) == "solve":
            assert "torch" not in path.read_text(encoding="utf-8"), name


def test_a_class_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for module, path in modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
