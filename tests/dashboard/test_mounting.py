"""The dashboard in ASGI and WSGI apps, its configuration and its extra."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from basicauth_mw import Backend, ConfigurationError, Settings, open_backend
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.dashboard import ADMIN_SCOPE, dashboard, wsgi_dashboard
from tests.dashboard.conftest import BASE, SECRET, Visitor

if TYPE_CHECKING:
    from pathlib import Path


def test_a_bad_configuration_raises_at_construction(tmp_path: Path) -> None:
    for make in (dashboard, wsgi_dashboard):
        with pytest.raises(ConfigurationError):
            make("nonsense:", settings=Settings())
        with pytest.raises(ConfigurationError, match="realm"):
            make("memory:", settings=Settings(), realmm="x")
        with pytest.raises(ConfigurationError, match="open_backend"):
            make(object(), settings=Settings())


def test_a_backend_from_a_url_works(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/keys.db"
    with open_backend(url, settings=Settings(), create=True) as backend:
        issued = backend.create(scopes=[ADMIN_SCOPE])

    for make, kind in ((dashboard, "asgi"), (wsgi_dashboard, "wsgi")):
        app = make(url, settings=Settings())
        assert Visitor(app, kind, issued.authorization).get("/").status_code == 200


def test_settings_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_KEYS", "x:y")

    assert dashboard() is not None


def app_with_dashboard(backend: Backend, at: str = "/keys") -> FastAPI:
    """An app with the dashboard inside."""
    app = FastAPI()

    @app.post("/things/{number}", summary="Make a thing")
    def make_thing(number: int) -> None: ...

    app.mount(at, dashboard(backend, settings=Settings()))
    return app


@pytest.mark.parametrize(
    ("at", "under", "root"),
    [
        ("/keys", "", ""),
        ("/keys", "", "/api"),
        ("/keys", "/sub", ""),
        ("/keys", "/sub", "/api"),
        ("/{who}/keys", "", "/api"),
    ],
    ids=["plain", "root-path", "nested", "nested-with-root-path", "with-a-parameter"],
)
def test_endpoints_come_from_the_fastapi_app(backend: Backend, at: str, under: str, root: str) -> None:
    """Their paths are those that a browser requests, wherever the app is mounted."""
    app = app_with_dashboard(backend, at)
    if under:
        outer = FastAPI()
        outer.mount(under, app)
        app = outer
    admin = Visitor(app, "asgi", backend.create(scopes=[ADMIN_SCOPE]).authorization, root)
    page = admin.get(f"{under}{at}/call").text

    assert f"POST {root}{under}/things/{{number}} - Make a thing" in page
    assert f"{BASE}{root}{under}/things/{{number}}" in page


def test_a_failing_openapi_function_does_not_hide_a_new_secret(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """The key already exists when the page reads the document: its secret must be shown."""
    app = app_with_dashboard(backend)
    app.openapi = lambda: 1 // 0  # type: ignore[method-assign]
    admin = Visitor(app, "asgi", backend.create(scopes=[ADMIN_SCOPE]).authorization)
    form = {**admin.form("/keys/new"), "expires": "never"}

    assert SECRET.search(admin.post("/keys/new", form).text)
    assert "No OpenAPI document" in admin.get("/keys/call").text
    assert "ZeroDivisionError" in caplog.text


def test_an_invalid_document_does_not_hide_a_new_secret(backend: Backend) -> None:
    kind = {"requestBody": {"content": {"a\r\nb: \ud800": {"example": "x"}}}}
    app = dashboard(backend, settings=Settings(), openapi={"paths": {"/x": {"post": kind}}})
    admin = Visitor(app, "asgi", backend.create(scopes=[ADMIN_SCOPE]).authorization)

    assert SECRET.search(admin.create().text)


def test_a_middleware_around_it_can_exclude_it(backend: Backend) -> None:
    """A browser without a key then sees the page that explains how to sign in, on every path."""
    issued = backend.create(scopes=[ADMIN_SCOPE])
    excluded = ("/keys/", "/keys/*")
    app = BasicAuthMiddleware(app_with_dashboard(backend), backend, settings=Settings(), exclude=excluded)
    anonymous, admin = Visitor(app, "asgi", None), Visitor(app, "asgi", issued.authorization)

    for path in ("/keys/", "/keys/new", "/keys/static/dashboard.js"):
        assert admin.get(path).status_code == 200
        refused = anonymous.get(path)
        assert refused.status_code == 401
        assert "basicauth-mw keys create" in refused.text
    assert anonymous.get("/things/1").status_code == 401


def test_it_works_next_to_a_middleware_that_strips_the_header(backend: Backend) -> None:
    api = app_with_dashboard(backend)
    hiding = BasicAuthMiddleware(api, backend, settings=Settings(), strip_authorization=True)
    mounted = dashboard(backend, settings=Settings(), openapi=api.openapi)
    app = Starlette(routes=[Mount("/keys", mounted), Mount("/", hiding)])
    admin = Visitor(app, "asgi", backend.create(scopes=[ADMIN_SCOPE]).authorization)

    assert f"{BASE}/things/{{number}}" in admin.get("/keys/call").text
    assert admin.request("POST", "/things/1").status_code == 200


def test_werkzeug_mounts_it(backend: Backend) -> None:
    from flask import Flask
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    app = Flask("app")
    mounted = {"/keys": wsgi_dashboard(backend, settings=Settings())}
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, mounted)  # type: ignore[method-assign]
    admin = Visitor(app, "wsgi", backend.create(scopes=[ADMIN_SCOPE]).authorization)

    assert admin.get("/keys").headers["location"] == "/keys/"
    assert "No OpenAPI document" in admin.get("/keys/call").text


def test_lifespan_messages_and_websockets(backend: Backend) -> None:
    app = dashboard(backend, settings=Settings())
    issued = backend.create(scopes=[ADMIN_SCOPE])
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    def receiving(*kinds: str) -> Any:
        left = list(kinds)

        async def receive() -> dict[str, Any]:
            return {"type": left.pop(0)}

        return receive

    asyncio.run(app({"type": "lifespan"}, receiving("lifespan.startup", "lifespan.shutdown"), send))
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    sent.clear()
    headers = [(b"authorization", issued.authorization.encode())]
    scope = {"type": "websocket", "path": "/", "headers": headers}
    asyncio.run(app(scope, receiving("websocket.connect"), send))
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_wsgi_works_after_a_fork(tmp_path: Path) -> None:
    """With gunicorn --preload and uWSGI, threads started with the app are gone."""
    url = f"sqlite:///{tmp_path}/keys.db"
    with open_backend(url, settings=Settings(), create=True) as backend:
        issued = backend.create(scopes=[ADMIN_SCOPE])
    code = (
        "import os, sys\n"
        "from basicauth_mw import Settings\n"
        "from basicauth_mw.dashboard import wsgi_dashboard\n"
        "from tests.dashboard.conftest import Visitor\n"
        f"visitor = Visitor(wsgi_dashboard({url!r}, settings=Settings()), 'wsgi', sys.argv[1])\n"
        "if os.fork() == 0:\n"
        "    os.write(1, str(visitor.get('/').status_code).encode())\n"
        "    os._exit(0)\n"
        "os.wait()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, issued.authorization],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout == "200"


def test_wsgi_works_inside_an_event_loop(backend: Backend) -> None:
    """Under gevent, another greenlet of the same thread may run one."""
    admin = Visitor(
        wsgi_dashboard(backend, settings=Settings()),
        "wsgi",
        backend.create(scopes=[ADMIN_SCOPE]).authorization,
    )

    async def request() -> int:
        return admin.get("/").status_code

    assert asyncio.run(request()) == 200


@pytest.mark.parametrize("missing", ["jinja2", "starlette"])
def test_a_missing_extra_is_named(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from basicauth_mw.errors import MissingExtra\n"
        "try: import basicauth_mw.dashboard\n"
        "except MissingExtra as exc: print(exc)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout == f"{missing} is not installed: run  pip install 'basicauth_mw[dashboard]'\n"
