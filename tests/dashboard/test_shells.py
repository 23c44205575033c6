"""The dashboard behind its gate: who gets in, what a form must prove, and what each answer carries."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from basicauth_mw import Backend, ConfigurationError, Key, Settings, encode_basic, open_backend
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.dashboard import ADMIN_SCOPE, dashboard, wsgi_dashboard
from basicauth_mw.dashboard.listing import ROWS
from basicauth_mw.errors import BackendUnavailable, InvalidKey, UnreadableRecord
from basicauth_mw.keys.generated_secrets import generate
from tests.dashboard.conftest import BASE, SECRET, Visitor, hidden

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAGES = ["/", "/new", "/call", "/activity"]


# --- who gets in


@pytest.mark.proves("X46")
@pytest.mark.parametrize("path", [*PAGES, "/static/dashboard.css", "/nothing", ""])
def test_nobody_sees_anything_without_a_key(visitor: Callable[..., Visitor], path: str) -> None:
    answer = visitor(authorization="Basic eDp5").get(path)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic ")
    assert "basicauth-mw keys create" in answer.text
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert "sha256-" in answer.headers["content-security-policy"]


def test_a_program_gets_the_gates_own_json(visitor: Callable[..., Visitor]) -> None:
    answer = visitor(authorization="Basic eDp5").request("GET", "/", headers={"Accept": "*/*"})

    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_credentials")


@pytest.mark.proves("X46")
@pytest.mark.parametrize("setting", [{"exclude": ("/new", "/static/*")}, {"allow_preflight": True}], ids=str)
def test_no_setting_opens_it(visitor: Callable[..., Visitor], setting: dict[str, Any]) -> None:
    nobody = visitor(authorization="Basic eDp5", **setting)
    preflight = {"Origin": BASE, "Access-Control-Request-Method": "POST"}

    assert nobody.get("/new").status_code == 401
    assert nobody.get("/static/dashboard.js").status_code == 401
    assert nobody.request("OPTIONS", "/new", headers=preflight).status_code == 401


@pytest.mark.parametrize("path", [*PAGES, "/nothing"])
def test_without_the_scope_a_page_names_the_command(visitor: Callable[..., Visitor], path: str) -> None:
    answer = visitor("read").get(path)

    assert answer.status_code == 403
    assert f'basicauth-mw keys create --name "dashboard" --scope {ADMIN_SCOPE}' in answer.text
    assert "www-authenticate" not in answer.headers


def test_no_page_suggests_a_command_that_the_backend_refuses(
    visitor: Callable[..., Visitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = generate("sk")
    monkeypatch.setenv("BASICAUTH_KEYS", f"x:{secret}")
    fixed = open_backend("env:", settings=Settings())

    for status, given in ((403, secret), (401, "wrong")):
        answer = visitor(over=fixed, authorization=encode_basic("x", given)).get("/")
        assert answer.status_code == status
        assert "keys create" not in answer.text
        assert "BASICAUTH_KEYS" in answer.text
        assert ADMIN_SCOPE in answer.text


@pytest.mark.proves("X46")
def test_without_the_scope_nothing_is_written(visitor: Callable[..., Visitor], backend: Backend) -> None:
    form = visitor().form("/new")

    assert visitor("read").post("/new", {**form, "name": "sneaked"}).status_code == 403
    assert [key.name for key in backend.iter_keys()] == ["me", "me"]


def test_another_key_can_be_given(visitor: Callable[..., Visitor]) -> None:
    """A browser goes on sending what it was given, until it is asked anew."""
    refused = visitor("read").get("/switch")
    let_in = visitor().get("/switch")

    assert (refused.status_code, refused.headers["www-authenticate"][:5]) == (401, "Basic")
    assert (let_in.status_code, let_in.headers["location"]) == (303, "/")


def test_an_outage_is_told_to_a_browser_as_a_page(visitor: Callable[..., Visitor]) -> None:
    class Down:
        def get(self, client_id: str, /) -> None:
            raise BackendUnavailable("down")

    answer = visitor(over=Down()).get("/")

    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    assert "does not answer" in answer.text


# --- what every answer carries


@pytest.mark.proves("X48")
@pytest.mark.parametrize("path", [*PAGES, "/nothing"])
def test_every_page_is_kept_by_nobody_and_framed_by_nobody(admin: Visitor, path: str) -> None:
    answer = admin.get(path)

    policy = answer.headers["content-security-policy"]
    for part in (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ):
        assert part in policy.split("; ")
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert int(answer.headers["content-length"]) == len(answer.content)
    for inline in ("<style", "style=", "<script>", " onclick", "javascript:", "http://www", "https://"):
        assert inline not in answer.text


def test_static_files_are_kept_as_long_as_they_are_the_same(admin: Visitor) -> None:
    page = admin.get("/").text
    address = page.partition('rel="stylesheet" href="')[2].partition('"')[0]

    versioned, plain = admin.get(address), admin.get("/static/dashboard.css")

    assert versioned.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert plain.headers["cache-control"] == "no-store"
    assert versioned.headers["content-type"].startswith("text/css")
    for name in ("app.py", "../pages.py", "..%2fpages.py", "nothing.js", ""):
        assert admin.get(f"/static/{name}").status_code == 404
    assert admin.request("POST", "/static/dashboard.css").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/nothing", 404, None),
        ("GET", "/key", 404, None),
        ("GET", "/key/explode", 404, None),
        ("POST", "/", 405, "GET, HEAD"),
        ("PUT", "/new", 405, "GET, HEAD, POST"),
        ("DELETE", "/key", 405, "GET, HEAD"),
        ("POST", "/activity", 405, "GET, HEAD"),
    ],
)
def test_unknown_pages_and_methods(
    admin: Visitor, method: str, path: str, status: int, allowed: str | None
) -> None:
    answer = admin.request(method, path, headers={"Sec-Fetch-Site": "same-origin"})

    assert answer.status_code == status
    assert answer.headers.get("allow") == allowed
    assert 'href="/"' in answer.text


def test_head_is_get_without_a_body(admin: Visitor) -> None:
    for path in ("/", "/static/dashboard.css"):
        answer = admin.request("HEAD", path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["content-length"]) > 0


@pytest.mark.proves("X49")
def test_it_may_be_mounted_anywhere(visitor: Callable[..., Visitor]) -> None:
    """Every link, form and file is below the mount point, whatever it is called."""
    admin = visitor(root="/a b/keys")

    if admin.kind == "asgi":  # the other client sends no path without a slash
        assert admin.get("").headers["location"] == "/a%20b/keys/"
    page = admin.get("/").text
    links = [part.partition('"')[0] for part in page.split('href="')[1:]]
    assert links
    assert all(link.startswith(("/a%20b/keys/", "#")) for link in links)


# --- forms


@pytest.mark.proves("X45")
def test_a_form_needs_the_token_of_its_page(admin: Visitor, backend: Backend) -> None:
    form = {**admin.form("/new"), "name": "made", "expires": "never"}
    for token in ("", "x", "0..0", form["page_token"][:-1], form["page_token"].replace(".", "..", 1), "é"):
        assert admin.post("/new", {**form, "page_token": token}).status_code == 403
    assert len(list(backend.iter_keys())) == 1

    assert admin.post("/new", form).status_code == 200


@pytest.mark.proves("X45")
def test_a_token_is_good_for_one_page_one_key_and_one_principal(
    visitor: Callable[..., Visitor], backend: Backend
) -> None:
    admin, other = visitor(), visitor()
    for client_id in ("a", "b"):
        backend.create(client_id=client_id)
    form = admin.form("/key/disable", id="a")

    assert other.post("/key/disable", form).status_code == 403
    assert admin.post("/key/revoke", form).status_code == 403
    assert admin.post("/key/disable", {**form, "id": "b"}).status_code == 403
    assert [key.disabled for key in backend.iter_keys()] == [False] * 4
    assert admin.post("/key/disable", form).status_code == 303
    assert backend.get("a").disabled  # type: ignore[union-attr]


@pytest.mark.proves("X45")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, 200),  # what no-referrer makes of it
        ({"Origin": BASE}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": BASE}, 403),
        ({"Origin": "http://127.0.0.1:8001"}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "ftp://127.0.0.1:8000"}, 403),
        ({"Origin": ""}, 403),
        ({}, 403),
    ],
    ids=str,
)
def test_a_write_comes_from_here(
    admin: Visitor, backend: Backend, headers: dict[str, str], status: int
) -> None:
    """A right token does not help a form that another site has sent."""
    form = {**admin.form("/new"), "name": "made", "expires": "never"}

    answer = admin.request("POST", "/new", headers=headers, data=form)

    assert answer.status_code == status
    assert (len(list(backend.iter_keys())) == 2) == (status == 200)
    if status == 403:
        assert "Nothing was changed" in answer.text


def test_a_form_that_is_too_large_is_refused_unread(admin: Visitor, backend: Backend) -> None:
    answer = admin.create(name="x" * 70_000)

    assert answer.status_code == 413
    assert "64 KiB" in answer.text
    assert len(list(backend.iter_keys())) == 1


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b'{"name": "x"}', "application/json", 415),
        (b"name=x", "text/plain", 415),
        (b"name=x", "", 415),
        (b"name=%ff", "application/x-www-form-urlencoded", 400),
        (b"name=\xff", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"x=1" for _ in range(100)), "application/x-www-form-urlencoded", 400),
        (b"", "application/x-www-form-urlencoded; charset=utf-8", 403),
    ],
)
def test_what_is_no_form_of_ours(
    admin: Visitor, backend: Backend, content: bytes, content_type: str, status: int
) -> None:
    headers = {"Sec-Fetch-Site": "same-origin", "Content-Type": content_type}
    answer = admin.request("POST", "/new", headers=headers, content=content)

    assert answer.status_code == status
    assert "Nothing was changed" in answer.text
    assert len(list(backend.iter_keys())) == 1


@pytest.mark.parametrize("query", ["prefix=%ff", "&".join(["x=1"] * 100)])
def test_a_query_that_cannot_be_read(admin: Visitor, query: str) -> None:
    assert admin.request("GET", f"/?{query}").status_code == 400


def test_half_a_form_is_none(backend: Backend) -> None:
    """A client that goes away in the middle has sent nothing, in either form."""
    admin = backend.create(scopes=[ADMIN_SCOPE])
    app = dashboard(backend, settings=Settings())
    form = Visitor(app, "asgi", admin.authorization).form("/new")
    body = f"page_token={form['page_token']}&expires=never&name=half".encode()
    messages = [{"type": "http.request", "body": body, "more_body": True}, {"type": "http.disconnect"}]
    fields = {
        "authorization": admin.authorization,
        "sec-fetch-site": "same-origin",
        "content-type": "application/x-www-form-urlencoded",
    }
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/new",
        "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
    }
    sent: list[object] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: object) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent == []

    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/new",
        "HTTP_AUTHORIZATION": admin.authorization,
        "HTTP_SEC_FETCH_SITE": "same-origin",
        "CONTENT_TYPE": fields["content-type"],
        "CONTENT_LENGTH": str(len(body) + 1),
        "wsgi.input": io.BytesIO(body),
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
    }
    statuses: list[str] = []
    b"".join(wsgi_dashboard(backend, settings=Settings())(environ, lambda status, _: statuses.append(status)))
    assert statuses == ["403 Forbidden"]
    assert len(list(backend.iter_keys())) == 1


def test_a_form_that_lay_about_is_kept_and_sent_again(
    admin: Visitor, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was typed stands there with a fresh token; nothing was done meanwhile."""
    backend.create(client_id="ci")
    pages = {
        "/new": ({**admin.form("/new"), "name": "typed", "expires": "never"}, "typed"),
        "/key/rotate": ({**admin.form("/key/rotate", id="ci"), "overlap": "1h"}, 'value="1h" selected'),
        "/key/revoke": (admin.form("/key/revoke", id="ci"), "Revoke ci"),
        "/call": ({**admin.form("/call"), "method": "PUT", "path": "/typed"}, "/typed"),
    }
    before = backend.get("ci")
    now = time.time()
    site = admin.app._site
    site._clock = lambda: now + 3601

    for path, (form, typed) in pages.items():
        answer = admin.post(path, form)
        assert answer.status_code == 403, path
        assert "more than an hour" in answer.text
        assert typed in answer.text
        assert backend.get("ci") == before
        again = {**form, **hidden(answer.text)}
        assert again["page_token"] != form["page_token"]
        assert admin.post(path, again).status_code in (200, 303), path
        before = backend.get("ci")
    assert "typed" in [key.name for key in backend.iter_keys()]
    site._clock = lambda: now - 3601
    assert admin.post("/new", pages["/new"][0]).status_code == 403  # from the future


