"""The command ``explore``."""

from typing import Annotated

import typer

from precrop.cli.arguments import shapes
from precrop.cli.options import ModelOptions, with_options
from precrop.cli.output import INTERRUPTED
from precrop.errors import needs
from precrop.progress import step


@with_options
def explore_command(
    source: ModelOptions,
    profile: Annotated[
        list[str] | None,
        "A device whose latency can have a budget: what `precrop profile` wrote; repeatable.",
        "FILE.json",
    ] = None,
    host: Annotated[
        str, "Who may open it: 127.0.0.1: browsers of this machine; 0.0.0.0: anyone."
    ] = "127.0.0.1",
    port: Annotated[int, "Where it is served."] = 7860,
) -> None:
    """Serve a web page on which you move budgets and see the plan; Ctrl-C ends it."""
    with needs("the page needs", "precrop[explore]"), step("loading the page"):
        from precrop.explore.page import app
        from precrop.explore.serving import check_free, serve
    check_free(host, port)
    with step(f"reading {source.model}"):
        shape = shapes(source.input_shape)
        page = app(source.model, source.spec.args, shape, profiles=profile or ())
    try:
        serve(page, host, port, typer.echo)
    except KeyboardInterrupt:  # the usual way to end it
        raise typer.Exit(INTERRUPTED) from None
