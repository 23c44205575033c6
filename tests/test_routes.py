"""Every route of an app inside the middleware requires a key: listed routes and unlisted ones."""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from falcon.inspect import inspect_routes
from fastapi import APIRouter, FastAPI, WebSocket
from flask import Blueprint, Flask
from starlette.routing import Mount, WebSocketRoute
from starlette.staticfiles import StaticFiles

from basicauth_mw import Settings
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.integrations.fastapi import install
from basicauth_mw.integrations.flask import BasicAuth
from tests.asgi import helpers as asgi_helpers
from tests.wsgi import helpers as wsgi_helpers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.proves("X34")

METHODS = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "FOO",
    "get",
]


class Endpoint(NamedTuple):
    """A path of an app, or a websocket at one."""

    path: str
    websocket: bool = False


def filled(pattern: str) -> str:
    """A path for a pattern: ``/items/{id}``, ``/items/<int:id>``."""
    return re.sub(r"\{[^}]*\}|<[^>]*>", "1", pattern)


def of_starlette(routes: Iterable[Any], prefix: str = "") -> Iterator[Endpoint]:
    """The routes of Starlette and FastAPI, mounted apps included."""
    for route in routes:
        if router := getattr(
            route, "original_router", None
        ):  # an included router, in later releases of FastAPI
            yield from of_starlette(router.routes, prefix)
            continue
        path = prefix + filled(route.path)
        yield Endpoint(path, isinstance(route, WebSocketRoute))
        if isinstance(route, Mount):
            yield from of_starlette(route.routes or [], path)
            yield from map(Endpoint, (f"{path}/", f"{path}/x.css", f"{path}/1/2"))


def of_werkzeug(app: Any) -> Iterator[Endpoint]:
    """The routes of Flask and Quart."""
    return (Endpoint(filled(rule.rule), rule.websocket) for rule in app.url_map.iter_rules())


def check_asgi(app: Any, endpoints: Iterable[Endpoint], is_open: frozenset[str]) -> set[str]:
    """Send requests to all routes; return the open paths."""
    found = set()
    for endpoint in endpoints:
        if endpoint.websocket:
            assert asgi_helpers.connect(app, asgi_helpers.websocket_scope(path=endpoint.path)).status == 401
            continue
        for method in METHODS:
            seen = asgi_helpers.call(app, asgi_helpers.http_scope(method=method, path=endpoint.path))
            if endpoint.path in is_open:
                found.add(endpoint.path)
                assert seen.status != 401
            else:
                assert (seen.status, seen.raised) == (401, None), (method, endpoint)
                assert seen.headers["www-authenticate"].startswith("Basic ")
    return found


def check_wsgi(app: Any, endpoints: Iterable[Endpoint], is_open: frozenset[str]) -> set[str]:
    found = set()
    for endpoint in endpoints:
        for method in METHODS:
            seen = wsgi_helpers.call(app, path=endpoint.path, REQUEST_METHOD=method)
            if endpoint.path in is_open:
                found.add(endpoint.path)
                assert seen.status != 401
            else:
                assert (seen.status, seen.raised) == (401, None), (method, endpoint)
                assert seen.named["WWW-Authenticate"].startswith("Basic ")
    return found


UNLISTED = [
    Endpoint(path) for path in ("/", "", "/nowhere", "/favicon.ico", "/robots.txt", "/.well-known/x", "*")
]

