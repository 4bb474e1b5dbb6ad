"""The command ``count``."""

import typer

import precrop
from precrop.cli.options import AsJson, InputOptions, with_options
from precrop.files import json_text
from precrop.progress import step


@with_options
def count_command(source: InputOptions, as_json: AsJson = False) -> None:
    """Print a network's parameters and MACs (at batch 1), layer by layer."""
    network, shape = source.load()
    with step(f"counting {source.model}"):
        counted = precrop.count(network, shape)
    typer.echo(json_text(counted.to_json(), indent=1) if as_json else str(counted))
