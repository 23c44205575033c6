"""Explains the errors of libpq and of Postgres."""

from __future__ import annotations

import re
from typing import Final

from ...errors import BackendError, BackendUnavailable, ReadOnlyBackend


class ConnectionFailed(Exception):
    """The server cannot be reached, or the connection broke; the text names the server and the cause."""


class StatementFailed(Exception):
    """The server refused a statement.

    Attributes:
        sqlstate: Its error code (Postgres, Appendix A).
    """

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


_IS_STANDBY: Final = (
    "is a standby, but keys are read from the primary: name the primary, or all servers, in the URL"
)

# Matched in this order against the messages of libpq, Postgres and pgbouncer, which are not passed on.
_CONNECTING: Final = [
    (re.compile(pattern, re.IGNORECASE), reason)
    for pattern, reason in {
        r"connection refused": "cannot be reached: the connection was refused",
        r"no such file|is the server running locally": "cannot be reached: there is no such socket",
        r"translate host name": "cannot be reached: its host name cannot be resolved",
        r"certificate file .* does not exist|could not (?:load|read) |private key file": (
            "cannot be reached: a file that sslrootcert, sslcert or sslkey names cannot be used"
        ),
        r"certificate .*does not match host name": (
            "cannot be reached: its TLS certificate is for another host name"
        ),
        r"certificate has expired": "cannot be reached: its TLS certificate has expired",
        r"certificate verify failed|self.signed": (
            "cannot be reached: the CA of its TLS certificate is unknown, or the certificate has expired: "
            "name the CA by sslrootcert"
        ),
        r"does not support SSL": "cannot be reached: it does not speak TLS, which sslmode requires",
        r"SSL error|SSL SYSCALL|SSL negotiation|tlsv1": "cannot be reached: the TLS handshake failed",
        r"no encryption|SSL off|SSL required|TLS required": "requires TLS: set sslmode=require",
        r"password|authentication|pg_hba|role .* does not exist|no such user": (
            "refused the user or the password: check the backend URL and pg_hba.conf"
        ),
        r"too many|connection slots|no more connections": "has no free connection: see max_connections",
        r"database .* does not exist|no such database": "has no such database",
        r"starting up|shutting down|recovery mode|not yet accepting|consistent": (
            "is starting or shutting down"
        ),
        r"standby|read-only|not writable": _IS_STANDBY,
    }.items()
]
_BROKEN: Final = "cannot be reached: the connection broke"
TIMED_OUT: Final = "did not respond in time"

UNSUPPORTED_OPTION: Final = "unsupported startup parameter"  # pgbouncer
NO_SUCH_TABLE: Final = frozenset({"42P01", "3F000"})
_DENIED: Final = "42501"
READ_ONLY: Final = "25006"
_CANCELED: Final = frozenset({"57014", "55P03", "25P03"})


def explain_connecting(message: str) -> str:
    """Why a connection failed, without any text that may hold a password."""
    return next((reason for pattern, reason in _CONNECTING if pattern.search(message)), _BROKEN)


def translate_error(exc: Exception, server: str, schema: str, *, writing: bool = False) -> BackendError:
    """A new exception that names the server, the cause, and the remedy if it is known.

    Args:
        exc: What was raised.
        server: The server, with host and port.
        schema: The schema of the tables.
        writing: Whether a key was to be changed.
    """
    match exc:
        case BackendError():
            return type(exc)(str(exc))
        case ConnectionFailed():
            return BackendUnavailable(str(exc))
        case TimeoutError():
            return BackendUnavailable(f"{server} {TIMED_OUT}")
        case StatementFailed(sqlstate=code) if code in NO_SUCH_TABLE:
            return BackendUnavailable(
                f"{server} has no tables of keys in the schema {schema}:  basicauth-mw keys create"
            )
        case StatementFailed(sqlstate=code) if code == READ_ONLY and not writing:
            return BackendUnavailable(f"{server} {_IS_STANDBY}")
        case StatementFailed(sqlstate=code) if code == READ_ONLY or (code == _DENIED and writing):
            return ReadOnlyBackend(f"{server} does not allow this user to change keys: check the grants")
        case StatementFailed(sqlstate=code) if code == _DENIED:
            return BackendUnavailable(f"{server} does not allow this user to read keys: check the grants")
        case StatementFailed(sqlstate=code) if code in _CANCELED:
            return BackendUnavailable(f"{server} {TIMED_OUT}")
        case StatementFailed(sqlstate=code):
            return BackendUnavailable(f"{server} replied with an error (SQLSTATE {code})")
        case _:
            return BackendUnavailable(f"{server} cannot be used ({type(exc).__name__})")
