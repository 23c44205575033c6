"""``include`` and ``optional`` in each framework: the recipes of the documentation, and what an app sees."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import APIKeyHeader
from flask import Flask
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from basicauth_mw import Backend, Issued, Principal, Settings, encode_basic
from basicauth_mw import serve as serve_module
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.integrations import fastapi as for_fastapi
from basicauth_mw.integrations import flask as for_flask
from basicauth_mw.integrations.django.checks import check_deployment
from basicauth_mw.integrations.fastapi import CurrentPrincipal, install
from tests.asgi.helpers import call, http_scope
from tests.integrations import django_site  # noqa: F401 - sets Django up
from tests.wsgi import helpers as wsgi_helpers

# isort: split
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path as route
from rest_framework.decorators import api_view, permission_classes
from rest_framework.response import Response

from basicauth_mw import require_scopes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Send = Callable[..., tuple[int, str]]

PATHS = {"include": ["/api/*", "/in"], "exclude": ["/api/status"], "optional": ["/feed", "/write"]}
FROM_CONFIG = {f"BASICAUTH_{name.upper()}": entries for name, entries in PATHS.items()}

# --- one app in each framework: it responds with the caller, and /write needs a scope


def who(principal: Principal | None) -> str:
    return principal.client_id if principal is not None and principal.is_authenticated else "anonymous"


def fastapi_app(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Send:
    app = FastAPI()

    @app.get("/{rest:path}")
    @app.get("/write", dependencies=[for_fastapi.requires("write")])
    def hello(caller: CurrentPrincipal) -> PlainTextResponse:
        return PlainTextResponse(who(caller))

    install(app, backend, settings=Settings(**PATHS))  # type: ignore[arg-type]
    return asgi_sender(app)


def asgi_sender(app: Any) -> Send:
    def send(path: str, authorization: str | None = None) -> tuple[int, str]:
        seen = call(app, http_scope(authorization, path=path))
        return seen.status, seen.body.decode()

    return send


def flask_app(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Send:
    app = Flask(__name__, static_folder=None)

    @app.get("/<path:rest>")
    def hello(rest: str) -> str:
        return who(for_flask.current_principal)

    app.add_url_rule("/write", "write", for_flask.requires("write")(lambda: "written"))
    app.config.from_mapping(FROM_CONFIG)
    for_flask.BasicAuth(app, backend)
    return wsgi_sender(app)


def wsgi_sender(app: Any) -> Send:
    def send(path: str, authorization: str | None = None) -> tuple[int, str]:
        seen = wsgi_helpers.call(app, authorization, path=path)
        return seen.status, seen.body.decode()

    return send


def hello_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(who(request.principal))  # type: ignore[attr-defined]


def write_view(request: HttpRequest) -> HttpResponse:
    require_scopes(request.principal, "write")  # type: ignore[attr-defined]
    return HttpResponse("written")


@api_view(["GET"])
@permission_classes([])
def rest_view(request: Any) -> Response:
    return Response(who(request.auth))


@api_view(["GET"])
def rest_view_for_keys(request: Any) -> Response:
    return Response(who(request.auth))


urlpatterns = [
    route("write", write_view),
    route("rest/feed", rest_view),
    route("rest/keys", rest_view_for_keys),
    route("<path:rest>", lambda request, rest: hello_view(request)),
]


def django_app(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Send:
    def send(path: str, authorization: str | None = None) -> tuple[int, str]:
        headers = {} if authorization is None else {"authorization": authorization}
        response = Client().get(path, headers=headers)
        return response.status_code, response.content.decode()

    return send


def django_async(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Send:
    def send(path: str, authorization: str | None = None) -> tuple[int, str]:
        headers = {} if authorization is None else {"authorization": authorization}
        response = asyncio.run(AsyncClient().get(path, headers=headers))
        return response.status_code, response.content.decode()

    return send


MODULE = """
from basicauth_mw import require_scopes

def who(principal):
    return (principal.client_id if principal else "") or "anonymous"

async def app(scope, receive, send):
    principal = scope["basicauth_mw.principal"]
    if scope["path"] == "/write":
        require_scopes(principal, "write")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": who(principal).encode()})

def wsgi_app(environ, start_response):
    principal = environ["basicauth_mw.principal"]
    if environ["PATH_INFO"] == "/write":
        require_scopes(principal, "write")
    start_response("200 OK", [])
    return [who(principal).encode()]
