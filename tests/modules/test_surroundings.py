"""Full disks, signals, odd files: one line, and nothing half written stays behind."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from precrop.cli.app import main
from precrop.errors import PrecropError, one_line
from precrop.files import read_json, replacing, terminated_as_interrupted, write_text

Output = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[2]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "resnet20", "--params", "0.5", "-o", "p.json"],
        ["crop", "resnet20", "--params", "0.5"],
        ["densities", "resnet20", "--params", "0.5", "-o", "d.json"],
        ["export", "resnet20", "--format", "safetensors"],
        ["export", "resnet20", "--format", "pt2"],
    ],
    ids=" ".join,
)
def test_a_full_disk(words: list[str], capsys: Output) -> None:
    with full_disk(600):
        status = main(words)
    assert status == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "error:" in line] == lines[-1:]
    assert "cannot write" in lines[-1]
    assert "cannot write ." not in lines[-1]  # the temporary file's name
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(number: signal.Signals) -> None:
    """The answer is that to Ctrl-C: what was begun is removed.

    The child sleeps in short steps: a signal that arrives just before a sleep doesn't end it.
    """
    code = (
        "import time, sys\n"
        "from precrop.files import replacing, terminated_as_interrupted\n"
        "with terminated_as_interrupted(), replacing('x.json') as temporary:\n"
        "    temporary.write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    while True:\n"
        "        time.sleep(0.01)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert len(list(Path().iterdir())) == 1
        process.send_signal(number)
        assert process.wait(20) != 0
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_handler_of_others_stays(number: signal.Signals) -> None:
    seen: list[int] = []
    before = signal.signal(number, lambda number, frame: seen.append(number))
    try:
        with terminated_as_interrupted():
            os.kill(os.getpid(), number)
            time.sleep(0.01)
    finally:
        signal.signal(number, before)
    assert seen == [number]
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_no_device_is_replaced() -> None:
    with pytest.raises(PrecropError, match="it is not a plain file"), replacing("/dev/null"):
        pass
    os.mkfifo("pipe")
    with pytest.raises(PrecropError, match="it is not a plain file"):
        write_text("pipe", "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5000, "is not JSON"),
        ("{", "is not JSON"),
        ("\udcff", "is not text"),
    ],
)
def test_json_without_sense(text: str, message: str) -> None:
    Path("x.json").write_text(text, errors="surrogateescape")
    with pytest.raises(PrecropError, match=message):
        read_json(Path("x.json"))


@pytest.mark.parametrize("path", ["/dev/zero", "/", "pipe", "none"])
def test_what_is_no_plain_file(path: str) -> None:
    """One would read on for ever, or wait for ever."""
    os.mkfifo("pipe")
    with pytest.raises(PrecropError, match="cannot read"):
        read_json(Path(path))


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "resnet20", "--params", "0.5", "--divisor", "9" * 30],
        ["plan", "resnet20", "--params", "0.5", "--min-width", "9" * 30],
        ["plan", "resnet20", "--params", "0.5", "--input-shape", f"3,{'9' * 30},8"],
        ["plan", "resnet20", "--params", "9" * 5000],
        ["plan", "resnet20", "--memory", "0.5", "--batch-size", "9" * 30],
        ["plan", "x" * 300, "--params", "0.5"],
        ["plan", f"timm:{'x' * 100_000}", "--params", "0.5"],
        ["plan", "resnet20", "--params", "0.5", "-o", "x" * 300],
        ["show", "x" * 300],
        ["export", "x" * 300],
        ["eval", "x" * 300],
        ["report", "x" * 300],
        ["study", "show", "x" * 300],
    ],
    ids=lambda words: " ".join(words)[:50],
)
def test_what_is_too_large_or_too_long(words: list[str], capsys: Output) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("precrop: error: ")
    assert error.count("\n") == 1
    assert len(error) < 2100


def test_messages_are_one_short_printable_line() -> None:
    text = str(PrecropError("a\nb\x1b[2J" + "x" * 10_000))
    assert text.startswith("a b\\x1b[2Jxxx")
    assert len(text) == 2000
    assert text.isprintable()
    assert one_line("fine: über 5 ×") == "fine: über 5 ×"
