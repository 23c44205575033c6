"""WSGI layers that serve requests themselves: protected inside the middleware, reported outside it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import socketio
from flask import Flask
from flask_socketio import SocketIO
from starlette.applications import Starlette
from werkzeug.debug import DebuggedApplication
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.middleware.shared_data import SharedDataMiddleware
from whitenoise import WhiteNoise

from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.dashboard import wsgi_dashboard
from basicauth_mw.integrations.flask import BasicAuth
from basicauth_mw.settings import Settings
from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIMiddleware
from tests.asgi import helpers as asgi_helpers
from tests.wsgi import helpers as wsgi_helpers

if TYPE_CHECKING:
    from basicauth_mw import Backend, Issued

HANDSHAKE = "EIO=4&transport=polling"


def add_socketio(app: Flask) -> None:
    SocketIO(app, async_mode="threading")


def add_dispatcher(app: Flask) -> None:
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/socket.io": Flask("inner").wsgi_app})  # type: ignore[method-assign]


def add_files(app: Flask) -> None:
    app.wsgi_app = SharedDataMiddleware(app.wsgi_app, {"/socket.io": str(Path(__file__).parent)})  # type: ignore[method-assign]


def add_whitenoise(app: Flask) -> None:
    app.wsgi_app = WhiteNoise(app.wsgi_app)  # type: ignore[method-assign]


def add_debugger(app: Flask) -> None:
    app.wsgi_app = DebuggedApplication(app.wsgi_app, evalex=True)  # type: ignore[method-assign]


LAYERS = [
    (add_socketio, "_SocketIOMiddleware"),
    (add_dispatcher, "DispatcherMiddleware"),
    (add_files, "SharedDataMiddleware"),
    (add_whitenoise, "WhiteNoise"),
    (add_debugger, "DebuggedApplication"),
]


def extend(app: Flask, backend: Backend) -> None:
    BasicAuth(app, backend)


def replace_entry(app: Flask, backend: Backend) -> None:
    app.wsgi_app = WSGIMiddleware(app.wsgi_app, backend, settings=Settings())  # type: ignore[method-assign]


PROTECTIONS = [extend, replace_entry]


def status(app: Any, path: str, authorization: str | None = None) -> int:
    return wsgi_helpers.call(app, authorization, path=path, QUERY_STRING=HANDSHAKE).status


@pytest.mark.parametrize("protect", PROTECTIONS)
@pytest.mark.parametrize("add", [add for add, _ in LAYERS])
def test_a_layer_inside_is_protected(
    add: Any, protect: Any, backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    app = Flask(__name__)
    add(app)
    protect(app, backend)
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]  # belongs outside: no warning
    with caplog.at_level(logging.WARNING, "basicauth_mw"):
        assert status(app, "/socket.io/") == 401
        assert status(app, "/socket.io/", issued.authorization) in (200, 404)
        assert status(app, "/x", issued.authorization) == 404
    assert caplog.messages == []


@pytest.mark.parametrize("protect", PROTECTIONS)
@pytest.mark.parametrize(("add", "name"), LAYERS)
@pytest.mark.parametrize("has_key", [True, False])
def test_a_layer_outside_is_reported_once(
    add: Any,
    name: str,
    protect: Any,
    has_key: bool,
    backend: Backend,
    issued: Issued,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the first request, even a refused one."""
    app = Flask(__name__)
    protect(app, backend)
    add(app)
    with caplog.at_level(logging.WARNING, "basicauth_mw"):
        for _ in range(2):
            assert status(app, "/x", issued.authorization if has_key else None) == (404 if has_key else 401)
    (message,) = caplog.messages
    assert message.startswith(f"{name} is outside BasicAuth")


def test_a_layer_inside_a_wrapped_app(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    app = Flask(__name__)
    add_socketio(app)
    with caplog.at_level(logging.WARNING, "basicauth_mw"):
        assert status(WSGIMiddleware(app, backend, settings=Settings()), "/socket.io/") == 401
    assert caplog.messages == []


def test_a_dispatcher_of_protected_apps(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """The dashboard, mounted as in docs/dashboard.md, authenticates requests itself."""
    app = Flask(__name__)
    replace_entry(app, backend)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/keys": wsgi_dashboard(backend)})  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING, "basicauth_mw"):
        assert status(app, "/keys/") == status(app, "/x") == 401
    assert caplog.messages == []


def test_socketio_inside_an_asgi_wrapper(backend: Backend) -> None:
    sio = socketio.AsyncServer(async_mode="asgi")
    app = BasicAuthMiddleware(socketio.ASGIApp(sio, Starlette()), backend, settings=Settings())
    for path in ("/socket.io/", "/x"):
        scope = asgi_helpers.http_scope(path=path) | {"query_string": HANDSHAKE.encode()}
        assert asgi_helpers.call(app, scope).status == 401