def test_tokens_are_the_same_in_every_process_and_end_with_the_secret(
    visitor: Callable[..., Visitor], backend: Backend
) -> None:
    """One worker makes the page, another takes the form; who rotates the secret takes its forms back."""
    issued = backend.create(client_id="boss", scopes=[ADMIN_SCOPE])
    first, second = (visitor(authorization=issued.authorization) for _ in range(2))

    assert second.post("/new", {**first.form("/new"), "expires": "never"}).status_code == 200
    renewed = visitor(authorization=backend.rotate("boss").authorization)
    assert renewed.post("/new", {**first.form("/new"), "expires": "never"}).status_code == 403


def test_chosen_secrets_work_as_well(visitor: Callable[..., Visitor], backend: Backend) -> None:
    issued = backend.create(client_id="boss", scopes=[ADMIN_SCOPE], secret="correct horse")
    admin = visitor(authorization=issued.authorization, pepper=("p",))

    assert admin.create(name="made").status_code == 200


# --- a read-only backend


def test_a_read_only_backend_has_no_button_that_cannot_work(
    visitor: Callable[..., Visitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEYS", '{"boss": {"secret": "hunter2", "scopes": ["basicauth:admin"]}}')
    keys = open_backend("env:SOME_KEYS", settings=Settings())
    admin = visitor(over=keys, authorization=encode_basic("boss", "hunter2"))

    for page in (admin.get("/"), admin.get("/key", id="boss")):
        assert page.status_code == 200
        for word in ("Create a key", "/new", "/key/", "<button class="):
            assert word not in page.text
    assert "read-only" in admin.get("/").text
    for path in ("/new", "/key/rotate", "/key/revoke"):
        assert admin.get(path, id="boss").status_code == 404
        assert admin.post(path, {"id": "boss"}).status_code == 404
    assert admin.get("/call").status_code == admin.get("/activity").status_code == 200


def test_a_backend_that_lists_nothing_still_finds(visitor: Callable[..., Visitor], backend: Backend) -> None:
    issued = backend.create(client_id="boss", scopes=[ADMIN_SCOPE])

    class Finds:
        volatile = True

        def get(self, client_id: str, /) -> Key | None:
            return backend.get(client_id)

    admin = visitor(over=Finds(), authorization=issued.authorization)

    assert "cannot list" in admin.get("/").text
    assert "cannot list" in admin.get("/activity").text
    assert "boss" in admin.get("/key", id="boss").text


# --- putting it up


def test_a_bad_configuration_is_told_when_it_is_made(tmp_path: Path) -> None:
    for make in (dashboard, wsgi_dashboard):
        with pytest.raises(ConfigurationError):
            make("nonsense:", settings=Settings())
        with pytest.raises(ConfigurationError, match="realm"):
            make("memory:", settings=Settings(), realmm="x")
        with pytest.raises(ConfigurationError, match="open_backend"):
            make(object(), settings=Settings())


def test_what_it_opens_it_closes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/keys.db"
    with open_backend(url, settings=Settings(), create=True) as backend:
        issued = backend.create(scopes=[ADMIN_SCOPE])

    for make, kind in ((dashboard, "asgi"), (wsgi_dashboard, "wsgi")):
        app = make(url, settings=Settings())
        assert Visitor(app, kind, issued.authorization).get("/").status_code == 200


def test_it_takes_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_KEYS", "x:y")

    assert dashboard() is not None


def things(backend: Backend, at: str = "/keys") -> FastAPI:
    """An app with the dashboard in it."""
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
    ids=["plain", "behind-a-prefix", "in-another", "in-another-behind-a-prefix", "with-a-parameter"],
)
def test_fastapi_tells_its_endpoints(backend: Backend, at: str, under: str, root: str) -> None:
    """With the paths that a browser has to ask for, wherever the app itself is."""
    app = things(backend, at)
    if under:
        outer = FastAPI()
        outer.mount(under, app)
        app = outer
    admin = Visitor(app, "asgi", backend.create(scopes=[ADMIN_SCOPE]).authorization, root)
    page = admin.get(f"{under}{at}/call").text

    assert f"POST {root}{under}/things/1 - Make a thing" in page
    assert f"{BASE}{root}{under}/things/1" in page


def test_an_app_that_cannot_tell_its_endpoints_loses_no_secret(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """The key is made when the page comes to the document: its secret has to be seen."""
    app = things(backend)
    app.openapi = lambda: 1 // 0  # type: ignore[method-assign]
    admin = Visitor(app, "asgi", backend.create(scopes=[ADMIN_SCOPE]).authorization)
    form = {**admin.form("/keys/new"), "expires": "never"}

    assert SECRET.search(admin.post("/keys/new", form).text)
    assert "No OpenAPI document" in admin.get("/keys/call").text
    assert "ZeroDivisionError" in caplog.text


def test_a_document_that_no_request_can_be_made_of_loses_no_secret(backend: Backend) -> None:
    kind = {"requestBody": {"content": {"a\r\nb: \ud800": {"example": "x"}}}}
    app = dashboard(backend, settings=Settings(), openapi={"paths": {"/x": {"post": kind}}})
    admin = Visitor(app, "asgi", backend.create(scopes=[ADMIN_SCOPE]).authorization)

    assert SECRET.search(admin.create().text)


def test_a_gate_round_it_may_leave_it_to_its_own(backend: Backend) -> None:
    """Then a browser that cannot sign in sees the page that says how to, on every path."""
    issued = backend.create(scopes=[ADMIN_SCOPE])
    excluded = ("/keys/", "/keys/*")
    app = BasicAuthMiddleware(things(backend), backend, settings=Settings(), exclude=excluded)
    nobody, admin = Visitor(app, "asgi", None), Visitor(app, "asgi", issued.authorization)

    for path in ("/keys/", "/keys/new", "/keys/static/dashboard.js"):
        assert admin.get(path).status_code == 200
        refused = nobody.get(path)
        assert refused.status_code == 401
        assert "basicauth-mw keys create" in refused.text
    assert nobody.get("/things/1").status_code == 401


def test_it_stands_beside_a_gate_that_hides_the_field(backend: Backend) -> None:
    api = things(backend)
    hiding = BasicAuthMiddleware(api, backend, settings=Settings(), strip_authorization=True)
    beside = dashboard(backend, settings=Settings(), openapi=api.openapi)
    app = Starlette(routes=[Mount("/keys", beside), Mount("/", hiding)])
    admin = Visitor(app, "asgi", backend.create(scopes=[ADMIN_SCOPE]).authorization)

    assert f"{BASE}/things/1" in admin.get("/keys/call").text
    assert admin.request("POST", "/things/1").status_code == 200


def test_flask_mounts_it(backend: Backend) -> None:
    from flask import Flask
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    app = Flask("app")
    mounted = {"/keys": wsgi_dashboard(backend, settings=Settings())}
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, mounted)  # type: ignore[method-assign]
    admin = Visitor(app, "wsgi", backend.create(scopes=[ADMIN_SCOPE]).authorization)

    assert admin.get("/keys").headers["location"] == "/keys/"
    assert "No OpenAPI document" in admin.get("/keys/call").text


def test_lifespan_and_websockets(backend: Backend) -> None:
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


def test_wsgi_works_in_a_process_that_was_forked(tmp_path: Path) -> None:
    """As by gunicorn's --preload and by uWSGI: no thread that was started with the app is there any more."""
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


def test_wsgi_works_beside_an_event_loop(backend: Backend) -> None:
    """Under gevent, one that another greenlet runs is in the same thread."""
    admin = Visitor(
        wsgi_dashboard(backend, settings=Settings()),
        "wsgi",
        backend.create(scopes=[ADMIN_SCOPE]).authorization,
    )

    async def ask() -> int:
        return admin.get("/").status_code

    assert asyncio.run(ask()) == 200


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


# --- a store that fails in the middle


class Faulty:
    """A store that works until it is told not to.

    Attributes:
        fails: Methods that raise.
    """

    volatile = True  # what it holds was hashed for this process

    def __init__(self, store: Any) -> None:
        self.store = store
        self.fails: dict[str, Exception] = {}

    def _do(self, name: str, *arguments: Any) -> Any:
        if exc := self.fails.get(name):
            raise exc
        return getattr(self.store, name)(*arguments)

    def get(self, client_id: str, /) -> Any:
        return self._do("get", client_id)

    def put(self, record: Key, /, expect_version: int | None) -> Any:
        return self._do("put", record, expect_version)

    def delete(self, client_id: str, /) -> Any:
        return self._do("delete", client_id)

    def scan(self, prefix: str, after: str, limit: int) -> Any:
        return self._do("scan", prefix, after, limit)

    def changes(self, since: str | None) -> Any:
        return self._do("changes", since)

    def close(self) -> None: ...


@pytest.fixture
def faulty(backend: Backend) -> Faulty:
    return Faulty(backend.store)


def test_an_outage_in_the_middle_is_told(visitor: Callable[..., Visitor], faulty: Faulty) -> None:
    """Nothing is half done: the key is as it was, and the page says where to look."""
    over = Backend(faulty, settings=Settings())
    over.create(client_id="ci")
    admin = visitor(over=over)
    before = over.get("ci")
    rotate, revoke, new = (
        admin.form("/key/rotate", id="ci"),
        admin.form("/key/revoke", id="ci"),
        admin.form("/new"),
    )
    faulty.fails = {"put": BackendUnavailable("canary")}

    for path, form in (
        ("/key/rotate", {**rotate, "overlap": "24h"}),
        ("/key/revoke", revoke),
        ("/new", {**new, "expires": "never"}),
    ):
        answer = admin.post(path, form)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert "whole or not at all" in answer.text
        assert "Look at the key" in answer.text
        assert "canary" not in answer.text
        assert not SECRET.search(answer.text)
    faulty.fails = {}
    assert over.get("ci") == before
    assert admin.post("/key/rotate", {**rotate, "overlap": "24h"}).status_code == 200


def test_an_outage_while_looking_is_told(visitor: Callable[..., Visitor], faulty: Faulty) -> None:
    admin = visitor(over=faulty)
    admin.get("/")
    faulty.fails = {"scan": BackendUnavailable("x"), "get": BackendUnavailable("x")}

    for path in ("/", "/activity", "/key?id=x"):
        answer = admin.request("GET", path)
        assert answer.status_code == 503
        assert "cannot be asked" in answer.text


def test_a_damaged_record_stands_in_the_list_and_can_be_deleted(
    visitor: Callable[..., Visitor], backend: Backend
) -> None:
    class Damaged(Faulty):
        def get(self, client_id: str, /) -> Any:
            if client_id == "b":
                raise UnreadableRecord("the record is damaged", client_id="b")
            return super().get(client_id)

        def scan(self, prefix: str, after: str, limit: int) -> Any:
            found = super().scan(prefix, after, limit)
            if any(key.client_id == "b" for key in found):
                raise UnreadableRecord("the record is damaged", client_id="b")
            return found

    for client_id in ("a", "b", "c", *(f"c{number:02}" for number in range(ROWS))):
        backend.create(client_id=client_id, name=f"name of {client_id}")
    admin = visitor(over=Damaged(backend.store))

    page = admin.get("/", prefix="").text
    assert page.index("name of a") < page.index("the record is damaged") < page.index("name of c")
    assert 'rel="next"' in page
    assert "the record is damaged" in admin.get("/", after="a", prefix="b").text
    for number in range(ROWS - 1):  # now it is the one behind the page
        backend.create(client_id=f"a{number:02}")
    page = admin.get("/").text
    assert 'rel="next"' in page
    assert "damaged" not in page
    assert "the record is damaged" in admin.get("/key", id="b").text
    assert admin.get("/key/rotate", id="b").text.count("<form") == 0
    assert admin.get("/activity").status_code == 200
    gone = admin.post("/key/delete", admin.form("/key/delete", id="b"))
    assert gone.status_code == 303
    assert backend.get("b") is None


def test_a_damaged_record_without_a_name_is_told(visitor: Callable[..., Visitor], faulty: Faulty) -> None:
    admin = visitor(over=faulty)
    faulty.fails = {"scan": UnreadableRecord("canary of the record")}

    answer = admin.get("/")

    assert answer.status_code == 500
    assert "cannot be read" in answer.text


def test_a_store_that_turns_out_to_be_read_only(visitor: Callable[..., Visitor], faulty: Faulty) -> None:
    from basicauth_mw.errors import ReadOnlyBackend

    admin = visitor(over=faulty)
    faulty.fails = {"put": ReadOnlyBackend("it is a replica")}

    answer = admin.create(name="x")

    assert answer.status_code == 409
    assert "it is a replica" in answer.text


def test_whatever_else_a_backend_will_not_do(
    admin: Visitor, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.create(client_id="ci")
    form = admin.form("/key/disable", id="ci")

    def refuse(_client_id: str, *, actor: str) -> None:
        raise InvalidKey("not on a Sunday")

    monkeypatch.setattr(backend, "disable", refuse)
    answer = admin.post("/key/disable", form)

    assert answer.status_code == 422
    assert "not on a Sunday" in answer.text


def test_the_audit_log_names_who_is_signed_in(
    admin: Visitor, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    (me,) = backend.iter_keys()
    caplog.set_level("INFO", "basicauth_mw.audit")

    admin.create(client_id="ci")
    admin.post("/key/rotate", {**admin.form("/key/rotate", id="ci"), "overlap": "0"})
    for act in ("disable", "enable", "revoke", "delete"):
        admin.post(f"/key/{act}", admin.form(f"/key/{act}", id="ci"))

    told = [each.__dict__["basicauth"] for each in caplog.records if each.name == "basicauth_mw.audit"]
    events = ("created", "rotated", "disabled", "enabled", "revoked", "deleted")
    assert [(each["event"], each["client_id"], each["actor"]) for each in told] == [
        (f"key.{event}", "ci", me.client_id) for event in events
    ]


def test_secrets_are_never_in_logs_or_addresses(admin: Visitor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    made = admin.create(name="x")
    (secret,) = {*SECRET.findall(made.text)}

    assert made.status_code == 200
    assert "location" not in made.headers
    assert secret not in caplog.text
    assert secret not in "".join(part.partition('"')[0] for part in made.text.split('href="'))
    assert secret not in "".join(part.partition('"')[0] for part in made.text.split('value="'))


def test_no_frame_of_an_unexpected_error_lists_the_credential(
    admin: Visitor, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Error monitors record the variables of each frame that an exception passes, and what is in mappings."""
    assert admin.authorization is not None
    form = {**admin.form("/new"), "expires": "never"}
    monkeypatch.setattr(backend, "create", lambda **_: 1 // 0)
    with pytest.raises(ZeroDivisionError) as raised:
        admin.post("/new", form)

    seen = 0
    for frame, _ in traceback.walk_tb(raised.tb):
        if "basicauth_mw/dashboard/" in frame.f_code.co_filename:
            for value in frame.f_locals.values():
                listed = repr(dict(value)) if isinstance(value, Mapping) else repr(value)
                assert admin.authorization not in listed
                seen += 1
    assert seen > 10


# --- counts


def test_what_is_refused_is_counted_and_shown(visitor: Callable[..., Visitor]) -> None:
    """Refusals of every gate in the process, and of an app that asks for a scope."""
    from basicauth_mw.auth.stats import refusal_stats
    from basicauth_mw.errors import InsufficientScope
    from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIBasicAuthMiddleware

    def lacking(_environ: object, _start: object) -> Any:
        raise InsufficientScope("x")

    before = refusal_stats.snapshot().totals
    admin = visitor()
    Visitor(admin.app, admin.kind, None).get("/")
    Visitor(admin.app, admin.kind, encode_basic("nobody", "x")).get("/")
    keys = open_backend("memory:", settings=Settings())
    Visitor(
        WSGIBasicAuthMiddleware(lacking, keys, settings=Settings()), "wsgi", keys.create().authorization
    ).get("/")
    totals = refusal_stats.snapshot().totals

    for reason in ("missing", "unknown", "insufficient_scope"):
        assert totals[reason] == before.get(reason, 0) + 1
        assert f"<code>{reason}</code>" in admin.get("/activity").text


# --- twice at once


@pytest.mark.parametrize(
    ("path", "query", "typed"),
    [("/new", {}, {"expires": "never"}), ("/key/rotate", {"id": "me"}, {"overlap": "24h"})],
    ids=["create", "rotate"],
)
def test_a_form_that_is_sent_twice_at_once_does_its_work_once(
    visitor: Callable[..., Visitor], backend: Backend, path: str, query: dict[str, str], typed: dict[str, str]
) -> None:
    """A double click, whichever workers it comes to: one secret is shown, and there is no other."""
    me = backend.create(client_id="me", scopes=[ADMIN_SCOPE]).authorization
    workers = [visitor(authorization=me) for _ in range(2)]
    form = {**workers[0].form(path, **query), **typed}
    both = threading.Barrier(2, timeout=20)

    def send(worker: Visitor) -> int:
        both.wait()
        return worker.post(path, form).status_code

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(send, workers)) == [200, 409]
    assert sum(len(key.secrets) for key in backend.iter_keys()) == 2


# --- what servers hand over


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"wsgi.input_terminated": True}, "200 OK"),
        ({"wsgi.input_terminated": True, "padding": 70_000}, "413 Request Entity Too Large"),
        ({}, "403 Forbidden"),
        ({"CONTENT_LENGTH": "many"}, "403 Forbidden"),
        ({"CONTENT_LENGTH": "99999999999999999999"}, "413 Request Entity Too Large"),
    ],
    ids=str,
)
def test_bodies_of_wsgi(backend: Backend, given: dict[str, Any], status: str) -> None:
    """With a length, in chunks that the server ends, or of no length that can be told."""
    admin = backend.create(scopes=[ADMIN_SCOPE])
    app = wsgi_dashboard(backend, settings=Settings())
    form = Visitor(app, "wsgi", admin.authorization).form("/new")
    body = urlencode({**form, "expires": "never", "name": "x" * given.pop("padding", 1)}).encode()
    statuses: list[str] = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/new",
        "HTTP_AUTHORIZATION": admin.authorization,
        "HTTP_SEC_FETCH_SITE": "same-origin",
        "CONTENT_TYPE": "application/x-www-form-urlencoded",
        "wsgi.input": io.BytesIO(body),
        **given,
    }
    b"".join(app(environ, lambda status, _: statuses.append(status)))

    assert [each.partition(" ")[0] for each in statuses] == [status.partition(" ")[0]]
