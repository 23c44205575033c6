"""Everything that is specific to a framework, by duck typing and never by import.

Some frameworks respond to an exception themselves. Starlette (and so FastAPI) sends a plain 500 and re-raises
the exception. Flask sends an HTML 500 and raises nothing, but sends a signal. Both responses are replaced by
the JSON problem, unless the app has its own handler.
"""

from __future__ import annotations

import sys
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final

from ..errors import BasicAuthError, Rejected
from .problems import is_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .problems import Response

# --- Starlette: ServerErrorMiddleware without debug and without a handler

_STARLETTE_BODY: Final = b"Internal Server Error"
_STARLETTE_HEADERS: Final = {
    b"content-length": str(len(_STARLETTE_BODY)).encode(),
    b"content-type": b"text/plain; charset=utf-8",
}


def is_starlette_500(start: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    """Whether two messages are exactly the response that Starlette sends before it re-raises an exception.

    Args:
        start: ``http.response.start``.
        body: The next message.
    """
    return (
        start["status"] == 500
        and body["type"] == "http.response.body"
        and body.get("body", b"") == _STARLETTE_BODY
        and not body.get("more_body", False)
        and not start.get("trailers", False)
        and {name.lower(): value for name, value in start.get("headers", ())} == _STARLETTE_HEADERS
    )


def handles_errors(app: object) -> bool:
    """Whether an app responds to exceptions itself: it has a handler for them, or is in debug mode."""
    handlers = getattr(app, "exception_handlers", None) or {}
    return 500 in handlers or Exception in handlers or getattr(app, "debug", False) is True


def own_root_path(app: object) -> str | None:
    """The mount point that a FastAPI app adds to each scope itself, or None."""
    for layer in iter_wrapped(app):
        # The root_path of a Quart app is something else: the directory of its module.
        path = getattr(layer, "root_path", None) if hasattr(layer, "root_path_in_servers") else None
        if isinstance(path, str) and path:
            return path
    return None


# --- apps inside wrappers

_MOST_LAYERS: Final = 100
WRAPPED_ATTRIBUTES: Final = (
    *("middleware_stack", "_middleware_chain", "wsgi_app", "asgi_app"),
    *("application", "app", "inner"),  # of test clients and wrappers around an app; Channels uses inner
    # Django's names come last: a Starlette layer has a handler as well as an app. Sentry keeps each Django
    # middleware in _inner, and the next one in get_response.
    *("handler", "_inner", "get_response", "func", "awaitable"),
)


def iter_wrapped(app: object, *, build: bool = False) -> Iterator[object]:
    """Iterate over an app, or a wrapper around one, and everything that it wraps, from the outside in.

    For middleware that Starlette has not built yet, yields the classes.

    Args:
        app: An app, middleware, or a test client of Django, Flask or Starlette.
        build: Whether to build the middleware that a framework would build at the first request.
    """
    layer: Any = app
    for _ in range(_MOST_LAYERS):
        yield layer
        if build:
            _build(layer)
        if getattr(layer, "middleware_stack", ...) is None:
            yield from (each.cls for each in getattr(layer, "user_middleware", ()))
        inner = (getattr(layer, name, None) for name in WRAPPED_ATTRIBUTES)
        layer = next((each for each in inner if each is not None), None)
        if layer is None:
            return


def _build(layer: Any) -> None:
    if getattr(layer, "middleware_stack", ...) is None:  # Starlette
        layer.middleware_stack = layer.build_middleware_stack()
    elif getattr(layer, "_middleware_chain", ...) is None:  # Django
        layer.load_middleware(is_async=iscoroutinefunction(type(layer).__call__))


def wraps_cors(app: object) -> bool:
    """Whether an app contains a ``CORSMiddleware`` of Starlette."""
    return any(
        getattr(each, "__name__", type(each).__name__) == "CORSMiddleware" for each in iter_wrapped(app)
    )


# --- Flask

_SEEN: Final = "basicauth_mw.flask_exceptions"
_watched: Any = None


def _on_exception(_sender: object, *, exception: Exception, **_more: object) -> None:
    # Kept in the environ: a view may send a request to another app, which has another environ.
    seen = sys.modules["flask"].request.environ.get(_SEEN)
    if seen is not None:
        seen.append(exception)


def flask_exceptions(environ: dict[str, Any]) -> Sequence[Exception]:
    """The list that will hold the exceptions that Flask responds to itself while it serves ``environ``."""
    global _watched  # one receiver for the process, for all wrapped apps
    flask = sys.modules.get("flask")
    if flask is None:
        return ()
    signal = getattr(flask, "got_request_exception", None)
    if signal is not None and _watched is not signal:
        signal.connect(_on_exception, weak=False)
        _watched = signal
    seen: list[Exception] = []
    environ[_SEEN] = seen
    return seen


def handle_refusals(app: object, respond: Callable[[dict[str, Any], Exception], Response]) -> None:
    """Let the Flask app that ``app`` wraps respond to a refusal, such as ``InsufficientScope``.

    If a refusal reached the middleware as an exception, Flask, Sentry and OpenTelemetry would report an
    error, although the response is a 403. An app that handles ``Rejected`` itself, or has started, is not
    changed. If it handles ``BasicAuthError``, that handler is called, although Flask prefers that of the
    nearest class.

    Args:
        app: The app, its ``wsgi_app``, or layers around it.
        respond: Makes the response from the environ and the exception.
    """
    for layer in iter_wrapped(app):
        found: Any = getattr(layer, "__self__", layer)  # the wsgi_app is a bound method
        spec = getattr(found, "error_handler_spec", None)
        if spec is not None and not getattr(found, "_got_first_request", True):
            spec[None][None].setdefault(Rejected, partial(_handle_refusal, respond))


def _handle_refusal(respond: Callable[[dict[str, Any], Exception], Response], exc: Exception) -> Any:
    flask = sys.modules["flask"]
    app, request = flask.current_app, flask.request
    for place in (*request.blueprints, None):
        if own := app.error_handler_spec[place][None].get(BasicAuthError):
            return app.ensure_sync(own)(exc)
    if not is_refusal(exc):
        raise exc
    response = respond(request.environ, exc)
    status = f"{response.status} {response.phrase}"  # Werkzeug would write the phrase in capitals
    return flask.Response(response.body, status, response.headers)


def is_werkzeug_500(status: str, headers: list[tuple[str, str]], first: bytes | None) -> bool:
    """Whether a response is exactly the one that Werkzeug makes of an unhandled exception.

    Args:
        status: As given to ``start_response``.
        headers: As given to it. An ``after_request`` hook may have added some.
        first: The first chunk of the body; None if there is none, as for HEAD.
    """
    error = getattr(sys.modules.get("werkzeug.exceptions"), "InternalServerError", None)
    if error is None or not status.startswith("500 "):
        return False
    body = error().get_body().encode()
    named = {name.lower(): value for name, value in headers}
    return (
        named.get("content-type") == "text/html; charset=utf-8"
        and named.get("content-length") == str(len(body))
        and first in (body, None)
    )


# --- websockets of WSGI apps

# Where a server exposes its socket: gunicorn, Werkzeug, eventlet, gevent-websocket, uWSGI.
_SOCKETS: Final = ("gunicorn.socket", "werkzeug.socket", "eventlet.input", "wsgi.websocket", "uwsgi.version")


def may_take_socket(environ: Mapping[str, Any]) -> bool:
    """Whether a request is a websocket handshake on a server that lets the app take the socket over.

    flask-sock, Flask-SocketIO and eventlet do that. They end differently on each server: they raise
    ``StopIteration`` or ``ConnectionError``, or return an empty list, an empty string, or an object that only
    the server knows.
    """
    if environ.get("HTTP_UPGRADE", "").lower() != "websocket":
        return False
    is_gevent = str(environ.get("SERVER_SOFTWARE", "")).startswith("gevent/")
    return is_gevent or any(name in environ for name in _SOCKETS)
