"""Everything this package raises, sorted by who can do something about it.

::

    BasicAuthError
    ├── Rejected                   the caller can act; a 4xx answer
    │   ├── MissingCredentials     401  missing_credentials
    │   ├── InvalidCredentials     401  invalid_credentials
    │   ├── MalformedCredentials   401  invalid_credentials
    │   ├── HttpsRequired          403  https_required
    │   ├── InsufficientScope      403  insufficient_scope
    │   └── Throttled              429  throttled
    ├── BackendError               the operator can act; the gate stays shut
    │   ├── BackendUnavailable     503  backend_unavailable
    │   │   └── UnreadableRecord   503  backend_unavailable
    │   ├── Overloaded             503  overloaded
    │   └── ReadOnlyBackend        key management only
    ├── KeyExists, KeyNotFound, KeyRevoked, InvalidKey (a ValueError)
    └── ConfigurationError         start-up only (a ValueError)
        └── MissingExtra           (also an ImportError)

``code`` is stable and may be relied on; ``status`` is the HTTP status that a handler gets by raising
the error, or None where an error never becomes an answer of its own; ``detail`` is the only text that
a client ever sees. The message (``str(error)``) is for the operator and never holds a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "BasicAuthError",
    "Rejected",
    "MissingCredentials",
    "MalformedCredentials",
    "InvalidCredentials",
    "HttpsRequired",
    "InsufficientScope",
    "Throttled",
    "BackendError",
    "BackendUnavailable",
    "UnreadableRecord",
    "Overloaded",
    "ReadOnlyBackend",
    "KeyExists",
    "KeyNotFound",
    "KeyRevoked",
    "InvalidKey",
    "ConfigurationError",
    "MissingExtra",
]


class BasicAuthError(Exception):
    """Root of everything that this package raises.

    Attributes:
        retry_after_s: Seconds after which another try may do better; None: nothing is known of that.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int | None] = None
    detail: ClassVar[str] = "The server could not handle the request."
    retry_after_s: float | None = None


class Rejected(BasicAuthError):
    """The request was refused; the caller can act on it. Raised as one of its subclasses."""


class MissingCredentials(Rejected):
    """The request carries no Authorization field (RFC 9110 section 11.6.2)."""

    code = "missing_credentials"
    status = 401
    detail = "Send an API key: Authorization: Basic base64(client_id:client_secret)."


class InvalidCredentials(Rejected):
    """Unknown id, wrong secret, expired, disabled, revoked: one public face, the reason goes to the log."""

    code = "invalid_credentials"
    status = 401
    detail = "The credentials were not accepted."


class MalformedCredentials(Rejected):
    """Not one well-formed Basic credential (RFC 7617 section 2). To the client it is InvalidCredentials."""

    code = InvalidCredentials.code
    status = InvalidCredentials.status
    detail = InvalidCredentials.detail


class HttpsRequired(Rejected):
    """The request came by plain http and ``require_https`` is on."""

    code = "https_required"
    status = 403
    detail = "Use https."


class InsufficientScope(Rejected):
    """The caller is known but lacks a scope. A handler may raise it; the response carries no challenge.

    Attributes:
        scopes: Those that are missing, sorted. The response names them: only a caller with a key sees it.
    """

    code = "insufficient_scope"
    status = 403
    detail = "The API key lacks a required scope."

    def __init__(self, message: str = "", *, scopes: Iterable[str] = ()) -> None:
        super().__init__(message)
        named = {scopes} if isinstance(scopes, str) else set(scopes)
        self.scopes: tuple[str, ...] = tuple(sorted(named))


class Throttled(Rejected):
    """Too many failures.

    Attributes:
        retry_after_s: Seconds until another try is looked at; at least 1.
    """

    code = "throttled"
    status = 429
    detail = "Too many failed attempts. Try again later."

    def __init__(self, message: str = "", *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BackendError(BasicAuthError):
    """The key backend, or the work behind it, cannot serve; the operator can act."""

    retry_after_s = 2  # it heals by itself as a rule: a store that is back, a queue that is shorter


class BackendUnavailable(BackendError):
    """The backend cannot be asked. Never means "no": an unknown id is None, not an error."""

    code = "backend_unavailable"
    status = 503
    detail = "Credentials cannot be checked at the moment. Try again later."


class UnreadableRecord(BackendUnavailable):
    """One record is damaged, of an unknown version, or hashed in a way that is not known here.

    Attributes:
        client_id: Whose, if that can be told.
    """

    def __init__(self, message: str = "", *, client_id: str | None = None) -> None:
        super().__init__(message)
        self.client_id = client_id


class Overloaded(BackendError):
    """Every worker for slow password hashes is busy and the queue before them is full."""

    code = "overloaded"
    status = 503
    detail = "Too many credentials are being checked at the moment. Try again later."


class ReadOnlyBackend(BackendError):
    """The backend cannot be written to, ``env:`` for one."""

    code = "read_only_backend"


class KeyExists(BasicAuthError):
    """A key with this client id exists already."""

    code = "key_exists"


class KeyNotFound(BasicAuthError):
    """No key has this client id."""

    code = "key_not_found"


class KeyRevoked(BasicAuthError):
    """The key was revoked, which is final."""

    code = "key_revoked"


class InvalidKey(BasicAuthError, ValueError):
    """A field of a key, or of a credential to be encoded, is not allowed."""

    code = "invalid_key"


class ConfigurationError(BasicAuthError, ValueError):
    """The configuration cannot be used; says everything that is wrong and what to do, and no secret.

    Attributes:
        problems: One sentence a problem, in the order found.
    """

    code = "configuration_error"

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        lines = [f"{len(self.problems)} problems:", *self.problems]
        super().__init__(self.problems[0] if len(self.problems) == 1 else "\n  ".join(lines))


class MissingExtra(ConfigurationError, ImportError):
    """An optional dependency is not installed."""

    code = "missing_extra"

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is not installed: run  pip install 'basicauth_mw[{extra}]'")
        self.module = module
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return type(self), (self.module, self.extra)
