"""Make Flask respond to a refusal that a view raises, such as ``InsufficientScope``.

If it reached the middleware as an exception, Flask, Sentry and OpenTelemetry would report an error, although
the response is a 403.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import BasicAuthError, Rejected
from .frameworks import iter_wrapped
from .problems import is_refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from .problems import Response

    Respond = Callable[[dict[str, Any], Exception], Response]


def handle_refusals(app: object, respond: Respond) -> None:
    """Register a handler for ``Rejected`` with the Flask app that ``app`` wraps.

    An app that has such a handler, or has started, is not changed. If the app has a handler for
    ``BasicAuthError``, that one is called instead, although Flask prefers the handler of the nearest class.

    Args:
        app: The app, its ``wsgi_app``, or layers around it.
        respond: Makes the response from the environ and the exception.
    """
    for layer in iter_wrapped(app):
        found: Any = getattr(layer, "__self__", layer)  # the wsgi_app is a bound method
        spec = getattr(found, "error_handler_spec", None)
        if spec is not None and not getattr(found, "_got_first_request", True):
            spec[None][None].setdefault(Rejected, partial(_handle, respond))


def _handle(respond: Respond, exc: Exception) -> Any:
    flask = sys.modules["flask"]  # imported by the app, and not by this package
    app, request = flask.current_app, flask.request
    for place in (*request.blueprints, None):
        if own := app.error_handler_spec[place][None].get(BasicAuthError):
            return app.ensure_sync(own)(exc)
    if not is_refusal(exc):
        raise exc
    response = respond(request.environ, exc)
    status = f"{response.status} {response.phrase}"  # Werkzeug would write the phrase in capitals
    return flask.Response(response.body, status, response.headers)
