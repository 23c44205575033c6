"""Which paths the middleware takes for open, and where real routers send the same scope."""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, Any

import falcon.asgi
import pytest
from a2wsgi import WSGIMiddleware
from fastapi import FastAPI
from flask import Flask
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from quart import Quart
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.integrations.fastapi import install
from basicauth_mw.settings import Settings
from tests.asgi.helpers import call, http_scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from basicauth_mw import Backend

SETTINGS = Settings(throttle="", exclude=("/health", "/static/*"))

# Mount points that a client may set through Daphne-Root-Path, SCRIPT_NAME or a proxy.
ROOTS = [
    "",
    "/",
    "/api",
    "/api/",
    "api",
    "/admin",
    "/health",
    "/static",
    "health",
    "/static/x",
    "/a/b",
    "/API",
    "//",
]
PATHS = [
    *("/health", "/static/x", "/admin", "/admin/health", "/static/x/api/admin", "/health/api/admin"),
    *("/api/health", "/api/static/x", "/api/admin", "/api/api/health", "/api/static/x/api/admin"),
    *("/admin/static/x", "/static/health", "/health/health", "/static/static/x", "/a/b/health", "/apihealth"),
    *("/api/static/health/admin", "/static/x/admin", "/static/api", "/api", "/healthadmin", "//health"),
]


def starlette() -> Starlette:
    def route(name: str, pattern: str) -> Route:
        async def endpoint(_request: object) -> PlainTextResponse:
            return PlainTextResponse(name)

        return Route(pattern, endpoint)

    return Starlette(
        routes=[
            route("open", "/health"),
            route("open", "/static/{rest:path}"),
            route("secret", "/{rest:path}"),
        ]
    )


def fastapi() -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.router.routes = list(starlette().router.routes)
    return app


def litestar() -> Litestar:
    async def give_open() -> str:
        return "open"

    async def give_open_below() -> str:
        return "open"

    async def give_secret() -> str:
        return "secret"

    async def give_secret_below() -> str:
        return "secret"

    def route(path: str, handler: Callable[..., Any]) -> Any:
        return HTTPRouteHandler(path, http_method="GET", media_type="text/plain")(handler)

    return Litestar(
        [
            route("/health", give_open),
            route("/static/{rest:path}", give_open_below),
            route("/", give_secret),
            route("/{rest:path}", give_secret_below),
        ],
        openapi_config=None,
        logging_config=None,
    )


def quart() -> Quart:
    app = Quart("routers", static_folder=None)

    async def give_open(rest: str = "") -> str:
        return "open"

    async def give_secret(first: str = "", rest: str = "") -> str:
        return "secret"

    app.add_url_rule("/health", "health", give_open)
    app.add_url_rule("/static/<path:rest>", "below", give_open)
    # Not for any path: Quart changes a path that is not below its mount point to " ".
    app.add_url_rule("/", "root", give_secret)
    app.add_url_rule("/admin", "admin", give_secret)
    app.add_url_rule("/<any(admin, api, health, a):first>/<path:rest>", "secret", give_secret)
    return app


def falcon_app() -> falcon.asgi.App[Any, Any]:
    class Give:
        def __init__(self, text: str) -> None:
            self._text = text

        async def on_get(self, _request: Any, response: Any, **_parts: str) -> None:
            response.text = self._text

        async def sink(self, _request: Any, response: Any, **_parts: str) -> None:
            response.text = self._text

    app = falcon.asgi.App()
    app.add_route("/health", Give("open"))
    app.add_route("/static/{rest:path}", Give("open"))
    app.add_route("/admin/{user}", Give("secret"))
    app.add_sink(Give("secret").sink, "/")
    return app


def flask_in_a2wsgi() -> WSGIMiddleware:
    app = Flask("routers", static_folder=None)
    app.add_url_rule("/health", "health", lambda: "open")
    app.add_url_rule("/static/<path:rest>", "below", lambda rest: "open")
    app.add_url_rule("/", "root", lambda: "secret")
    app.add_url_rule("/<path:rest>", "secret", lambda rest: "secret")
    return WSGIMiddleware(app)


ROUTERS: dict[str, Callable[[], Any]] = {
    "starlette": starlette,
    "fastapi": fastapi,
    "litestar": litestar,
    "quart": quart,
    "falcon": falcon_app,
    "a2wsgi": flask_in_a2wsgi,
}
# Frameworks that remove the mount point from the path if a server such as uvicorn --root-path gives both.
MOUNTED = ["starlette", "fastapi", "litestar", "quart", "a2wsgi"]


# FastAPI deprecates it in favor of the server's option, but still supports it.
OWN_ROOT_PATH = pytest.mark.filterwarnings("ignore:(?s).*root_path")


def request(app: Any, root: str, path: str) -> tuple[int, str]:
    scope = http_scope(path=path, root_path=root)
    scope["raw_path"] = path.encode()
    seen = call(app, scope)
    return seen.status, seen.body.decode()


