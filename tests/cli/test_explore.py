"""The command ``explore``: what it refuses, and how it ends."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import closing

import pytest

from precrop.cli.app import main


def test_gradio_is_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("precrop.explore")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["explore", "resnet20"]) == 2
    said = capsys.readouterr().err
    assert "pip install 'precrop[explore]'" in said
    assert len(said.splitlines()) == 1


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port: int = free.getsockname()[1]
        return port


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    pytest.importorskip("gradio", reason="gradio is not installed")
    assert main(["explore", *words]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1, said
    return said


def test_a_taken_port_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1:{port}" in refused(capsys, "resnet20", "--port", port)


def test_no_port_and_no_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--port 99999 is not a port" in refused(capsys, "resnet20", "--port", "99999")
    assert "no.such.host.invalid" in refused(capsys, "resnet20", "--host", "no.such.host.invalid")


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    port = ("--port", str(free_port()))
    assert "or resnet20" in refused(capsys, "resnet2o", *port)
    assert "nothing.json" in refused(capsys, "resnet20", *port, "--profile", "nothing.json")
    assert "input shape" in refused(capsys, "resnet20", *port, "--input-shape", "3x")


WATCHED = """
import sys


def watch(event, found):
    if event == "socket.getaddrinfo":
        host = found[0]
    elif event == "socket.connect":
        host = found[1][0] if isinstance(found[1], tuple) else None
    else:
        return
    if host not in (None, "127.0.0.1", "localhost", "::1"):
        print("asked for", host, file=sys.__stderr__)


sys.addaudithook(watch)
from precrop.cli.app import main

sys.exit(main(sys.argv[1:]))
"""
"""The command line; what it asks of other machines is said on standard error."""


AS_JSON = {"Content-Type": "application/json"}


def test_it_asks_nothing_of_other_machines_and_ctrl_c_ends_it() -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    port = free_port()
    command = [sys.executable, "-c", WATCHED, "explore", "resnet20", "--port", str(port)]
    started = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+/", line)
        with urllib.request.urlopen(address, timeout=30) as page:
            assert b"precrop: resnet20" in page.read()
        for header in ({"Origin": "http://other.example"}, {"Host": "other.example"}):
            foreign = urllib.request.Request(f"{address}config", headers=header)
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(foreign, timeout=30)
        asked = json.dumps({"fn_index": 999, "data": ["\x1b[2J"]}).encode()
        wrong = urllib.request.Request(f"{address}gradio_api/run/predict", asked, headers=AS_JSON)
        with pytest.raises(urllib.error.HTTPError, match="500"):
            urllib.request.urlopen(wrong, timeout=30)
        started.send_signal(signal.SIGINT)
        assert started.wait(timeout=60) == 130
        _, errors = started.communicate()
        assert errors == "", "no traceback, no warning, no other machine"
    finally:
        started.kill()
