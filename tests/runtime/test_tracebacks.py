"""Functions whose exceptions lose their frames."""

from __future__ import annotations

from traceback import extract_tb

import pytest

from basicauth_mw.errors import ConfigurationError, MissingExtra
from basicauth_mw.runtime.tracebacks import without_frames
from tests.tracebacks import variables_of


@without_frames
def fail(secret: str, *, error: Exception) -> None:
    """Fails."""
    try:
        int(secret)
    except ValueError as exc:
        raise error from exc


@pytest.mark.parametrize("error", [ConfigurationError("no number"), MissingExtra("number", "numbers")])
def test_no_frame_holds_an_argument(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        fail("canary", error=error)
    assert caught.value is error
    assert "fail" not in [frame.name for frame in extract_tb(error.__traceback__)]
    assert "canary" not in variables_of(error, but=__file__)
    assert error.__cause__ is error.__context__ is None


def test_other_exceptions_keep_their_traceback() -> None:
    """They are errors of this package, which have to be found."""
    with pytest.raises(OSError, match="x") as caught:
        fail("canary", error=OSError("x"))
    assert isinstance(caught.value.__cause__, ValueError)
    assert "fail" in [frame.name for frame in extract_tb(caught.value.__traceback__)]


def test_the_decorated_function_is_described() -> None:
    assert (fail.__name__, fail.__doc__) == ("fail", "Fails.")
