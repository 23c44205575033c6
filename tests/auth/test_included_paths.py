"""No path that an app's router serves as an included one gets through without a key.

Each app serves ``secret`` at ``/api``, below ``/api/`` and at ``/me``, and ``open`` everywhere else. It gets
requests for spellings of these paths that some reader takes for them.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import bottle
import falcon
import falcon.asgi
import pytest
from a2wsgi import WSGIMiddleware
from fastapi import APIRouter, FastAPI
from flask import Flask
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from quart import Quart
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from basicauth_mw import Backend, Settings
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.integrations.fastapi import install
from basicauth_mw.integrations.flask import BasicAuth
from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIBasicAuth
from tests.asgi.helpers import call, http_scope
from tests.integrations import django_site  # noqa: F401 - sets Django up
from tests.wsgi import helpers as wsgi_helpers

# isort: split
from django.core.asgi import get_asgi_application
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse
from django.test import override_settings
from django.urls import re_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.proves("X57")

INCLUDE = ("/api/*", "/me")
SETTINGS = Settings(throttle="", include=INCLUDE)
BACKEND = Backend(MemoryStore(), settings=SETTINGS)
KEY = BACKEND.create(client_id="ci").authorization


def protected(app: Any) -> Any:
    return BasicAuthMiddleware(app, BACKEND, settings=SETTINGS)


# --- apps; each path is served if the framework can serve it


async def give_open(_request: Any) -> PlainTextResponse:
    return PlainTextResponse("open")


async def give_secret(_request: Any) -> PlainTextResponse:
    return PlainTextResponse("secret")


def starlette() -> Any:
    return protected(
        Starlette(
            routes=[
                Route("/api", give_secret),
                Route("/api/{rest:path}", give_secret),
                Route("/me", give_secret),
                Route("/{rest:path}", give_open),
            ]
        )
    )


def starlette_with_a_mount() -> Any:
    api = Starlette(routes=[Route("/{rest:path}", give_secret)])
    others = [Route("/me/", give_secret), Route("/{rest:path}", give_open)]
    return protected(Starlette(routes=[Mount("/api", api), *others]))


def fastapi() -> Any:
    app = FastAPI(openapi_url=None)
    api = APIRouter(prefix="/api")
    api.add_api_route("/{rest:path}", lambda rest: PlainTextResponse("secret"))
    app.include_router(api)
    app.add_api_route("/me", lambda: PlainTextResponse("secret"))
    app.add_api_route("/{rest:path}", lambda rest: PlainTextResponse("open"))
    install(app, BACKEND, settings=SETTINGS)
    return app


def litestar() -> Any:
    def route(path: str, text: str) -> Any:
        async def give() -> str:
            return text

        return HTTPRouteHandler(path, http_method="GET", media_type="text/plain", name=path)(give)

    secret = [route(path, "secret") for path in ("/api", "/api/{rest:path}", "/me")]
    others = [route(path, "open") for path in ("/", "/{rest:path}")]
    return protected(Litestar([*secret, *others], openapi_config=None, logging_config=None))


def add_rules(app: Any, secret: Callable[..., Any], public: Callable[..., Any]) -> Any:
    for number, rule in enumerate(("/api/", "/api/<path:rest>", "/me")):
        app.add_url_rule(rule, f"secret {number}", secret)
    app.add_url_rule("/", "root", public)
    app.add_url_rule("/<path:rest>", "open", public)
    return app


def quart() -> Any:
    async def secret(rest: str = "") -> str:
        return "secret"

    async def public(rest: str = "") -> str:
        return "open"

    return protected(add_rules(Quart("routers", static_folder=None), secret, public))


def flask_app() -> Flask:
    app: Flask = add_rules(
        Flask("routers", static_folder=None), lambda rest="": "secret", lambda rest="": "open"
    )
    return app


def flask_in_a2wsgi() -> Any:
    return protected(WSGIMiddleware(flask_app()))


def flask() -> Any:
    app = flask_app()
    app.config["BASICAUTH_INCLUDE"] = list(INCLUDE)
    app.config["BASICAUTH_THROTTLE"] = ""
    BasicAuth(app, BACKEND)
    return app


def flask_in_a_dispatcher() -> Any:
    secret = Flask("secret", static_folder=None)
    secret.add_url_rule("/", "root", lambda: "secret")
    secret.add_url_rule("/<path:rest>", "rest", lambda rest: "secret")
    app = DispatcherMiddleware(flask_app(), {"/api": secret})
    return WSGIBasicAuth(app, BACKEND, settings=SETTINGS)


class Give:
    def __init__(self, text: str) -> None:
        self._text = text

    def on_get(self, _request: Any, response: Any, **_parts: str) -> None:
        response.text = self._text


class GiveAsync(Give):
    async def on_get(self, _request: Any, response: Any, **_parts: str) -> None:
        response.text = self._text


def add_resources(app: Any, give: type[Give]) -> Any:
    app.req_options.strip_url_path_trailing_slash = True
    for path in ("/api", "/api/{rest:path}", "/me"):
        app.add_route(path, give("secret"))
    app.add_sink(give("open").on_get, "/")
    return app


def falcon_asgi() -> Any:
    return protected(add_resources(falcon.asgi.App(), GiveAsync))


def falcon_wsgi() -> Any:
    return WSGIBasicAuth(add_resources(falcon.App(), Give), BACKEND, settings=SETTINGS)


def bottle_app() -> Any:
    app = bottle.Bottle()
    for rule in ("/api", "/api/", "/api/<rest:path>", "/me"):
        app.route(rule, callback=lambda rest="": "secret")
    for rule in ("/", "/<rest:path>"):
        app.route(rule, callback=lambda rest="": "open")
    return WSGIBasicAuth(app, BACKEND, settings=SETTINGS)


urlpatterns = [
    re_path(r"(?i)^api(/.*)?$", lambda request, rest="": HttpResponse("secret")),
    re_path(r"(?i)^me/?$", lambda request: HttpResponse("secret")),
    re_path(r"", lambda request: HttpResponse("open")),
]
IN_DJANGO = {
    "ROOT_URLCONF": __name__,
    "BASICAUTH_EXCLUDE": [],
    "BASICAUTH_INCLUDE": list(INCLUDE),
    "BASICAUTH_THROTTLE": "",
    "BASICAUTH_BACKEND": BACKEND,
    "APPEND_SLASH": False,
}


def django() -> Any:
    """Django routes by regular expressions, here without regard to case."""
    return WSGIHandler()


def django_asgi() -> Any:
    return get_asgi_application()


# --- requests


def request_asgi(app: Any, target: bytes, authorization: str | None, *, has_raw: bool) -> tuple[int, str]:
    path = unquote_to_bytes(target).decode("utf-8", "replace")
    scope = {**http_scope(authorization, path=path), "raw_path": target if has_raw else None}
    seen = call(app, scope)
    return seen.status, seen.body.decode()


def request_wsgi(app: Any, target: bytes, authorization: str | None, *, has_raw: bool) -> tuple[int, str]:
    raw = {"RAW_URI": target.decode("latin-1")} if has_raw else {}
    path = unquote_to_bytes(target).decode("latin-1")
    seen = wsgi_helpers.call(app, authorization, path=path, **raw)
    return seen.status, seen.body.decode()


ROUTERS: dict[str, tuple[Callable[[], Any], Callable[..., tuple[int, str]]]] = {
    **{
        make.__name__: (make, request_asgi)
        for make in (starlette, starlette_with_a_mount, fastapi, litestar, quart, falcon_asgi)
    },
    **{make.__name__: (make, request_asgi) for make in (flask_in_a2wsgi, django_asgi)},
    **{
        make.__name__: (make, request_wsgi)
        for make in (flask, flask_in_a_dispatcher, falcon_wsgi, bottle_app, django)
    },
}

PIECES = st.sampled_from(
    [
        *(
            b"/api",
            b"/api/",
            b"/me",
            b"/me/",
            b"/API",
            b"/Me",
            b"/x",
            b"/",
            b"//",
            b"/.",
            b"/..",
            b"/../",
            b".",
        ),
        *(b"/api/x", b"x", b"api", b"me", b";", b";x", b"\\", b"%5c", b"%2f", b"%2e%2e", b"%252f", b"%61pi"),
        *(
            b"%6de",
            b"%4De",
            b"ap%C4%B1",
            b"%C4%B0",
            b"%E2%84%AA",
            b"%ff",
            b"%00",
            b"%0a",
            b"%0d",
            b"%20",
            b"%09",
        ),
        *(
            b"%3f",
            b"%23",
            b"%3b",
            b"%25",
            b"#",
            b"%c2%a0",
            b"%e2%80%a8",
            b"%ef%bc%8f",
            b"%cc%81",
            b"*",
            b"@",
            b":",
        ),
    ]
)
TARGETS = st.lists(PIECES, max_size=6).map(lambda pieces: b"/" + b"".join(pieces)) | st.lists(
    PIECES, max_size=4
).map(b"".join)


@pytest.fixture(scope="module", params=ROUTERS)
def send(request: pytest.FixtureRequest) -> Iterator[Callable[..., tuple[int, str]]]:
    """Send a request to the app, without a key unless one is given."""
    make, send = ROUTERS[request.param]
    with override_settings(**IN_DJANGO):
        app = make()

        def to_app(
            target: bytes, authorization: str | None = None, *, has_raw: bool = True
        ) -> tuple[int, str]:
            return send(app, target, authorization, has_raw=has_raw)

        yield to_app


def test_only_included_paths_need_a_key(send: Callable[..., tuple[int, str]]) -> None:
    for target in (b"/api/x", b"/api/x/y"):
        assert send(target)[0] == 401
        assert send(target, KEY) == (200, "secret")
    for target in (
        b"/api",
        b"/api/",
        b"/me",
        b"/me/",
        b"/API/x",
        b"/ME",
        b"/x//y",
        b"/x;y",
        b"/x/%2e%2e/api/x",
    ):
        assert send(target)[0] == 401, target
    for target in (b"/x", b"/apix", b"/x/api", b"/caf%C3%A9"):
        assert send(target) == (200, "open"), target


@examples(max_examples=100, deadline=None)
@given(targets=st.lists(TARGETS, min_size=1, max_size=8), has_raw=st.booleans())
@example(
    targets=[b"/ap%C4%B1/x", b"/%C4%B0api", b"/api%0a", b"/me%0a", b"/a%ffpi/x", b"//api/x"], has_raw=True
)
@example(
    targets=[b"/ap%C4%B1/x", b"/%C4%B0api", b"/api%0a", b"/me%0a", b"/a%ffpi/x", b"//api/x"], has_raw=False
)
def test_no_spelling_reaches_an_included_path(
    send: Callable[..., tuple[int, str]], targets: list[bytes], has_raw: bool
) -> None:
    """Whatever the router makes of a target, the response without a key is not the secret."""
    for target in targets:
        status, body = send(target, has_raw=has_raw)
        assert body != "secret", target
        assert status < 500, (target, body)


# --- mount points

# What a server, a proxy, or with Daphne a client reports as the mount point.
ROOTS = ["", "/v1", "/", "/v1/", "v1", "/api", "/x", "/V1", "//", "/me", "/v1/api"]
BELOW = ["/api/x", "/api", "/me", "/x", "/x/api/y", "/v1/api/x", "/x/v1/api/y", "/V1/api/x", "/v1x/api/x"]
PATHS = [
    *BELOW,
    *map("/v1".__add__, BELOW),
    *map("/V1".__add__, BELOW),
    "/v1",
    "/x/v1",
    "/api/v1/x",
    "/v1/v1/x",
]
MOUNTED = [starlette, starlette_with_a_mount, litestar, quart, falcon_asgi, flask_in_a2wsgi]


@pytest.mark.parametrize("root_path", [None, "/v1"])
@pytest.mark.parametrize("make", MOUNTED)
def test_no_mount_point_reaches_an_included_path(make: Callable[[], Any], root_path: str | None) -> None:
    """Routers remove it from the path in different ways, or leave it there."""
    app = BasicAuthMiddleware(make().app, BACKEND, settings=SETTINGS, root_path=root_path)
    for root, path in itertools.product(ROOTS, PATHS):
        seen = call(app, http_scope(path=path, root_path=root))
        assert seen.body != b"secret", (root, path)
        assert seen.status == 401 or root in ("", root_path), (root, path)


# FastAPI deprecates it in favor of the server's option, but still supports it.
@pytest.mark.filterwarnings("ignore:(?s).*root_path")
@pytest.mark.parametrize("how", ["installed", "wrapped", "added"])
def test_the_mount_point_of_a_fastapi_app(how: str) -> None:
    """FastAPI removes its own ``root_path`` from ``/v1/api/x``, and routes that to ``/api/x``."""
    app: Any = FastAPI(root_path="/v1", openapi_url=None)
    app.add_api_route("/api/{rest:path}", lambda rest: PlainTextResponse("secret"))
    app.add_api_route("/{rest:path}", lambda rest: PlainTextResponse("open"))
    if how == "installed":
        install(app, BACKEND, settings=SETTINGS)
    elif how == "wrapped":
        app = BasicAuthMiddleware(app, BACKEND, settings=SETTINGS)
    else:
        app.add_middleware(BasicAuthMiddleware, backend=BACKEND, settings=SETTINGS)
    for path in PATHS:
        assert call(app, http_scope(path=path)).body != b"secret", path
    expected = b"open" if how != "added" else None  # the middleware does not see the app that it is added to
    for path in ("/x", "/v1/x"):
        seen = call(app, http_scope(path=path))
        assert seen.status == 401 if expected is None else seen.body == expected