# For each example: how to find the routes of the module, and how to send requests.
EXAMPLES: dict[str, tuple[Callable[[Any], Iterable[Endpoint]], Any]] = {
    "fastapi_app": (lambda module: of_starlette(module.app.routes), check_asgi),
    "starlette_app": (lambda module: of_starlette(module.app.routes), check_asgi),
    "mounted_flask_app": (
        lambda module: [
            *of_starlette(module.app.routes),
            *(Endpoint("/legacy" + endpoint.path) for endpoint in of_werkzeug(module.legacy)),
        ],
        check_asgi,
    ),
    "redis_workers": (lambda module: of_starlette(module.app.routes), check_asgi),
    "own_store": (lambda module: of_starlette(module.app.routes), check_asgi),
    "litestar_app": (
        lambda module: [Endpoint(filled(route.path)) for route in module.app.app.routes],
        check_asgi,
    ),
    "quart_app": (lambda module: of_werkzeug(module.app), check_asgi),
    "flask_app": (lambda module: of_werkzeug(module.app), check_wsgi),
    "bottle_app": (
        lambda module: [Endpoint(filled(route.rule)) for route in module.app.app.routes],
        check_wsgi,
    ),
    "falcon_app": (
        lambda module: [Endpoint(each.path) for each in inspect_routes(module.app.app)],
        check_wsgi,
    ),
}
OPEN_IN = {"fastapi_app": {"/health"}, "flask_app": {"/health"}, "redis_workers": {"/ready"}}


@pytest.fixture(autouse=True)
def _keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BASICAUTH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BASICAUTH_KEYS", "ci:secret")


@pytest.fixture
def _logging_as_it_was() -> Iterator[None]:
    """Litestar configures the root logger when an app is created, and starts a thread for it."""
    root = logging.getLogger()
    level = root.level
    yield
    for handler in root.handlers[:]:
        if listener := getattr(handler, "listener", None):
            atexit.unregister(listener.stop)  # calling it twice is an error
            listener.stop()
            root.removeHandler(handler)
    root.setLevel(level)


@pytest.mark.usefixtures("_logging_as_it_was")
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_route_of_an_example(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the paths that it declares open are open, and they exist."""
    monkeypatch.delitem(sys.modules, f"examples.{name}", raising=False)
    module = importlib.import_module(f"examples.{name}")
    listed, check = EXAMPLES[name]
    endpoints = list(listed(module))
    assert len(endpoints) >= 1
    is_open = frozenset(OPEN_IN.get(name, ()))

    assert check(module.app, [*endpoints, *UNLISTED], is_open) == is_open


def test_every_route_of_a_large_fastapi_app(tmp_path: Path) -> None:
    """Routers, mounts, static files, websockets and documentation pages, all added later."""
    app = FastAPI()
    install(app, MemoryStore(), settings=Settings(throttle=""))

    async def hello() -> str:
        return "hello"

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()

    router = APIRouter(prefix="/v1")
    router.add_api_route("/items/{item}", hello, methods=["GET", "POST"])
    router.add_api_websocket_route("/talk/{room}", talk)
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=tmp_path))
    below = FastAPI()
    below.add_api_route("/hello", hello)
    below.mount("/deeper", FastAPI())
    app.mount("/below", below)
    endpoints = list(of_starlette(app.routes))

    paths = {endpoint.path for endpoint in endpoints}
    assert paths >= {
        *("/docs", "/redoc", "/openapi.json", "/v1/items/1", "/static/x.css", "/below/hello"),
        "/below/deeper/docs",
    }
    assert Endpoint("/v1/talk/1", websocket=True) in endpoints
    assert check_asgi(app, [*endpoints, *UNLISTED], frozenset()) == set()


def test_every_route_of_a_large_flask_app() -> None:
    """Blueprints, static files, and views added after the middleware."""
    app = Flask(__name__)
    app.config["BASICAUTH_THROTTLE"] = ""
    BasicAuth(app, MemoryStore())
    site = Blueprint("site", __name__, url_prefix="/v1", static_folder="static")
    site.add_url_rule("/items/<int:item>", "item", lambda item: "hello", methods=["GET", "POST"])
    app.register_blueprint(site)
    app.add_url_rule("/late/<path:rest>", "late", lambda rest: "hello", provide_automatic_options=False)
    endpoints = list(of_werkzeug(app))

    assert {endpoint.path for endpoint in endpoints} == {
        "/static/1",
        "/v1/static/1",
        "/v1/items/1",
        "/late/1",
    }
    assert check_wsgi(app, [*endpoints, *UNLISTED], frozenset()) == set()
