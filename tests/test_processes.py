"""What child processes and libraries are started with, and what is left of it."""

import os
import signal

import pytest

from precrop.processes import environment, uninterrupted


def test_variables_are_set_within_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECROP_ONE", "before")
    monkeypatch.delenv("PRECROP_TWO", raising=False)
    with environment({"PRECROP_ONE": "within", "PRECROP_TWO": "2"}):
        assert (os.environ["PRECROP_ONE"], os.environ["PRECROP_TWO"]) == ("within", "2")
    assert os.environ["PRECROP_ONE"] == "before"
    assert "PRECROP_TWO" not in os.environ


def test_two_threads_may_leave_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """As two do that load a library at once: neither fails, and the variable is gone."""
    monkeypatch.delenv("PRECROP_ONE", raising=False)
    first, second = environment({"PRECROP_ONE": "1"}), environment({"PRECROP_ONE": "1"})
    for entered in (first, second):
        entered.__enter__()
        os.environ.pop("PRECROP_ONE", None)  # neither saw the other's
    for left in (first, second):
        left.__exit__(None, None, None)
    assert "PRECROP_ONE" not in os.environ


def test_ctrl_c_waits_until_the_block_has_ended() -> None:
    reached = []

    def interrupted() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            reached.append("the end")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert reached == ["the end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