"""


def configure_serve(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_APP", f"given_open_paths:{name}")
    monkeypatch.setenv("BASICAUTH_KEYS", json.dumps({"ci": {"secret": "p@55w0rd", "scopes": ["read"]}}))
    for variable, entries in FROM_CONFIG.items():
        monkeypatch.setenv(variable, ",".join(entries))


def served(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Send:
    configure_serve("app", monkeypatch)
    return asgi_sender(serve_module.app)


def served_wsgi(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Send:
    configure_serve("wsgi_app", monkeypatch)
    return wsgi_sender(serve_module.wsgi_app)


@pytest.fixture(params=[fastapi_app, flask_app, django_app, django_async, served, served_wsgi])
def send(
    request: pytest.FixtureRequest, backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> Iterator[Send]:
    """Send a request to the app, without a key unless one is given."""
    backend.create(client_id="ci", secret="p@55w0rd", scopes=["read"])
    (tmp_path / "given_open_paths.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    with override_settings(ROOT_URLCONF=__name__, BASICAUTH_BACKEND=backend, **FROM_CONFIG):
        yield request.param(backend, monkeypatch)
    for name in ("app", "wsgi_app"):
        vars(serve_module).pop(name, None)


KEY = encode_basic("ci", "p@55w0rd")
WRONG = encode_basic("ci", "wrong")


def test_only_the_included_paths_need_a_key(send: Send) -> None:
    for path in ("/api/x", "/api/x/y", "/in"):
        assert send(path)[0] == send(path, WRONG)[0] == 401
        assert send(path, KEY) == (200, "ci")
    for path in ("/hello", "/api/status", "/static/x"):
        for sent in (None, WRONG, KEY):
            assert send(path, sent) == (200, "anonymous")


def test_a_key_is_optional(send: Send) -> None:
    assert send("/feed") == (200, "anonymous")
    assert send("/feed", KEY) == (200, "ci")
    for sent in (WRONG, encode_basic("unknown", "x"), "Basic", "Bearer x"):
        assert send("/feed", sent)[0] == 401


def test_a_scope_on_an_optional_path(send: Send) -> None:
    """An anonymous caller gets a 401, and a caller whose key lacks the scope gets a 403."""
    status, body = send("/write")
    assert (status, json.loads(body)["code"]) == (401, "missing_credentials")
    status, body = send("/write", KEY)
    assert (status, json.loads(body)["code"]) == (403, "insufficient_scope")


def test_rest_framework_on_an_optional_path(backend: Backend, issued: Issued) -> None:
    """Its permission classes decide about anonymous callers."""
    with override_settings(
        ROOT_URLCONF=__name__,
        BASICAUTH_BACKEND=backend,
        BASICAUTH_EXCLUDE=[],
        BASICAUTH_OPTIONAL=["/rest/*"],
    ):
        key = {"authorization": issued.authorization}
        assert Client().get("/rest/feed").json() == "anonymous"
        assert Client().get("/rest/feed", headers=key).json() == "ci"
        refused = Client().get("/rest/keys")
        assert refused.status_code == 401
        assert refused["WWW-Authenticate"].startswith("Basic ")
        assert Client().get("/rest/keys", headers=key).json() == "ci"
        assert Client().get("/rest/keys", headers={"authorization": WRONG}).status_code == 401


def test_django_warns_about_open_paths_below_an_included_one() -> None:
    with override_settings(BASICAUTH_INCLUDE=["/api", "/me", "/me/*"], SECURE_SSL_REDIRECT=True):
        (warning,) = check_deployment()
        assert (warning.id, warning.hint) == ("basicauth_mw.W011", "Also include /api/*.")
    with override_settings(BASICAUTH_INCLUDE=["/api/*"], SECURE_SSL_REDIRECT=True):
        assert list(check_deployment()) == []


# --- one router, one sub-app


def hello(caller: CurrentPrincipal) -> str:
    return who(caller)


def test_one_router_of_a_fastapi_app(backend: Backend, issued: Issued) -> None:
    router = APIRouter(prefix="/reports")
    router.add_api_route("", hello)
    router.add_api_route("/latest", hello)
    app = FastAPI()
    app.include_router(router)
    app.add_api_route("/hello", hello)
    install(app, backend, settings=Settings(), include=[f"{router.prefix}/*"])

    send = asgi_sender(app)
    for path in ("/reports", "/reports/", "/reports/latest", "/reports/unknown", "/REPORTS/latest"):
        assert send(path)[0] == 401
    assert send("/reports", issued.authorization) == send("/reports/latest", issued.authorization)
    assert send("/reports", issued.authorization) == (200, '"ci"')
    assert send("/hello") == (200, '"anonymous"')
    assert send("/unknown")[0] == 404
    paths = app.openapi()["paths"]
    assert paths["/reports"]["get"]["security"] == [{"HTTPBasic": []}]
    assert paths["/hello"]["get"]["security"] == []


@pytest.mark.parametrize("exclude", [(), ("/health",)])
def test_one_sub_app_of_a_fastapi_app(backend: Backend, issued: Issued, exclude: tuple[str, ...]) -> None:
    """It can have open paths, if it knows its mount point."""
    admin = FastAPI()
    admin.add_api_route("/health", hello)
    admin.add_api_route("/users", hello)
    install(admin, backend, settings=Settings(), exclude=exclude, root_path="/admin")
    app = FastAPI()
    app.mount("/admin", admin)
    app.add_api_route("/hello", lambda: "open")

    send = asgi_sender(app)
    for path in ("/admin/", "/admin/users", "/admin/unknown", "/admin/docs", "/admin/openapi.json"):
        assert send(path)[0] == 401
    assert send("/admin/users", issued.authorization) == (200, '"ci"')
    assert send("/admin/health") == (200, '"anonymous"') if exclude else send("/admin/health")[0] == 401
    assert send("/hello") == (200, '"open"')
    assert send("/health")[0] == send("/users")[0] == 404


def test_one_mount_of_a_starlette_app(backend: Backend, issued: Issued) -> None:
    async def show(request: Any) -> PlainTextResponse:
        principal = request.scope.get("basicauth_mw.principal")
        return PlainTextResponse(who(principal))

    ours = Middleware(BasicAuthMiddleware, backend=backend, settings=Settings())
    app = Starlette(
        routes=[Mount("/admin", routes=[Route("/users", show)], middleware=[ours]), Route("/hello", show)]
    )

    send = asgi_sender(app)
    assert send("/admin/users")[0] == send("/admin/unknown")[0] == 401
    assert send("/admin/users", issued.authorization) == (200, "ci")
    assert send("/hello") == (200, "anonymous")


# --- the OpenAPI document


def test_the_document_shows_open_and_optional_paths(backend: Backend) -> None:
    app = FastAPI()
    other = APIKeyHeader(name="x-key")
    app.add_api_route("/api/x", hello)
    app.add_api_route("/elsewhere", hello)
    app.add_api_route("/plain", lambda: 1)
    app.add_api_route("/feed", hello)
    app.add_api_route("/feed/plain", lambda: 1)
    app.add_api_route("/feed/{name}", lambda name: name)
    app.add_api_route("/feed/with/scope", hello, dependencies=[for_fastapi.requires("read")])
    app.add_api_route("/feed/with/other", hello, dependencies=[Depends(other)])
    install(app, backend, settings=Settings(include=("/api/*",), optional=("/feed", "/feed/*")))

    paths = app.openapi()["paths"]
    assert json.dumps(app.openapi()["paths"]) == json.dumps(paths), "the same when it is made again"
    security = {path: item["get"].get("security") for path, item in paths.items()}
    assert security == {
        "/api/x": [{"HTTPBasic": []}],
        "/elsewhere": [],
        "/plain": None,
        "/feed": [{"HTTPBasic": []}, {}],
        "/feed/plain": [{"HTTPBasic": []}, {}],
        "/feed/{name}": [{"HTTPBasic": []}, {}],
        "/feed/with/scope": [{"HTTPBasic": ["read"]}],
        "/feed/with/other": [{"APIKeyHeader": [], "HTTPBasic": []}, {"APIKeyHeader": []}],
    }
    assert {"401", "403", "429", "503"} <= set(paths["/feed"]["get"]["responses"])
    assert not {"401", "403", "429", "503"} & set(paths["/plain"]["get"]["responses"])


def test_each_scheme_is_optional(backend: Backend) -> None:
    app = FastAPI()
    app.add_api_route("/feed", hello)
    install(app, backend, settings=Settings(optional=("/feed",), schemes=("bearer", "header:x-api-key")))

    security = app.openapi()["paths"]["/feed"]["get"]["security"]
    assert security == [{"HTTPBearer": []}, {"x-api-key": []}, {}]


def test_a_fastapi_dependency_on_an_optional_path(backend: Backend, issued: Issued) -> None:
    app = FastAPI()

    @app.get("/feed")
    def feed(caller: Annotated[Principal, for_fastapi.requires("read")]) -> str:
        return caller.client_id

    install(app, backend, settings=Settings(optional=("/feed",)))
    send = asgi_sender(app)
    assert send("/feed")[0] == 401
    assert send("/feed", issued.authorization) == (200, '"ci"')
