"""The command ``list``."""

import inspect
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import typer

from precrop.cli.options import AsJson, with_options
from precrop.errors import PrecropError, hint, needs
from precrop.files import json_text
from precrop.progress import note

Kind = Literal["networks", "methods", "objectives", "rules", "costs", "recipes"]


@with_options
def list_command(
    glob: Annotated[
        str,
        typer.Argument(
            metavar="GLOB", help="Names to list: mobilenet, or 'mobilenet*'; all by default."
        ),
    ] = "*",
    kind: Annotated[
        Kind,
        "networks that every MODEL may name; methods for densities and masks; objectives and rules "
        "of plans; costs that have budgets; recipes of training.",
    ] = "networks",
    as_json: AsJson = False,
) -> None:
    """List the names of networks, or with --kind of methods, objectives, rules, costs, recipes."""
    known = _KINDS[kind]()
    found = {name: about for name, about in known.items() if _matches(name, glob)}
    if not found:
        close = hint(glob, known) or ": `precrop list` shows all, and 'res*' those that begin so"
        raise PrecropError(f"none of {len(known)} {kind} matches {glob!r}{close}")
    if as_json:
        typer.echo(json_text(found, indent=1))
    elif kind == "networks":
        typer.echo("\n".join(found))
    else:
        column = max(map(len, found))
        typer.echo("\n".join(f"{name:<{column}}  {about}" for name, about in found.items()))


def _matches(name: str, glob: str) -> bool:
    """Whether a name matches, with or without its library's prefix; plain words match anywhere."""
    pattern = glob if set(glob) & set("*?[") else f"*{glob}*"
    return fnmatchcase(name, pattern) or fnmatchcase(name.partition(":")[2] or name, pattern)


def _networks() -> dict[str, str]:
    """Return the names of networks, with the library of each."""
    from precrop.zoo import library_names

    names = library_names()
    for library in ("torchvision", "timm"):
        if library not in names:
            note(f"networks of {library} are not listed: pip install 'precrop[models]' adds them")
    return {name: library for library, those in names.items() for name in those}


def _methods() -> dict[str, str]:
    from precrop.pruning.methods import METHODS

    return {
        name: _first_line(method.function) + (" Needs --data." if method.needs_data else "")
        for name, method in METHODS.items()
    }


def _objectives() -> dict[str, str]:
    from precrop.strategies.exact import EXACT
    from precrop.strategies.objectives import OBJECTIVES

    return {name: _first_line(made) for name, made in {**OBJECTIVES, **EXACT}.items()}


def _rules() -> dict[str, str]:
    from precrop.strategies.keywords import BALANCED, UNIFORM
    from precrop.strategies.two_step import RULES

    shares = {"sqrt-min": "smallest", "sqrt-max": "largest", "geometric-mean": "geometric mean"}
    return {
        BALANCED: "The widths that maximise the objective within the budgets; the default.",
        UNIFORM: "The same share of every width.",
        **{
            name: f"Densities first; a width then gets the {shares[name]} of its layers' shares."
            for name in RULES
        },
    }


def _costs() -> dict[str, str]:
    from precrop.costs.layered import COSTS
    from precrop.solve.budgets import UNITS

    own = {
        name: f"--{name} 0.5, or absolute: --{name} {unit.example}" for name, unit in UNITS.items()
    }
    return own | {name: f"--cost {name}=0.5. {_first_line(cost)}" for name, cost in COSTS.items()}


def _recipes() -> dict[str, str]:
    with needs("training needs", "precrop[train]"):
        from precrop.training.recipes import RECIPES

    return {
        name: f"{recipe.epochs} epochs, batches of {recipe.batch_size}, learning rate {recipe.lr:g}"
        for name, recipe in RECIPES.items()
    }


def _first_line(documented: Any) -> str:
    """Return the first paragraph of a function's or class' docstring, on one line."""
    said = (inspect.getdoc(documented) or "").partition("\n\n")[0]
    return " ".join(said.replace("`", "").split())


_KINDS: Mapping[str, Callable[[], dict[str, str]]] = {
    "networks": _networks,
    "methods": _methods,
    "objectives": _objectives,
    "rules": _rules,
    "costs": _costs,
    "recipes": _recipes,
}
