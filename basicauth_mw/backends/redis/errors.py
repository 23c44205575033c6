"""Translates the errors of Redis and of redis-py, without their texts, which may hold a password."""

from __future__ import annotations

import re
import socket
import ssl
from typing import TYPE_CHECKING, Final

from ...errors import BackendUnavailable, UnreadableRecord
from ...runtime.extras import require

if TYPE_CHECKING:
    from collections.abc import Iterator

exceptions = require("redis.exceptions", extra="redis")
MasterNotFoundError = require("redis.sentinel", extra="redis").MasterNotFoundError

# Within the text, since a script's error has more before it.
_ERROR_CODE = re.compile(
    r"\b(BUSY|CLUSTERDOWN|CROSSSLOT|LOADING|MASTERDOWN|MISCONF|MOVED|NOREPLICAS|OOM|READONLY|WRONGTYPE)\b"
)
_DENIED_IN_A_SCRIPT = re.compile(r"user executing the script can't|ACL failure in script")  # 6.2; 7.0 and up
_REFUSED: Final = (exceptions.AuthenticationError, exceptions.AuthorizationError)
_NO_TLS: Final = "cannot be reached: the TLS handshake failed: does this port speak TLS?"

# Result codes of X509_verify_cert (OpenSSL, x509_vfy.h).
_HAS_EXPIRED: Final = 10
_OTHER_NAME: Final = (62, 64)


def is_split(reply: object) -> bool:
    """Whether a cluster refused a command because not all its keys are on one node at the moment."""
    return isinstance(reply, exceptions.ClusterCrossSlotError | exceptions.TryAgainError)


def is_denied(reply: object) -> bool:
    """Whether Redis refused a command because the user may not run it on these names."""
    return isinstance(reply, exceptions.NoPermissionError) or (
        isinstance(reply, exceptions.ResponseError) and _DENIED_IN_A_SCRIPT.search(str(reply)) is not None
    )


def is_wrong_type(reply: object) -> bool:
    """Whether Redis refused a command because there is a value of another type."""
    return isinstance(reply, exceptions.ResponseError) and "WRONGTYPE" in str(reply)


def translate_error(exc: BaseException, server: str, name: bytes = b"") -> BackendUnavailable:
    """Name the server, the cause, and the remedy if it is known.

    Args:
        exc: What redis-py raised or returned.
        server: The server, with host and port.
        name: The name in Redis that the command was about, if known.
    """
    match exc:
        case BackendUnavailable():
            return type(exc)(str(exc))
        case _ if is_denied(exc) or isinstance(exc, _REFUSED):
            text = f"{server} refused the user or the password: check the backend URL and the ACL"
        case _ if is_wrong_type(exc):
            where = name.decode(errors="replace") or "one of our names"
            return UnreadableRecord(f"the value of {where} in Redis has another type")
        case exceptions.AskError():  # of which MovedError is a subclass
            text = f"{server} is a node of a cluster, whose URL begins with redis+cluster://"
        case exceptions.ResponseError() | exceptions.BusyLoadingError():
            # redis-py moves the codes that it knows from the text to this attribute.
            found = _ERROR_CODE.search(f"{exc.status_code} {exc}")
            text = f"{server} replied with an error ({found[0] if found else type(exc).__name__})"
        case _:
            text = f"{server} {_connection_trouble(exc)}"
    return BackendUnavailable(text)


def _connection_trouble(exc: BaseException) -> str:
    causes = list(_causes(exc))
    if any(isinstance(each, OSError) and "handshake" in str(each) for each in causes):
        return _NO_TLS  # it timed out: a server without TLS waits for more, too
    for each in causes:
        match each:
            case ssl.SSLCertVerificationError():
                if each.verify_code in _OTHER_NAME:
                    return "cannot be reached: its TLS certificate is for another host name"
                if each.verify_code == _HAS_EXPIRED:
                    return "cannot be reached: its TLS certificate has expired"
                return "cannot be reached: the CA of its TLS certificate is unknown: name it by ssl_ca_certs"
            case ssl.SSLError():
                return _NO_TLS
            case ConnectionRefusedError():
                return "cannot be reached: the connection was refused"
            case socket.gaierror():
                return "cannot be reached: its host name cannot be resolved"
            case MasterNotFoundError():
                return "know no master that can be used: check that they are up, and the name of the master"
            case exceptions.TimeoutError() | TimeoutError():
                return "did not respond in time"
            case FileNotFoundError() | PermissionError():
                return f"cannot be reached: its socket cannot be opened ({type(each).__name__})"
    return (
        f"cannot be reached: the connection broke ({type(exc).__name__}); if the port expects TLS, "
        "use a scheme that begins with rediss"
    )


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__
