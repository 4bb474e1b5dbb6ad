"""Errors of other people's code and files as one line of ours."""

import pytest

from precrop.errors import (
    MALFORMED,
    BudgetError,
    PrecropError,
    errors_as,
    reason,
    typed_reason,
    within,
)


@pytest.mark.parametrize(
    ("error", "plain", "typed"),
    [
        (OSError(13, "No right"), "No right", "PermissionError: No right"),
        (ValueError("  wrong\n  twice"), "wrong twice", "ValueError: wrong twice"),
        (AssertionError(), "AssertionError", "AssertionError"),
        (KeyError("lr"), "'lr'", "KeyError: 'lr'"),
    ],
)
def test_a_reason_is_one_line_and_never_empty(error: Exception, plain: str, typed: str) -> None:
    assert (reason(error), typed_reason(error)) == (
        plain,
        typed.replace("OSError", type(error).__name__),
    )


def test_a_reason_of_any_length_is_cut() -> None:
    assert len(reason(ValueError("x" * 10**6))) == 300


def test_errors_of_the_named_kinds_become_ours_and_others_pass() -> None:
    ours = pytest.raises(PrecropError, match="^cannot read x: 'lr'$")
    with ours as raised, errors_as("cannot read x", LookupError):
        raise KeyError("lr")
    assert isinstance(raised.value.__cause__, KeyError)
    with pytest.raises(ZeroDivisionError), errors_as("cannot read x", LookupError):
        raise ZeroDivisionError
    ours = pytest.raises(PrecropError, match="^cannot read x: ZeroDivisionError$")
    with ours, errors_as("cannot read x", *MALFORMED):
        raise ZeroDivisionError


def test_a_line_of_ours_passes_unchanged_although_it_is_a_value_error() -> None:
    with pytest.raises(BudgetError, match="^too small$"), errors_as("cannot plan", ValueError):
        raise BudgetError("too small")


def test_a_place_comes_first_and_the_kind_of_error_stays() -> None:
    ours = pytest.raises(BudgetError, match=r"^study\.yaml: seed 0: too small$")
    with ours, within("study.yaml"), within("seed 0"):
        raise BudgetError("too small")