@pytest.mark.parametrize("name", ROUTERS)
def test_no_mount_point_opens_what_is_not_excluded(name: str, backend: Backend) -> None:
    """Without the setting, paths below a mount point are protected; excluded paths are open at the root."""
    app = BasicAuthMiddleware(ROUTERS[name](), backend, settings=SETTINGS)
    for root, path in itertools.product(ROOTS, PATHS):
        status, body = request(app, root, path)
        assert status in ((200, 404) if root == "" else ()) or status == 401, (root, path, body)
        assert body != "secret", (root, path)
    assert request(app, "", "/health") == (200, "open")
    assert request(app, "", "/static/x") == (200, "open")


@pytest.mark.parametrize("name", MOUNTED)
def test_a_mount_point_that_is_set(name: str, backend: Backend) -> None:
    """Under ``--root-path /api`` excluded paths are open below it, and no router goes anywhere else."""
    app = BasicAuthMiddleware(ROUTERS[name](), backend, settings=SETTINGS.replace(root_path="/api"))
    for root, path in itertools.product(ROOTS, PATHS):
        if root == "" and path.startswith("/api/"):
            continue  # the setting names a mount point that the server does not have
        status, body = request(app, root, path)
        assert status in (200, 401, 404), (root, path, body)
        assert body != "secret", (root, path)
        if root not in ("", "/api"):
            assert status == 401, (root, path)
    assert request(app, "/api", "/api/health") == (200, "open")
    assert request(app, "/api", "/api/static/x") == (200, "open")
    assert request(app, "/api", "/static/x/api/admin")[0] == 401


def installed(app: FastAPI, backend: Backend) -> Any:
    install(app, backend, settings=SETTINGS)
    return app


def wrapped(app: FastAPI, backend: Backend) -> Any:
    return BasicAuthMiddleware(CORSMiddleware(app), backend, settings=SETTINGS)


@OWN_ROOT_PATH
@pytest.mark.parametrize("made", [installed, wrapped])
def test_an_app_whose_mount_point_looks_like_an_excluded_folder(made: Any, backend: Backend) -> None:
    """FastAPI removes ``/static`` from ``/static/admin``, and routes it to ``/admin``."""
    app = FastAPI(root_path="/static", openapi_url=None)
    app.router.routes = list(starlette().router.routes)
    app = made(app, backend)
    for path in ("/static/admin", "/admin", "/static/health/x"):
        assert request(app, "", path)[0] == 401, path
    for path in ("/static/static/x", "/static/health", "/health"):
        assert request(app, "", path)[0] in (200, 401), path


@OWN_ROOT_PATH
@pytest.mark.parametrize("made", [installed, wrapped])
def test_the_mount_point_of_a_fastapi_app(made: Any, backend: Backend) -> None:
    """It is taken from the app, whether the proxy removes it from the path or not."""
    app = FastAPI(root_path="/api", openapi_url=None)
    app.router.routes = list(starlette().router.routes)
    app = made(app, backend)
    for path in ("/health", "/api/health", "/static/x", "/api/static/x"):
        assert request(app, "", path) == (200, "open"), path
    for path in ("/admin", "/api/admin", "/static/x/api/admin", "/api"):
        assert request(app, "", path)[0] == 401, path
    assert request(app, "/admin", "/health")[0] in (200, 401)


@OWN_ROOT_PATH
def test_the_setting_takes_precedence_over_a_fastapi_app(backend: Backend) -> None:
    app = FastAPI(root_path="/api", openapi_url=None)
    app.router.routes = list(starlette().router.routes)
    install(app, backend, settings=SETTINGS, root_path="/v1")
    assert request(app, "", "/api/health")[0] == 401


def test_an_unknown_mount_point_is_logged_once(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    app = BasicAuthMiddleware(starlette(), backend, settings=SETTINGS)
    with caplog.at_level(logging.WARNING, "basicauth_mw"):
        request(app, "", "/health")
        request(app, "/api\n", "/api/health")
        request(app, "/other", "/health")
    (record,) = caplog.records
    assert "BASICAUTH_ROOT_PATH" in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize("framework", ["quart", "flask"])
def test_the_directory_of_a_module_is_not_a_mount_point(backend: Backend, framework: str) -> None:
    """Flask and Quart also have ``root_path``, the directory of the app's module."""
    app: Any = (
        Quart("app", root_path="/srv/app") if framework == "quart" else Flask("app", root_path="/srv/app")
    )
    served = app if framework == "quart" else WSGIMiddleware(app)
    middleware = BasicAuthMiddleware(served, backend, settings=SETTINGS)

    assert call(middleware, http_scope(path="/srv/app/health")).status == 401
    assert call(middleware, http_scope(path="/health")).status == 404
