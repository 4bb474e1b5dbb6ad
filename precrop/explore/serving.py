"""Serving the page on this machine until it is stopped."""

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import gradio as gr
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from precrop.errors import PrecropError
from precrop.explore.explorer import LARGEST_FILE
from precrop.progress import Level, speaks

_LOCAL = ("127.0.0.1", "localhost", "[::1]", "::1")
"""Names that this machine has for itself."""
_REFUSED = "only precrop's own page, by a name of this machine itself: --host 0.0.0.0 allows others"


@contextmanager
def started(page: gr.Blocks, host: str, port: int) -> Iterator[str]:
    """Serve the page and yield its address; it never goes through anyone else's server.

    Raises:
        PrecropError: the port is taken, or this machine cannot open it.
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
            app_kwargs={"middleware": [Middleware(OwnPageOnly, host=host)]},
        )
        yield page.local_url
    finally:
        page.close(verbose=False)


def serve(page: gr.Blocks, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C raises `KeyboardInterrupt`; ``say`` gets a line with the address."""
    with _without_requests(), started(page, host, port) as address:
        say(f"Open {address} in a browser; Ctrl-C ends it.")
        threading.Event().wait()


@contextmanager
def _without_requests() -> Iterator[None]:
    """Hide what Gradio prints to standard error about failed requests, unless ``-v`` is given.

    It prints tracebacks with what a request holds: control characters, too, which anyone can send.
    """
    if speaks(Level.VERBOSE):
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        yield


class OwnPageOnly:
    """Refuses requests from other pages in the browser, or by other names of this machine.

    Any page may send requests to this machine, by its address or by a name that resolves to it. If
    the server is open to other machines (``--host 0.0.0.0``), they may call it by any name.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        local = host in _LOCAL or host.startswith("127.")
        self._names = {*_LOCAL, host} if local else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; this is the ASGI interface."""
        if scope["type"] in ("http", "websocket") and not self._allowed(Headers(scope=scope)):
            await PlainTextResponse(_REFUSED, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _allowed(self, headers: Headers) -> bool:
        host, origin = headers.get("host", ""), headers.get("origin")
        named = self._names is None or re.sub(r":\d+$", "", host) in self._names
        return named and (origin is None or origin.partition("://")[2] == host)


def check_free(host: str, port: int) -> None:
    """Refuse an address at once on which the server would give up after a while."""
    if not 0 < port < 2**16:
        raise PrecropError(f"--port {port} is not a port: write a number from 1 to 65535")
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise PrecropError(
            f"cannot serve on {host}:{port}: {reason}; --port and --host take others"
        ) from error
