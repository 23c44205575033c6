"""The exceptions of this package, grouped by who can act on them.

::

    BasicAuthError
    ├── Rejected                   the caller can act; a 4xx response
    │   ├── MissingCredentials     401  missing_credentials
    │   ├── InvalidCredentials     401  invalid_credentials
    │   ├── MalformedCredentials   401  invalid_credentials
    │   ├── HttpsRequired          403  https_required
    │   ├── InsufficientScope      403  insufficient_scope
    │   └── Throttled              429  throttled
    ├── BackendError               the operator can act; requests are refused
    │   ├── BackendUnavailable     503  backend_unavailable
    │   │   └── UnreadableRecord   503  backend_unavailable
    │   ├── Overloaded             503  overloaded
    │   └── ReadOnlyBackend        key management only
    ├── KeyExists, KeyNotFound, KeyRevoked, InvalidKey (a ValueError)
    └── ConfigurationError         start-up only (a ValueError)
        └── MissingExtra           (also an ImportError)

``code`` is stable. ``status`` is the HTTP status of the response if a request handler raises the error, or
None if the error never becomes a response. ``detail`` is the only text that a client sees. The message
(``str(error)``) is for the operator and never contains a secret.
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
    """Base class of all exceptions of this package.

    Attributes:
        retry_after_s: Seconds to wait before a retry; None: unknown.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int | None] = None
    detail: str = "The server could not handle the request."
    retry_after_s: float | None = None


class Rejected(BasicAuthError):
    """The request was refused, and the caller can act on it. Only subclasses are raised."""


class MissingCredentials(Rejected):
    """The request has no credentials (RFC 9110 section 11.6.2)."""

    code = "missing_credentials"
    status = 401
    detail = "Send an API key: Authorization: Basic base64(client_id:client_secret)."


class InvalidCredentials(Rejected):
    """The key is unknown, expired, disabled or revoked, or the secret is wrong. Only the log says which."""

    code = "invalid_credentials"
    status = 401
    detail = "The credentials were not accepted."


class MalformedCredentials(Rejected):
    """The header is not a well-formed Basic credential (RFC 7617 section 2).

    A client cannot distinguish it from ``InvalidCredentials``.
    """

    code = InvalidCredentials.code
    status = InvalidCredentials.status
    detail = InvalidCredentials.detail


class HttpsRequired(Rejected):
    """The request was sent over plain HTTP, and ``require_https`` is on."""

    code = "https_required"
    status = 403
    detail = "Use HTTPS."


class InsufficientScope(Rejected):
    """The caller is authenticated but lacks a scope. Request handlers may raise it.

    Attributes:
        scopes: The missing scopes, sorted. The response names them, as only authenticated callers see it.
    """

    code = "insufficient_scope"
    status = 403
    detail = "The API key lacks a required scope."

    def __init__(self, message: str = "", *, scopes: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.scopes: tuple[str, ...] = (scopes,) if isinstance(scopes, str) else tuple(sorted(set(scopes)))


class Throttled(Rejected):
    """Too many failed attempts.

    Attributes:
        retry_after_s: Seconds until the next attempt is accepted; at least 1.
    """

    code = "throttled"
    status = 429
    detail = "Too many failed attempts. Try again later."

    def __init__(self, message: str = "", *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BackendError(BasicAuthError):
    """The key backend or a worker pool cannot serve; the operator can act."""

    retry_after_s = 2  # most outages and full queues end by themselves


class BackendUnavailable(BackendError):
    """The key backend cannot be reached. An unknown ID is not an error: a lookup returns None for it.

    Attributes:
        is_logged: Whether the store has logged the outage as an error.
    """

    is_logged = False
    code = "backend_unavailable"
    status = 503
    detail = "Credentials cannot be checked at the moment. Try again later."


class UnreadableRecord(BackendUnavailable):
    """A stored key is damaged, or has an unknown version or hash format.

    Attributes:
        client_id: ID of the key, if known.
    """

    def __init__(self, message: str = "", *, client_id: str | None = None) -> None:
        super().__init__(message)
        self.client_id = client_id


class Overloaded(BackendError):
    """All workers for password hashes are busy, and their queue is full."""

    code = "overloaded"
    status = 503
    detail = "Too many credentials are being checked at the moment. Try again later."


class ReadOnlyBackend(BackendError):
    """The backend is read-only, like ``env:``."""

    code = "read_only_backend"


class KeyExists(BasicAuthError):
    """A key with this client ID already exists."""

    code = "key_exists"


class KeyNotFound(BasicAuthError):
    """No key has this client ID."""

    code = "key_not_found"


class KeyRevoked(BasicAuthError):
    """The key is revoked, which is final."""

    code = "key_revoked"


class InvalidKey(BasicAuthError, ValueError):
    """A value is not allowed in a key or a credential."""

    code = "invalid_key"


class ConfigurationError(BasicAuthError, ValueError):
    """The configuration is invalid. The message names every problem and its remedy, and no secret.

    Attributes:
        problems: One sentence for each problem.
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
