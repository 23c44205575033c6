"""Has Flask answer a refusal that a handler raises, such as ``InsufficientScope``.

Flask would take it for an error on its way to the middleware, and so would Sentry and OpenTelemetry, although
the response is a 403.
"""

from __future__ import annotations

import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..errors import BasicAuthError, Rejected
from .frameworks import iter_wrapped
from .problems import is_refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from .problems import Response

    Respond = Callable[[dict[str, Any], Exception], Response]


def handle_refusals(app: object, respond: Respond) -> None:
    """Register a handler for ``Rejected`` with the Flask app that is found in ``app``.

    An app that has such a handler, or has started, is not changed. A handler for ``BasicAuthError`` is
    called in place of this one, although Flask looks for the handler of the nearest class.

    Args:
        app: The app, its ``wsgi_app``, or layers around it.
        respond: Makes the response, from the environ and the exception.
    """
    for layer in iter_wrapped(app):
        found: Any = getattr(layer, "__self__", layer)  # the wsgi_app is a bound method
        spec = getattr(found, "error_handler_spec", None)
        if spec is not None and not getattr(found, "_got_first_request", True):
            spec[None][None].setdefault(Rejected, _Handler(respond))


class _Handler:
    """Args: as for ``handle_refusals``."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    def __call__(self, exc: Exception) -> Any:
        flask = sys.modules["flask"]  # imported by the app, and not by this package
        app, request = flask.current_app, flask.request
        for place in (*request.blueprints, None):
            if own := app.error_handler_spec[place][None].get(BasicAuthError):
                return app.ensure_sync(own)(exc)
        if not is_refusal(exc):
            raise exc
        answer = self._respond(request.environ, exc)
        status = f"{answer.status} {HTTPStatus(answer.status).phrase}"  # Werkzeug's own is in capitals
        return flask.Response(answer.body, status, answer.headers)
