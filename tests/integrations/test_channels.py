"""Channels next to Django: unprotected in the usual layout, protected by ``wrap_asgi``, and checked."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as open_websocket

from tests.integrations import django_site

# isort: split
from channels.auth import AuthMiddleware
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import JsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import OriginValidator
from channels.sessions import CookieMiddleware
from django.core.asgi import get_asgi_application
from django.middleware.cache import CacheMiddleware
from django.test import override_settings
from django.urls import path

from basicauth_mw import encode_basic
from basicauth_mw.integrations.django import wrap_asgi
from basicauth_mw.integrations.django.checks import check_deployment, check_settings
from tests.asgi.helpers import call, connect, http_scope, websocket_scope
from tests.servers.conftest import LIMIT_S, ROOT
from tests.waiting import free_port, listens, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from basicauth_mw import Backend, Issued

MIDDLEWARE_PATH = django_site.MIDDLEWARE_PATH


class WhoAmI(JsonWebsocketConsumer):
    def connect(self) -> None:
        self.accept()
        self.send_json(
            {"id": self.scope["basicauth_mw.principal"].client_id, "user": str(self.scope["user"])}
        )
        self.close()


class Session(AuthMiddleware):
    """Like that of AuthMiddlewareStack, which sets ``scope["user"]`` if it is missing."""

    def populate_scope(self, scope: dict[str, Any]) -> None:
        scope.setdefault("user", type("Lazy", (), {"__str__": lambda self: self._wrapped})())

    async def resolve_scope(self, scope: dict[str, Any]) -> None:
        scope["user"]._wrapped = "from the session"


def router(websocket: Any) -> Any:
    return ProtocolTypeRouter({"http": get_asgi_application(), "websocket": websocket})


def websockets() -> Any:
    return Session(URLRouter([path("ws", WhoAmI.as_asgi())]))


@pytest.fixture(autouse=True)
def _backend(backend: Backend) -> Iterator[None]:
    with override_settings(BASICAUTH_BACKEND=backend):
        yield


def handshake(application: Any, scope: Any) -> list[dict[str, Any]]:
    """The messages to a client that connects and is closed."""
    sent: list[dict[str, Any]] = []

    async def main() -> None:
        closed = asyncio.Event()
        incoming = iter([{"type": "websocket.connect"}])

        async def receive() -> dict[str, Any]:
            if (message := next(incoming, None)) is not None:
                return message
            await closed.wait()
            return {"type": "websocket.disconnect", "code": 1000}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if message["type"] == "websocket.close":
                closed.set()

        async with asyncio.timeout(20):
            await application(scope, receive, send)

    asyncio.run(main())
    return sent


def codes(application: Any, monkeypatch: pytest.MonkeyPatch) -> set[str | None]:
    module = ModuleType("site_asgi")
    module.application = application  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "site_asgi", module)
    with override_settings(ASGI_APPLICATION="site_asgi.application"):
        return {message.id for message in check_settings()}


def test_wrap_asgi_protects_http_and_websockets(issued: Issued, monkeypatch: pytest.MonkeyPatch) -> None:
    application = wrap_asgi(router(websockets()))
    good, bad = issued.authorization, "Basic eDp5"
    for authorization in (None, bad):
        assert connect(application, websocket_scope(authorization, path="/ws")).status == 401
        assert call(application, http_scope(authorization, path="/me")).status == 401
    assert call(application, http_scope(good, path="/me")).status == 200
    accepted, message, closed = handshake(application, websocket_scope(good, path="/ws"))
    assert (accepted["type"], closed["type"]) == ("websocket.accept", "websocket.close")
    assert json.loads(message["text"]) == {"id": issued.client_id, "user": "from the session"}
    assert "basicauth_mw.W008" not in codes(application, monkeypatch)


def test_the_usual_layout_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "basicauth_mw.W008" in codes(router(websockets()), monkeypatch)
    assert "basicauth_mw.W008" not in codes(router(wrap_asgi(websockets())), monkeypatch)
    assert "basicauth_mw.W008" not in codes(ProtocolTypeRouter({"http": get_asgi_application()}), monkeypatch)
    with override_settings(ASGI_APPLICATION="nowhere.application"):
        assert "basicauth_mw.W008" not in {message.id for message in check_settings()}


def test_middleware_of_channels_is_inspected(monkeypatch: pytest.MonkeyPatch) -> None:
    def around(inner: Any) -> Any:
        return OriginValidator(CookieMiddleware(Session(inner)), ["*"])

    def found(application: Any) -> set[str | None]:
        return codes(application, monkeypatch) & {"basicauth_mw.W008", "basicauth_mw.W009"}

    inside = around(wrap_asgi(URLRouter([path("ws", WhoAmI.as_asgi())])))
    each = URLRouter([path("ws", wrap_asgi(WhoAmI.as_asgi()))])
    some = URLRouter([path("ws", wrap_asgi(WhoAmI.as_asgi())), path("more", WhoAmI.as_asgi())])
    assert found(router(inside)) == set()
    assert found(router(around(each))) == set()
    assert found(router(around(some))) == {"basicauth_mw.W008"}
    assert found(CookieMiddleware(router(some))) == {"basicauth_mw.W008"}
    assert found(CookieMiddleware(wrap_asgi(router(some)))) == set()


def test_http_consumers_outside_django_are_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    django_app = get_asgi_application()

    async def calls_django(scope: Any, receive: Any, send: Any) -> None:
        await django_app(scope, receive, send)

    both = URLRouter([path("events", AsyncHttpConsumer.as_asgi()), path("", django_app)])
    for http, expected in ((both, True), (URLRouter([path("", django_app)]), False), (calls_django, False)):
        found = codes(ProtocolTypeRouter({"http": http}), monkeypatch)
        assert ("basicauth_mw.W009" in found) == expected


@pytest.mark.parametrize("strips", [False, True])
def test_strip_authorization_applies_to_websockets(issued: Issued, strips: bool) -> None:
    seen: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope["headers"]))

    with override_settings(BASICAUTH_STRIP_AUTHORIZATION=strips):
        application = wrap_asgi(ProtocolTypeRouter({"http": get_asgi_application(), "websocket": inner}))
        me = call(application, http_scope(issued.authorization, path="/me"))
    handshake(application, websocket_scope(issued.authorization, path="/ws"))

    assert (b"authorization" in seen[0]) != strips
    assert me.status == 200
    assert bool(json.loads(me.body)["authorization"]) != strips


class OwnCache(CacheMiddleware):
    """A subclass of a project."""


CORS = "corsheaders.middleware.CorsMiddleware"
CACHE = "django.middleware.cache.CacheMiddleware"
OWN = "tests.integrations.test_channels.OwnCache"


@pytest.mark.parametrize(
    ("stack", "more", "expected"),
    [
        pytest.param([CACHE, MIDDLEWARE_PATH], {}, "basicauth_mw.E003", id="cache-before"),
        pytest.param([OWN, MIDDLEWARE_PATH], {}, "basicauth_mw.E003", id="own-cache-before"),
        pytest.param(
            [MIDDLEWARE_PATH, CACHE],
            {"BASICAUTH_STRIP_AUTHORIZATION": True},
            "basicauth_mw.W004",
            id="cache-after-strips",
        ),
        pytest.param(
            [MIDDLEWARE_PATH, OWN],
            {"BASICAUTH_STRIP_AUTHORIZATION": True},
            "basicauth_mw.W004",
            id="own-cache-after-strips",
        ),
        pytest.param([MIDDLEWARE_PATH, CACHE], {}, None, id="cache-after"),
        pytest.param([MIDDLEWARE_PATH, CORS], {}, "basicauth_mw.W006", id="cors-after"),
        pytest.param([CORS, MIDDLEWARE_PATH], {}, None, id="cors-before"),
        pytest.param(
            [MIDDLEWARE_PATH, CORS],
            {"BASICAUTH_ALLOW_PREFLIGHT": True},
            None,
            id="cors-after-preflights-pass",
        ),
    ],
)
def test_the_order_of_the_middleware(stack: list[str], more: dict[str, Any], expected: str | None) -> None:
    with override_settings(MIDDLEWARE=stack, **more):
        found = {message.id for message in check_settings()}
    kinds = {"basicauth_mw.E003", "basicauth_mw.W004", "basicauth_mw.W006"}
    assert found & kinds == ({expected} if expected else set())


def test_allow_preflight_is_warned_about_at_deployment() -> None:
    assert "basicauth_mw.W007" not in {message.id for message in check_deployment()}
    with override_settings(BASICAUTH_ALLOW_PREFLIGHT=True):
        assert "basicauth_mw.W007" in {message.id for message in check_deployment()}


# --- on real servers, in a project with sessions and users


@pytest.fixture(scope="module", params=["uvicorn", "daphne"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that serves ``channels_site``."""
    port = free_port()
    command = {"uvicorn": ["--port", str(port)], "daphne": ["-b", "127.0.0.1", "-p", str(port)]}[
        request.param
    ]
    log = tmp_path_factory.mktemp("channels") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", request.param, *command, "tests.integrations.channels_site:application"],
            cwd=ROOT,
            env={**os.environ, "BASICAUTH_KEYS": "ci:p@55w0rd"},
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: listens(port) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield port
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


KEY = encode_basic("ci", "p@55w0rd")


def test_a_server_protects_http_and_websockets(served: int) -> None:
    url = f"127.0.0.1:{served}"
    with httpx.Client(base_url=f"http://{url}", trust_env=False, timeout=LIMIT_S) as client:
        assert [client.get(path).status_code for path in ("/me", "/nowhere", "/open")] == [401, 401, 200]
        me = client.get("/me", headers={"Authorization": KEY})
    assert me.json() == {"id": "ci", "user": "AnonymousUser"}

    for headers in ({}, {"Authorization": encode_basic("ci", "wrong")}):
        with pytest.raises(InvalidStatus) as refused:
            open_websocket(f"ws://{url}/ws", additional_headers=headers, proxy=None).close()
        assert refused.value.response.status_code in (401, 403)  # Daphne sends its own 403
    with open_websocket(f"ws://{url}/ws", additional_headers={"Authorization": KEY}, proxy=None) as websocket:
        assert json.loads(websocket.recv(LIMIT_S)) == {"id": "ci", "user": "AnonymousUser"}
