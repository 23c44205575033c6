"""What the errors of Redis and of redis-py mean."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from .._extras import require
from ..errors import BackendUnavailable

_errors = require("redis.exceptions", extra="redis")

# Within the text, since a script's error has more before it.
_ERROR_CODE = re.compile(
    r"\b(BUSY|CLUSTERDOWN|CROSSSLOT|LOADING|MASTERDOWN|MISCONF|MOVED|NOREPLICAS|OOM|READONLY|WRONGTYPE)\b"
)

_REDIRECTION = re.compile(r"(?:(MOVED|ASK) )?\d+ (.*):(\d{1,5})")
_KINDS = {
    "NOAUTH": _errors.AuthenticationError,
    "NOPERM": _errors.NoPermissionError,
    "WRONGPASS": _errors.AuthenticationError,
}
_REFUSED = "Redis refuses the user or its password: check the backend URL and the ACL"
_REFUSED_IN_A_SCRIPT = re.compile(r"user executing the script can't|ACL failure in script")  # 6.2; 7.0 and up


def error_reply(text: str) -> Exception:
    """The error that a reply's text tells of; one of redis-py where it matters which."""
    kind = _KINDS.get(text.partition(" ")[0], _errors.ResponseError)
    error: Exception = kind(text)
    return error


def is_of_a_replica(reply: Any) -> bool:
    """Whether only a replica answers like that."""
    if isinstance(reply, _errors.ReadOnlyError | _errors.MasterDownError):
        return True
    # Out of a script, or not told apart by this release of redis-py.
    return isinstance(reply, _errors.ResponseError) and _code(reply) in ("READONLY", "MASTERDOWN")


class Redirection(NamedTuple):
    """Where a node of a cluster says that a key is.

    Attributes:
        host: Empty: that of the node.
        port: On it.
        once: For this question only (ASK); else from now on (MOVED).
    """

    host: str
    port: int
    once: bool


def redirection(reply: Any) -> Redirection | None:
    """What a reply says of another node; None: nothing."""
    if not isinstance(reply, _errors.ResponseError):
        return None
    # Later releases of redis-py take the first word off, and make it the class.
    found = _REDIRECTION.fullmatch(str(reply))
    if found is None:
        return None
    word = found[1] or ("MOVED" if isinstance(reply, _errors.MovedError) else "ASK")
    return Redirection(found[2], int(found[3]), word == "ASK")


def _code(error: Exception) -> str:
    found = _ERROR_CODE.search(str(error))
    return found[0] if found else type(error).__name__


def unavailable(exc: BaseException) -> BackendUnavailable:
    """Say what went wrong without the driver's text, which may hold anything."""
    name = type(exc).__name__
    match exc:
        case BackendUnavailable():
            return type(exc)(str(exc))
        case _errors.AuthenticationError() | _errors.AuthorizationError() | _errors.NoPermissionError():
            text = _REFUSED
        case _errors.ResponseError() if _REFUSED_IN_A_SCRIPT.search(str(exc)):
            text = _REFUSED
        case _errors.TimeoutError() | TimeoutError():
            text = "Redis did not answer in time"
        case _errors.ResponseError() if redirection(exc):
            text = "Redis sends us to another node of a cluster, whose URL begins with redis+cluster://"
        case _errors.ResponseError():
            text = f"Redis answered with an error ({_code(exc)})"
        case _:
            text = f"Redis cannot be reached ({name})"
    return BackendUnavailable(text)
