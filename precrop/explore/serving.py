"""Serves the page on this machine, until it is stopped."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gradio as gr

from precrop.errors import PrecropError
from precrop.explore.explorer import LARGEST_FILE


@contextmanager
def started(page: gr.Blocks, host: str, port: int) -> Iterator[str]:
    """The page's address while it is served; never through anyone else's server.

    Raises:
        PrecropError: the port is taken, or not one that this machine can open.
    """
    check_free(host, port)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            run_history=False,
            mcp_server=False,
            footer_links=[],
            max_file_size=LARGEST_FILE,
        )
        yield page.local_url
    finally:
        page.close(verbose=False)


def serve(page: gr.Blocks, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C, which is passed on; ``say`` is told the address."""
    with started(page, host, port) as address:
        say(f"Open {address} in a browser; Ctrl-C ends it.")
        threading.Event().wait()


def check_free(host: str, port: int) -> None:
    """Refuse now what the server would give up on after a while.

    Raises:
        PrecropError: the port is taken, or not one that this machine can open.
    """
    if not 0 < port < 2**16:
        raise PrecropError(f"--port {port} is not a port: write a number from 1 to 65535")
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise PrecropError(
            f"cannot serve on {host}:{port}: {reason}; --port and --host take others"
        ) from error
