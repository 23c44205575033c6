"""Keeps secrets in the arguments of a function out of tracebacks."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ..errors import BasicAuthError

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


def without_frames(function: Callable[P, T]) -> Callable[P, T]:
    """Raise the exceptions of this package without the frames of a function and of what it calls.

    Error monitors record the variables of every frame, and those of an exception's cause and context. The
    message of an exception of this package never contains a secret, and says what to do without them.
    """

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except BasicAuthError as exc:
            error = exc.with_traceback(None)
        error.__cause__ = error.__context__ = None
        del args, kwargs
        raise error

    return wrapper
