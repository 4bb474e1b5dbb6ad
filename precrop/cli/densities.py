"""The command ``densities``."""

from pathlib import Path
from typing import Annotated, Any

import typer

import precrop
from precrop.cli.arguments import arguments, set_seed
from precrop.cli.options import AsJson, InputOptions, Macs, Params, Seed, with_options
from precrop.cli.output import warnings_as_lines
from precrop.errors import PrecropError, needs
from precrop.files import check_writable, json_text, write_text
from precrop.trust import runs_user_code


@with_options
def densities_command(
    source: InputOptions,
    params: Params = None,
    macs: Macs = None,
    method: Annotated[
        str,
        "synexp, erk, uniform, uniform_plus, igq, synflow, snip, grasp, magnitude, random; or a "
        "function of yours, module:function, whose module is run.",
    ] = "synexp",
    data: Annotated[
        str | None,
        "Batches for snip and grasp: images as for train (digits, cifar10, a folder), a "
        ".safetensors file with inputs and targets, or module:factory.",
        "DATA",
    ] = None,
    option: Annotated[
        list[str] | None, "An option of the method (rounds=100); repeatable.", "NAME=VALUE"
    ] = None,
    seed: Seed = None,
    output: Annotated[Path | None, "Write the densities to this JSON file."] = None,
    as_json: AsJson = False,
) -> None:
    """Print the density of every layer's weights, as the chosen method determines it."""
    from precrop.pruning.methods import METHODS, check_options, take_own_method

    if runs_user_code(method):
        take_own_method(method)
    if data is not None and method in METHODS and not METHODS[method].needs_data:
        those = " and ".join(name for name, known in METHODS.items() if known.needs_data)
        raise PrecropError(f"--data is for {those}: {method} looks at none")
    if output is not None:
        check_writable(output)
    options = arguments(option)
    check_options(method, options)
    set_seed(seed)
    network, inputs = source.load()
    with warnings_as_lines():
        densities = precrop.densities(
            network,
            inputs,
            method=method,
            params=params,
            macs=macs,
            data=None if data is None else _batches(data, inputs, seed or 0),
            seed=seed or 0,
            progress=True,
            **options,
        )
    text = json_text(densities, indent=1)
    try:
        if as_json:
            typer.echo(text)
        else:
            column = max(map(len, densities), default=0)
            for name, density in densities.items():
                typer.echo(f"{name:<{column}}  {density:.6f}")
    finally:  # save the densities even if they can't be printed (closed terminal, full disk)
        if output is not None:
            write_text(output, text + "\n")


def _batches(data: str, shape: Any, seed: int) -> Any:
    """Return batches ``(inputs, targets)`` of images, a file of tensors or a user's factory.

    Images come in the batches that ``precrop train --mask`` takes by its default recipe.
    """
    if runs_user_code(data):
        from precrop.zoo import call_factory

        return call_factory(data)
    if not (Path(data).is_file() or Path(data).suffix == ".safetensors"):
        with needs("images need", "precrop[train]"):
            from precrop.training.batches import sample
            from precrop.training.data import load_shaped
            from precrop.training.recipes import find_recipe

        images = load_shaped(data, shape)
        recipe = find_recipe(None, images.name).fitted(images.count, {})
        return sample(images, recipe.batch_size, seed)
    from precrop.plans.weights import load_tensors

    tensors = load_tensors(Path(data))
    missing = [name for name in ("inputs", "targets") if name not in tensors]
    if missing:
        raise PrecropError(
            f"{data} has no tensor {missing[0]!r}: save 'inputs' and 'targets' in it"
        )
    return [(tensors["inputs"], tensors["targets"])]
