"""WSGI middleware (PEP 3333), for Flask, Django, Bottle, Pyramid, or any other app."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from .auth.authenticator import Authenticator
from .auth.discovery import entry_of, open_layers
from .auth.frameworks import flask_exceptions, handle_refusals, may_take_socket
from .auth.request_adapters import PRINCIPAL, WSGIRequest, environ_key
from .auth.schemes import BASIC_ONLY, auth_type
from .auth.verifier import PendingVerification
from .keys.model import ANONYMOUS, Principal
from .responses.wsgi_guard import FileWrapper, WSGIResponseGuard, captured_request, send_response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Unpack

    from .auth.problems import Response
    from .auth.request_adapters import Environ
    from .responses.wsgi_guard import StartResponse
    from .settings import Overrides, Settings

    App = Callable[[Environ, StartResponse], Iterable[bytes]]

__all__ = ["BasicAuthMiddleware"]

logger = logging.getLogger("basicauth_mw")

_CAPTURED: Final = "basicauth_mw.captured"


class BasicAuthMiddleware:
    """Let requests with a valid API key through to a WSGI app, and respond to all others.

    The app finds the caller in ``environ``: ``REMOTE_USER``, ``AUTH_TYPE``, and the ``Principal`` as
    ``basicauth_mw.principal``, which is None for an anonymous caller. With ``set_user`` off, the first two
    are not changed.

    An exception that the app raises before the first byte of its body becomes a JSON problem (RFC 9457). It
    is logged with its traceback.

    ::

        app.wsgi_app = BasicAuthMiddleware(app.wsgi_app, "sqlite:///keys.db", exclude=["/health"])

    Args:
        app: The app to protect; for Flask its ``wsgi_app``.
        backend: Where the keys are: a URL, a ``Backend`` from ``open_backend``, or an object with ``get`` or
            ``aget``. None means ``settings.backend``.
        settings: None means ``Settings.from_env()``.
        **overrides: Any field of ``Settings``. Times are in seconds. ``timeout_s`` has no effect, as a thread
            cannot be stopped.

    Raises:
        ConfigurationError: The settings cannot be used. It names every problem, and no secret.

    Attributes:
        entry: The Flask app whose ``wsgi_app`` leads here, until the first request has looked for unprotected
            layers outside; for integrations.
    """

    def __init__(
        self,
        app: App,
        backend: Any = None,
        *,
        settings: Settings | None = None,
        **overrides: Unpack[Overrides],
    ) -> None:
        self.app = app
        self._authenticator: Authenticator[Environ] = Authenticator(
            WSGIRequest(), backend, settings, overrides
        )
        used = self._authenticator.settings
        headers = self._authenticator.credential_headers if used.strip_authorization else ()
        self._stripped = tuple(map(environ_key, headers))
        self._maps_errors = used.map_errors
        self._sets_user = used.set_user
        self._basic_only = used.schemes == BASIC_ONLY
        self.entry = entry_of(app)
        if self._maps_errors:
            handle_refusals(app, self.refusal_response)

    @property
    def authenticator(self) -> Authenticator[Environ]:
        """Decides on requests; for integrations."""
        return self._authenticator

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        authenticator = self._authenticator
        if self.entry is not None:
            self._warn_about_open_layers()
        decision = authenticator.decide(environ)
        if type(decision) is not Principal:
            if isinstance(decision, PendingVerification):
                decision = authenticator.verify(decision)
            if not isinstance(decision, Principal):
                self._remove_identity(environ)
                return send_response(
                    environ, start_response, authenticator.refusal_response(environ, decision)
                )
        # The environ is updated in place, so that layers outside, such as an access log, see the caller.
        if decision is ANONYMOUS:
            self._remove_identity(environ)
            environ[PRINCIPAL] = None
        else:
            environ[PRINCIPAL] = decision
            if self._sets_user:
                user = decision.client_id
                environ["REMOTE_USER"] = user if user.isascii() else user.encode().decode("latin-1")
                environ["AUTH_TYPE"] = (
                    "Basic" if self._basic_only else auth_type(authenticator.scheme(environ))
                )
        for key in self._stripped:
            environ.pop(key, None)
        # Error monitors record the local variables of each frame that an exception passes. So no frame of
        # this package holds the environ, with the credential in it: what is popped as an argument is no local
        # variable.
        given = [environ]
        if not self._maps_errors:
            del environ
            return self.app(given.pop(), start_response)
        read = environ.get
        captured = environ[_CAPTURED] = (  # the app may change what error responses read
            read("REQUEST_METHOD"),
            read("REMOTE_ADDR"),
            read("HTTP_X_REQUEST_ID"),
            read("HTTP_SEC_FETCH_MODE"),
        )
        file_wrapper = read("wsgi.file_wrapper")
        if file_wrapper is not None and not isinstance(file_wrapper, type):
            file_wrapper = environ["wsgi.file_wrapper"] = FileWrapper(file_wrapper)
        takes_socket = "HTTP_UPGRADE" in environ and may_take_socket(environ)
        on_gunicorn = "gunicorn.socket" in environ
        server = read("SERVER_SOFTWARE", "")
        origin = (authenticator, captured, decision.client_id)
        guard = WSGIResponseGuard(start_response, origin, flask_exceptions(environ), takes_socket)
        del environ, read
        try:
            result = self.app(given.pop(), guard.start_response)
        except Exception as exc:
            # gunicorn takes a StopIteration for the end of a websocket.
            if guard.is_too_late(exc) or guard.was_reported(exc):
                raise
            if on_gunicorn and isinstance(exc, StopIteration):
                raise
            return guard.replace(exc)
        return guard.guard(result, file_wrapper, server)

    def refusal_response(self, environ: Environ, exc: Exception) -> Response:
        """The response to a refusal that the app raises; for integrations."""
        principal = environ.get(PRINCIPAL)
        client_id = None if principal is None else principal.client_id
        request = captured_request(environ[_CAPTURED]) if _CAPTURED in environ else environ
        return self._authenticator.exception_response(request, exc, client_id=client_id, log_traceback=False)

    def _remove_identity(self, environ: Environ) -> None:
        environ.pop(PRINCIPAL, None)
        if self._sets_user:
            environ.pop("REMOTE_USER", None)
            environ.pop("AUTH_TYPE", None)

    def _warn_about_open_layers(self) -> None:
        entry, self.entry = self.entry, None
        for name in open_layers(entry, self):
            logger.warning(
                "%s is outside BasicAuthMiddleware, so the paths that it serves need no key: wrap "
                "app.wsgi_app, or call init_app of BasicAuth, after it is added",
                name,
            )
