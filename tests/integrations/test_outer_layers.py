"""Layers that serve requests themselves: protected inside the middleware, and named outside of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import socketio
from flask import Flask
from flask_socketio import SocketIO
from starlette.applications import Starlette
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.integrations.flask import BasicAuth
from basicauth_mw.settings import Settings
from tests.shells import asgi_helpers, wsgi_helpers

if TYPE_CHECKING:
    from basicauth_mw import Backend, Issued

HANDSHAKE = "EIO=4&transport=polling"


def add_socketio(app: Flask) -> None:
    SocketIO(app, async_mode="threading")


def add_dispatcher(app: Flask) -> None:
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/socket.io": Flask("inner").wsgi_app})  # type: ignore[method-assign]


def status(app: Any, path: str, authorization: str | None = None) -> int:
    return wsgi_helpers.call(app, authorization, path=path, QUERY_STRING=HANDSHAKE).status


@pytest.mark.parametrize("add", [add_socketio, add_dispatcher])
def test_a_layer_that_is_added_before(
    add: Any, backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    app = Flask(__name__)
    add(app)
    BasicAuth(app, backend)
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]  # belongs outside, and is no reason to warn
    with caplog.at_level(logging.WARNING, "basicauth_mw"):
        assert status(app, "/socket.io/") == 401
        assert status(app, "/socket.io/", issued.authorization) in (200, 404)
        assert status(app, "/x", issued.authorization) == 404
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("add", "name"),
    [(add_socketio, "_SocketIOMiddleware"), (add_dispatcher, "DispatcherMiddleware")],
)
def test_a_layer_that_is_added_after_is_named_once(
    add: Any, name: str, backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    app = Flask(__name__)
    BasicAuth(app, backend)
    add(app)
    with caplog.at_level(logging.WARNING, "basicauth_mw"):
        for _ in range(2):
            assert status(app, "/x", issued.authorization) == 404
    (message,) = caplog.messages
    assert message.startswith(f"{name} is outside BasicAuth")


def test_socketio_inside_an_asgi_wrapper(backend: Backend) -> None:
    sio = socketio.AsyncServer(async_mode="asgi")
    app = BasicAuthMiddleware(socketio.ASGIApp(sio, Starlette()), backend, settings=Settings())
    for path in ("/socket.io/", "/x"):
        scope = asgi_helpers.http_scope(path=path) | {"query_string": HANDSHAKE.encode()}
        assert asgi_helpers.call(app, scope).status == 401
