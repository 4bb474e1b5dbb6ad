"""The command ``count``. Heavy imports wait inside it, as in `precrop.cli.app`."""

import json
from typing import Annotated

import typer

from precrop.cli.arguments import Args, ModelName, arguments
from precrop.cli.arguments import input_shape as read_shape


def count_command(
    model: ModelName,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(metavar="SHAPE", help="3,224,224 or 3x224x224; repeat for several inputs."),
    ] = None,
    arg: Args = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print a network's parameters and MACs (at batch 1), layer by layer."""
    import precrop
    from precrop.zoo import default_input_shape, load_model

    network = load_model(model, arguments(arg))
    shapes = [read_shape(text) for text in input_shape or ()]
    if not shapes:
        shapes = [default_input_shape(model, network)]
    counted = precrop.count(network, shapes[0] if len(shapes) == 1 else shapes)
    typer.echo(json.dumps(counted.to_json(), indent=1) if as_json else str(counted))
