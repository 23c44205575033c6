"""Flask: the gate as an extension, configured from ``app.config``.

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
from ..auth.flask_refusals import answer_refusals
from ..errors import ConfigurationError
from ..keys.model import Principal
from ..keys.scopes import require_scopes
from ..wsgi import PRINCIPAL, BasicAuthMiddleware
from ._common import configuration, logger, needed, needs

with needs("flask", "flask"):
    from flask import Flask, current_app, request
    from werkzeug.local import LocalProxy

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BasicAuth", "current_principal", "requires"]

P = ParamSpec("P")
R = TypeVar("R")


class BasicAuth:
    """Protects Flask apps, each by a gate of its own.

    The settings are the ``BASICAUTH_*`` entries of ``app.config``, then the variables of the environment.

    Args:
        app: Given to ``init_app``; None: call that yourself, as app factories do.
        backend: A URL, or what ``open_backend`` gives; None: ``app.config["BASICAUTH_BACKEND"]``.

    Raises:
        ConfigurationError: As ``init_app``.
    """

    def __init__(self, app: Flask | None = None, backend: Any = None) -> None:
        self._backend = backend
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, backend: Any = None) -> None:
        """Protect an app: every view, every blueprint, static files and unknown paths.

        Args:
            app: Before its first request. ``app.wsgi_app`` is replaced, so what is put round that later
                (``ProxyFix`` for one) stands round the gate.
            backend: Goes before the one given to the constructor, and before the configuration.

        Raises:
            ConfigurationError: The configuration cannot be used, or the app has a gate already.
        """
        if not isinstance(app, Flask):
            raise ConfigurationError("init_app is for a Flask app: a backend is given by name, backend=...")
        if find_authenticator(app) is not None:
            raise ConfigurationError("this app has a gate already: call init_app once, and add no other")
        app._check_setup_finished("init_app")  # noqa: SLF001  # Flask's own error if the app has started
        given = backend if backend is not None else self._backend
        configured, settings = configuration(app.config, "Flask", has_backend=given is not None)
        if settings.timeout_s is not None:
            logger.warning("BASICAUTH_TIMEOUT_S has no effect under Flask: set the server's own time limit")
        chosen = given if given is not None else configured
        middleware = BasicAuthMiddleware(app.wsgi_app, chosen, settings=settings)
        middleware.entry = app  # an instrumented wsgi_app does not lead to its app
        if settings.map_errors:  # once more, for the same reason
            answer_refusals(app, middleware.answer_refusal)
        app.wsgi_app = middleware  # type: ignore[method-assign]
        app.extensions[EXTENSION] = middleware


def _principal() -> Principal:
    environ = request.environ
    if PRINCIPAL not in environ:
        raise RuntimeError("no gate has seen this request: call BasicAuth().init_app(app)")
    principal: Principal | None = environ[PRINCIPAL]
    return Principal.anonymous() if principal is None else principal


current_principal = cast("Principal", LocalProxy(_principal))
"""Who is calling, while a request is served; on an excluded path the anonymous principal."""


def requires(*scopes: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let only callers with every one of ``scopes`` into a view; others get a 403. Below ``@app.route``.

    Raises:
        ConfigurationError: There is no scope, or one that no key can have.
    """
    wanted = needed(scopes)

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            require_scopes(_principal(), *wanted)
            return cast("R", current_app.ensure_sync(view)(*args, **kwargs))

        return guarded

    return decorate
