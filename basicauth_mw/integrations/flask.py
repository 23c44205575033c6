"""Flask: an extension that protects an app, configured from ``app.config``.

::

    auth = BasicAuth()

    def create_app() -> Flask:
        app = Flask(__name__)
        app.config["BASICAUTH_BACKEND"] = "sqlite:///keys.db"
        auth.init_app(app)
        return app
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from ..auth.discovery import EXTENSION, find_authenticator
from ..auth.frameworks import handle_refusals
from ..auth.request_adapters import PRINCIPAL
from ..errors import ConfigurationError
from ..keys.model import Principal
from ..keys.scopes import require_scopes
from ..wsgi import BasicAuthMiddleware
from ._common import check_scopes_arg, configuration, logger, require_framework

with require_framework("flask", "flask"):
    from flask import Flask, current_app, request
    from werkzeug.local import LocalProxy

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BasicAuth", "current_principal", "requires"]

P = ParamSpec("P")
R = TypeVar("R")


class BasicAuth:
    """Protects Flask apps, each with its own middleware.

    Settings are the ``BASICAUTH_*`` entries of ``app.config``, with environment variables as a fallback.

    Args:
        app: Passed to ``init_app``; None: call ``init_app`` yourself, as app factories do.
        backend: A URL, a ``Backend`` from ``open_backend``, or a store; None:
            ``app.config["BASICAUTH_BACKEND"]``.

    Raises:
        ConfigurationError: As for ``init_app``.
    """

    def __init__(self, app: Flask | None = None, backend: Any = None) -> None:
        self._backend = backend
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, backend: Any = None) -> None:
        """Protect an app: every view, every blueprint, static files and unknown paths.

        Args:
            app: The app, before its first request. The middleware replaces ``app.wsgi_app``; what wraps that
                later, such as ``ProxyFix``, runs outside the middleware.
            backend: Overrides the constructor's, which overrides the configuration's.

        Raises:
            ConfigurationError: The configuration is invalid, or the app already has ``BasicAuthMiddleware``.
        """
        if not isinstance(app, Flask):
            raise ConfigurationError("init_app() needs a Flask app; pass a backend as backend=...")
        if find_authenticator(app) is not None:
            raise ConfigurationError("this app already has BasicAuthMiddleware: call init_app() once")
        app._check_setup_finished("init_app")  # noqa: SLF001  # Flask's own error if the app has started
        backend = backend if backend is not None else self._backend
        configured, settings = configuration(app.config, "Flask", has_backend=backend is not None)
        if settings.timeout_s is not None:
            logger.warning(
                "BASICAUTH_TIMEOUT_S has no effect under Flask: configure the server's timeout instead"
            )
        backend = backend if backend is not None else configured
        middleware = BasicAuthMiddleware(app.wsgi_app, backend, settings=settings)
        middleware.entry = app  # cannot be found from an instrumented wsgi_app
        if settings.map_errors:  # for the same reason
            handle_refusals(app, middleware.refusal_response)
        app.wsgi_app = middleware  # type: ignore[method-assign]
        app.extensions[EXTENSION] = middleware


def _principal() -> Principal:
    environ = request.environ
    if PRINCIPAL not in environ:
        raise RuntimeError("BasicAuthMiddleware did not process this request: call BasicAuth().init_app(app)")
    principal: Principal | None = environ[PRINCIPAL]
    return Principal.anonymous() if principal is None else principal


class _CurrentPrincipal(LocalProxy[Principal]):
    """Makes ``help(current_principal)`` show its own documentation instead of LocalProxy's."""

    __slots__ = ()
    __name__ = "current_principal"

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return """The caller of the current request, a ``Principal``.

        On an open path, and on an optional path without a key, it is the anonymous principal, whose
        ``is_authenticated`` is False. Outside a request, and without the middleware, it raises RuntimeError.
        """


current_principal = cast("Principal", _CurrentPrincipal(_principal))


def requires(*scopes: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a view to require all ``scopes``; other callers get a 403. Put it below ``@app.route``.

    On an optional path, an anonymous caller gets a 401 with a challenge.

    Raises:
        ConfigurationError: There is no scope, or an invalid one.
    """
    required = check_scopes_arg(scopes)

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            require_scopes(_principal(), *required)
            return cast("R", current_app.ensure_sync(view)(*args, **kwargs))

        return guarded

    return decorate
