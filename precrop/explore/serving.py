"""Serves the page on this machine, until it is stopped."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from precrop.errors import PrecropError
from precrop.explore.explorer import LARGEST_FILE


@contextmanager
def started(page: gr.Blocks, host: str, port: int) -> Iterator[str]:
    """The page's address while it is served; never through anyone else's server.

    Raises:
        PrecropError: the port is taken, or is no port of this machine's.
    """
    _check_free(host, port)
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


def serve(page: gr.Blocks, host: str, port: int) -> None:
    """Serve until Ctrl-C, which is passed on."""
    with started(page, host, port) as address:
        print(f"precrop explore: {address} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()


def _check_free(host: str, port: int) -> None:
    """Refuse now what the server would give up on after a while."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise PrecropError(
            f"cannot serve on {host}:{port}: {error.strerror or error}; --port takes another"
        ) from error
    except OverflowError as error:
        raise PrecropError(f"--port {port} is no port: write a number from 1 to 65535") from error
